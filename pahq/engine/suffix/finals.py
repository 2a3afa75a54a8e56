"""Losses of final residual streams, each by the cheapest way that is exact enough for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.losses import KlLosses, Losses, PlainLosses, carefully, losses_for, rows_of
from pahq.engine.problem import Problem
from pahq.engine.suffix.headlogits import HeadLogits
from pahq.engine.suffix.state import State
from pahq.engine.suffix.wave import Wave


class FinalLosses:
    """The losses of one engine's states and waves, which choose their way as the search goes.

    What heads alone changed is had from their z (``HeadLogits``), anything else from the whole stream. Divergences are
    taken coarsely while they are large (``KlLosses``). Once a loss was no finite number, all are taken by sums in which
    no exponential overflows (``carefully``), for good: such changes seldom come alone. Without ``cheap`` every loss is
    taken from all logits.
    """

    def __init__(self, problem: Problem, tile: int, *, cheap: bool) -> None:
        items, self._ends = rows_of(problem)[0], problem.store.ends
        self._items, batch = items, problem.corrupted.final.shape[0]
        self._every = torch.equal(items[:, 0].cpu(), torch.arange(batch))  # one row of each prompt, in order
        self._losses: Losses = losses_for(problem, tile) if cheap else PlainLosses(problem)
        self._head_logits: HeadLogits | None = None

    @property
    def coarse(self) -> bool:
        """Whether the next divergences are taken coarsely."""
        return isinstance(self._losses, KlLosses) and self._losses.coarse

    @property
    def way(self) -> tuple[int, bool]:
        """How losses are taken now, of those ways among which ``ask_again`` and ``moved`` change."""
        return id(self._losses), self.coarse

    def restart(self, head_logits_bytes: int | None) -> None:
        """For a state of the whole graph; None: every loss from the whole stream."""
        self._head_logits = None
        if isinstance(self._losses, KlLosses):
            self._losses.expect(0.0)  # the whole graph's loss is a small one
            if head_logits_bytes is not None and not self._losses.careful:
                self._head_logits = HeadLogits(self._ends, capacity_bytes=head_logits_bytes)

    def whole(self, state: State, final: Float[Tensor, "*trial batch some d_model"]) -> Float[Tensor, "*trial"]:
        """From whole final streams."""
        return self._losses(self.at_items(state, final))

    def current(self, state: State) -> Float[Tensor, ""]:
        """Of the current state, computed anew."""
        return self.whole(state, state.inputs[Receiver("logits")])

    def of(self, wave: Wave, final: Float[Tensor, "trial batch some d_model"]) -> Float[Tensor, "trial"]:
        """Of a wave's trials."""
        state, kept = wave.state, self._head_logits
        if kept is None:
            return self.whole(state, final)
        assert isinstance(self._losses, KlLosses)
        resid, changed = self.at_items(state, final), wave.heads_into_logits(kept.worthwhile)
        if changed is None:
            wave.write(lambda j: kept.stale())
            return self._losses(resid)
        heads = {sender: (self.at_items(state, z), output) for sender, (z, output) in changed.items()}
        current = self.at_items(state, state.inputs[Receiver("logits")])
        losses = self._losses.along(resid, lambda clean, mean: kept.change(clean, current, resid, heads, mean))
        wave.write(lambda j: kept.keep(heads, j))
        return losses

    def ask_again(self, values: Sequence[float]) -> bool:
        """Whether these losses were taken too coarsely, or overflowed; from here on they are taken better."""
        if isinstance(self._losses, KlLosses) and self._losses.expect(min(values)):
            return True
        careful = None if all(map(math.isfinite, values)) else carefully(self._losses)
        if careful is None:
            return False
        self._losses, self._head_logits = careful, None
        return True

    def moved(self) -> None:
        """The state is another, by edges that were removed."""
        if isinstance(self._losses, KlLosses):
            self._losses.moved()

    def stale(self) -> None:
        """The final stream of the state was computed anew."""
        if self._head_logits is not None:
            self._head_logits.stale()

    def forget(self, sender: int) -> None:
        """A head's W_O changed."""
        if self._head_logits is not None:
            self._head_logits.forget(sender)

    def at_items(self, state: State, values: Tensor) -> Tensor:
        """Rows that the metric reads, from tensors that hold all positions or the last one."""
        if values.shape[-2] > 1:
            return values[..., self._items[:, 0], self._items[:, 1] - state.first, :]
        last = values.squeeze(-2)
        return last if self._every else last.index_select(-2, self._items[:, 0])
