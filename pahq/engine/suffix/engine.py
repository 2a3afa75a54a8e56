"""The suffix engine: the reference engine's losses from the part of the network behind the edge under test.

It relies on the order of visits (from the output down). Its exactness rests on four facts, each in a module of its own:
senders upstream of the receiver under test are clean, so removing one is one subtraction (``inputs``), only live and
changed nodes downstream are computed again (``wave``, by its plan in ``plans``), at the positions that still matter
(``state``), and what was added up step by step is computed anew once per layer (``rebase``). Trials that differ in
edges of one letter of one layer share a wave. See docs/engine.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.circuits.order import Stage
from pahq.engine.base import Trial
from pahq.engine.problem import Problem
from pahq.engine.reference import check_finite
from pahq.engine.suffix.ablated import AblatedProjections
from pahq.engine.suffix.budget import plan, with_recordings
from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.descent import Descent
from pahq.engine.suffix.finals import FinalLosses
from pahq.engine.suffix.graphs import Recorder, recorder
from pahq.engine.suffix.needs import NOWHERE
from pahq.engine.suffix.plans import Plans
from pahq.engine.suffix.rebase import rebase
from pahq.engine.suffix.recorded import Recordings, Round, Start
from pahq.engine.suffix.refocus import change_weights
from pahq.engine.suffix.state import State
from pahq.engine.suffix.trials import present_edges, started
from pahq.engine.suffix.wave import Wave
from pahq.engine.suffix.windows import hold_bytes, overhead, recording_bytes, widest_recording, widest_window
from pahq.errors import PahqError
from pahq.model.layerweights import LayerWeights
from pahq.model.memory import frugal, give_back, release
from pahq.precision.store import NO_FOCUS, Focus, focus_of


class SuffixEngine:
    """See ``pahq.engine.base.WindowEngine``; the losses are ``ReferenceEngine``'s.

    It holds the values of one stage at a time, under one focus. ``measure``, ``window`` and ``remove`` bring them to
    the stage and focus that they ask about. From a stage there is no way back to an earlier one, so that such a
    question is refused (``Descent``), as are edges of two stages or trials of two foci in one call. What a call
    computes is kept for the next ones: the trials measured last, whose state ``remove`` takes over; products, as far as
    memory goes. That makes losses cheaper and may change their rounding, never the state they are of.

    ``memory_bytes`` is a ceiling for weights, caches and windows together (PahqError if too low); ``beside`` bytes of
    it are somebody else's, and of the rest a ``share`` is this engine's. Without it the search takes at most what the
    reference would and 32 MiB (on a GPU an eighth of its memory) more, where that is possible at all. A window is
    bounded by ``rows`` of the residual stream and ``widest`` trials. Without ``positions`` every node is computed
    everywhere, without ``composites`` MLPs and logits from their whole input, without ``cheap_losses`` every loss from
    all logits. ``measured`` counts trials. ``record``: how rounds are recorded and replayed, where weights are tensors
    that stay as they are (``pahq.engine.suffix.recorded``); None: as CUDA graphs on a GPU; False, and under a
    ceiling: not at all.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        memory_bytes: int | None = None,
        share: float = 1.0,
        beside: int = 0,
        rows: int | None = None,
        widest: int = 64,
        positions: bool = True,
        composites: bool = True,
        cheap_losses: bool = True,
        record: Recorder | Literal[False] | None = None,
    ) -> None:
        if problem.focus in ("sender", "both"):
            raise PahqError(
                f"the suffix engine has no focus={problem.focus}; known: receiver, none (or engine=reference)"
            )
        self.problem = problem
        self.budget = plan(problem, memory_bytes, share, beside)
        self._rows, self._widest = rows, widest
        self._positions, self._keep_composites = positions, composites
        # a graph's memory is not counted closely enough to be held to a ceiling
        self._record, self._recorded_bytes = recorder(problem, record) if memory_bytes is None else None, 0
        if self._record is not None:
            self.budget, self._recorded_bytes = with_recordings(problem, self.budget)
        with torch.inference_mode(), frugal():  # tiles of the unembedding in float64
            self._finals = FinalLosses(problem, self.budget.tile, cheap=cheap_losses)
        self.measured = 0
        self._descent = Descent(problem.graph)
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        """Back to the whole graph and before the first stage: one clean forward."""
        budget, ends = self.budget, self.problem.store.ends
        self._focus: Focus = NO_FOCUS  # of the trial at hand
        self._state_focus: Focus = NO_FOCUS  # by which the state's values were computed
        holders = ("_wave", "_recordings", "_plans", "_ablated_values", "_state")
        for holder in holders:  # of all values of the search before
            release(self, holder)
        with frugal():  # the clean run's temporaries
            self._state = State(
                self.problem,
                lambda: self._state_focus,
                positions=self._positions,
                input_bytes=budget.input_bytes,
                gathered_bytes=budget.gathered_bytes,
                hold_differences=budget.difference_bytes > 0,
                hold_streams=budget.hold_streams,
            )
        self._plans = Plans(self._state)
        self._composites: Composites | None = None
        # a composite's product rounds other operands than the MLP's own
        if self._keep_composites and self.problem.store.products == "float32":
            self._composites = Composites(ends.config, capacity_bytes=budget.composite_bytes)
        self._finals.restart(budget.head_logits_bytes if self._keep_composites else None)
        self._loss = self._finals.whole(self._state, self._state.clean_final)
        self._drift = torch.zeros_like(self._loss)
        self._settled = len(self.graph.senders)
        self._descent.restart()
        self._open: list[Receiver] = []
        together = self.problem.focus == "none"
        self._ablated_values = AblatedProjections(self._state, self._weights, together=together)
        self._wave: Wave | Round | None = None
        self._recordings = None if self._record is None else self._new_recordings(self._record)
        self._answers: dict[frozenset[int], tuple[int, Tensor]] = {}

    @property
    def drift(self) -> float:
        """The largest difference that a loss had from its value computed anew, since the last ``reset``."""
        return float(self._drift)

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    @torch.inference_mode()
    def window(self, edge: int) -> int:
        """How many trials around ``edge`` may sensibly share a wave."""
        self._descent.check([edge])
        self._enter(edge)
        receiver = self.graph.edges[edge].receiver
        return widest_window(self.problem, self.budget, self._state, receiver, rows=self._rows, widest=self._widest)

    def overhead(self, edge: int) -> float:
        """See ``pahq.engine.base.CostlyRounds``."""
        return overhead(self.problem, self.budget, self._state, self.graph.edges[edge].receiver)

    @torch.inference_mode()
    def measure(self, trials: Sequence[Trial]) -> list[float]:
        """The loss of each trial. One device synchronisation for all of them."""
        return self._told(trials, self._losses_of)

    def _told(self, trials: Sequence[Trial], losses_of: Callable[[Sequence[Trial]], Tensor]) -> list[float]:
        """The losses that ``losses_of`` gives, in the stage and focus of the trials, and checked."""
        if not trials:
            return []
        self._descent.check_trials(trials, self.problem.focus)
        first, *_ = trials
        self._enter(first.edge)
        self.measured += len(trials)
        with frugal(when=not self.budget.hold_streams):  # where memory is short: the window's tensors
            values: list[float] = losses_of(trials).tolist()
        if self._finals.ask_again(values):
            self._loss = self._finals.current(self._state)  # was taken as they were
            return self._told(trials, losses_of)
        # only the first is sure to be of a state that comes about: the others stand behind guesses
        check_finite(self.problem, values[:1], trials[:1], lambda trial: present_edges(self._state, trial))
        return values

    @torch.inference_mode()
    def remove(self, edges: Sequence[int]) -> None:
        """Take edges of one stage away; the state of a trial just measured is taken over, not computed again."""
        chosen = frozenset(edges)
        if not chosen:
            return
        if chosen not in self._answers:
            self._descent.check(chosen)
            first, *_ = edges
            self._enter(first)
            if any(self._matters(receiver) for receiver, _ in groupby(self.graph.edges[at].receiver for at in edges)):
                self._evaluate([Trial(first, tuple(edges))])
        if chosen in self._answers:
            index, loss = self._answers[chosen]
            assert self._wave is not None
            self._wave.choose(index)
            self._loss = loss
        for edge in edges:
            self._state.take(edge)
        self._wave, self._answers = None, {}
        self._finals.moved()

    def _may_change(self, receiver: Receiver) -> bool:
        """Whether a wave of the stage at hand can start from the receiver."""
        return receiver in self._open or (self._descent.stage.direct and self._state.receiver_need(receiver) != NOWHERE)

    def _matters(self, receiver: Receiver) -> bool:
        """Whether removing an edge into the receiver can change anything: it is connected and online."""
        offline = receiver.kind == "head" and not self._state.online[receiver]
        return self._state.receiver_need(receiver) != NOWHERE and not offline

    # ---- stages: which receivers are being tested

    def _enter(self, edge: int) -> None:
        """Move on to the stage and focus of ``edge``."""
        for before, stage in self._descent.down_to(edge):
            for opened in self._open:
                self._state.close(opened)
            self._wave, self._answers, self._open = None, {}, []
            if (stage.kind, stage.layer) != (before.kind, before.layer):
                self._plans.stale()
            if not self.budget.hold_streams:  # where memory is short: what earlier waves left in the heap
                give_back()
            self._begin(stage, before)
        self._refocus(edge)

    def _begin(self, stage: Stage, before: Stage) -> None:
        """Settle which positions the stage's nodes still need, and open the receivers that are connected.

        ``before``: the stage that was left; the first one comes after itself.
        """
        self._ablated_values.stale()
        if stage.layer != before.layer:
            self._rebase(stage.layer)
        lowest = self.graph.upstream(stage.receivers[0])
        while self._settled > lowest:
            self._settled -= 1
            self._state.settle(self._settled)
        if stage.kind == "head" and (before.kind, before.layer) != ("head", stage.layer):
            self._state.enter(stage.layer)
        if self._recordings is not None:
            self._recordings.enter(stage.kind, stage.layer)
        if stage.direct:
            return
        for receiver in reversed(stage.receivers):  # changes are added up from the first head to the last
            if self._state.receiver_need(receiver) != NOWHERE and self._state.online.get(receiver, True):
                self._state.open(receiver)
                self._open.append(receiver)

    def _rebase(self, layer: int) -> None:
        """All layers above ``layer`` are decided: compute their current values anew, and note how far they drifted."""
        final = rebase(self._state, layer + 1)
        self._forget_products()
        loss = self._finals.whole(self._state, final)
        drift = (loss - self._loss).abs()
        self._drift = torch.maximum(self._drift, torch.where(drift.isfinite(), drift, 0.0))  # others were never used
        self._loss = loss

    def _weights(self, layer: int) -> LayerWeights:
        return self.problem.store.layer(layer, self._focus)

    # ---- trials

    def _losses_of(self, trials: Sequence[Trial]) -> Tensor:
        """Losses [trial] in float64, as ``measure`` tells them."""
        return self._evaluate(trials)

    def _evaluate(self, trials: Sequence[Trial]) -> Tensor:
        """Losses [trial] in float64; remembers the wave, so that ``remove`` can choose a trial of it."""
        if not any(trial.removed for trial in trials):
            return self._loss.expand(len(trials))
        self._wave, self._answers = None, {}  # before the next one is made
        replayed = self._replay(trials)
        if replayed is not None:
            losses, self._wave = replayed
        else:
            wave = self._new_wave(len(trials), self._descent.stage.receivers)
            losses, self._wave = self._carry(wave, trials), wave
        self._answers = {frozenset(trial.removed): (i, losses[i]) for i, trial in enumerate(trials)}
        return losses

    def _replay(self, trials: Sequence[Trial]) -> tuple[Tensor, Round] | None:
        """Losses of trials, and what chooses among them, by a recording; None where none serves, or is worth making."""
        recordings, stage = self._recordings, self._descent.stage
        if recordings is None or not any(map(self._may_change, stage.receivers)) or not recordings.wanted(len(trials)):
            return None
        start = Start(self._state, len(trials), self._weights, None, **self._room(len(trials), stage.receivers))
        final = self._start(start, trials)
        start.x = start.x if final is None else final
        return recordings.round(start)

    def _carry(self, wave: Wave, trials: Sequence[Trial]) -> Float[Tensor, " trial"]:
        """Losses of trials, whose changes ``wave`` carries on."""
        final = self._start(wave, trials)
        return self._loss.expand(len(trials)) if final is None else self._finals.of(wave, final).expand(len(trials))

    def _start(self, wave: Wave, trials: Sequence[Trial]) -> Float[Tensor, "trial batch some d_model"] | None:
        """Where a wave starts, and what comes of it: final streams, or None if no change arrives there."""
        return started(wave, self._descent.stage, self._open, trials, self._ablated)

    def _new_wave(self, trials: int, receivers: Sequence[Receiver] = ()) -> Wave:
        return Wave(self._state, trials, self._weights, self._composites, **self._room(trials, receivers))

    def _new_recordings(self, record: Recorder) -> Recordings:
        return Recordings(
            record,
            self._state,
            self._finals,
            lambda width: Wave(
                self._state, width, self._weights, None, **self._room(width, self._descent.stage.receivers)
            ),
            self._forget_products,
            lambda width: recording_bytes(self.problem, self.budget, self._state, self._descent.stage.receivers, width),
            lambda: widest_recording(self.problem, self._state, self._descent.stage.receivers),
            self._recorded_bytes,
        )

    def _forget_products(self) -> None:
        """The state changed, and what is kept beside it does not know of that."""
        if self._composites is not None:
            self._composites.stale()
        self._finals.stale()

    def _room(self, trials: int, receivers: Sequence[Receiver]) -> dict[str, Any]:
        """What every kind of wave is given: the stage's plans, and how much memory there is."""
        held = hold_bytes(self.problem, self.budget, self._state, trials, receivers)
        return {"plans": self._plans, "hold_bytes": held, "together": self.budget.together}

    def _ablated(self, receiver: Receiver) -> Tensor:
        """A projection's value in the ablated run, by the weights under the current focus, at its need."""
        return self._ablated_values.of(receiver, self._focus)

    # ---- mixed precision: the state follows the focus

    def _refocus(self, edge: int) -> None:
        """Bring the current state under the focus of ``edge``: one wave per layer whose heads change precision."""
        wanted = focus_of(self.graph, self.graph.edges[edge], self.problem.focus)
        changed = self._focus ^ wanted
        for layer in sorted({layer for layer, _ in changed}, reverse=True):
            before = self._weights(layer)
            self._focus = frozenset(at for at in self._focus if at[0] != layer) | {
                at for at in wanted if at[0] == layer
            }
            self._change_weights(layer, sorted(group for at, group in changed if at == layer), before)

    def _change_weights(self, layer: int, groups: Sequence[int], before: LayerWeights) -> None:
        self._wave, self._answers = None, {}  # before another wave takes as much room
        wave = self._new_wave(1)
        for sender in change_weights(wave, layer, groups, before, self._weights(layer), self._ablated):
            if self._composites is not None:
                self._composites.forget(sender)
            self._finals.forget(sender)
        final = wave.run()
        losses = None if final is None else self._finals.of(wave, final)
        wave.choose(0)
        self._state_focus = self._focus
        if losses is not None:
            (self._loss,) = losses
