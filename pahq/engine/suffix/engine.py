"""The suffix engine: the reference engine's losses from the part of the network behind the edge under test.

It relies on the order of visits (from the output down). Its exactness rests on four facts, each in a module of its own:
senders upstream of the receiver under test are clean, so removing one is one subtraction (``inputs``), only live and
changed nodes downstream are computed again (``wave``), at the positions that still matter (``state``), and what was
added up step by step is computed anew once per layer (``rebase``). Trials that differ in edges of one letter of one
layer share a wave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.circuits.order import Stage, Visit, stage_numbers, stages
from pahq.engine.base import Trial
from pahq.engine.losses import KlLosses, Losses, PlainLosses, carefully, losses_for, rows_of
from pahq.engine.problem import Problem
from pahq.engine.reference import check_finite
from pahq.engine.suffix.budget import loss_rows, plan, trial_bytes
from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.headlogits import HeadLogits
from pahq.engine.suffix.inputs import project_inputs
from pahq.engine.suffix.rebase import rebase
from pahq.engine.suffix.refocus import change_weights
from pahq.engine.suffix.state import EVERYWHERE, NOWHERE, State, at_need
from pahq.engine.suffix.trials import addition_trials, direct_trials, stream_trials
from pahq.engine.suffix.wave import Wave
from pahq.errors import PahqError
from pahq.model.memory import frugal, give_back
from pahq.model.weights import LayerWeights
from pahq.precision.store import NO_FOCUS, Focus, focus_of


class SuffixEngine:
    """Same interface and losses as ``ReferenceEngine``; trials must follow the order of visits of ``pahq.search``.

    ``memory_bytes`` is a ceiling for weights, caches and windows together (PahqError if too low); ``beside`` bytes of
    it are somebody else's, and of the rest a ``share`` is this engine's. Without it the search takes at most what the
    reference would and 32 MiB (on a GPU half a GiB) more, where that is possible at all. A window is bounded by
    ``rows`` of the residual stream and ``widest`` trials. Without ``positions`` every node is computed everywhere,
    without ``composites`` MLPs and logits from their whole input, without ``cheap_losses`` every
    loss from all logits. ``measured`` counts trials.
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
    ) -> None:
        if problem.focus in ("sender", "both"):
            raise PahqError(
                f"the suffix engine has no focus={problem.focus}; known: receiver, none (or engine=reference)"
            )
        self.problem = problem
        self.budget = plan(problem, memory_bytes, share, beside)
        self._rows, self._widest = rows, widest
        self._positions, self._keep_composites = positions, composites
        self._items = rows_of(problem)[0]
        with torch.no_grad(), frugal():
            self._losses: Losses = losses_for(problem, self.budget.tile) if cheap_losses else PlainLosses(problem)
        self.measured = 0
        self._drift = torch.zeros((), dtype=torch.float64, device=problem.corrupted.final.device)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the whole graph: one clean forward."""
        budget, ends = self.budget, self.problem.store.ends
        self._focus: Focus = NO_FOCUS  # of the trial at hand
        self._state_focus: Focus = NO_FOCUS  # by which the state's values were computed
        self.__dict__.pop("_state", None)  # before the next one is made: two would be in memory
        with frugal():
            self._state = State(
                self.problem,
                lambda: self._state_focus,
                positions=self._positions,
                input_bytes=budget.input_bytes,
                hold_streams=budget.hold_streams,
            )
        self._composites = self._head_logits = None
        if isinstance(self._losses, KlLosses):
            self._losses.expect(0.0)  # the whole graph's loss is a small one
        if self._keep_composites:
            # a composite's product rounds other operands than the MLP's own
            if self.problem.store.config.products == "float32":
                self._composites = Composites(ends.config, capacity_bytes=budget.composite_bytes)
            if isinstance(self._losses, KlLosses) and not self._losses.careful:
                self._head_logits = HeadLogits(ends, capacity_bytes=budget.head_logits_bytes)
        self._loss = self._losses(self._at_items(self._state.clean_final))
        self._settled = len(self.graph.senders)
        self._stages, self._at = tuple(stages(self.graph)), -1
        self._stage_numbers = stage_numbers(self.graph)
        self._open: list[Receiver] = []
        self._ablated_values: dict[tuple[Receiver, Focus], Tensor] = {}  # of this stage
        self._wave: Wave | None = None
        self._answers: dict[frozenset[int], tuple[int, Tensor]] = {}

    @property
    def drift(self) -> float:
        """The largest difference that a loss had from its value computed anew, so far."""
        return float(self._drift)

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    @torch.no_grad()
    def window(self, edge: int) -> int:
        """How many trials around ``edge`` may sensibly share a wave: bounded by the rows that its receiver needs, and
        by memory for them and for the outputs of heads on their way."""
        self._enter(edge)
        state, need = self._state, self._wave_need(self.graph.edges[edge].receiver)
        rows, size = state.batch * (state.length if need == EVERYWHERE else 1), state.clean_final.element_size()
        if self._rows is not None:
            return max(1, min(self._widest, self._rows // rows))
        on_the_way = rows * size * state.config.d_model * sum(at == EVERYWHERE for at in state.need)
        fit = self.budget.window_bytes // (trial_bytes(state.config, loss_rows(self.problem, rows), size) + on_the_way)
        return max(1, min(self._widest, self.budget.rows // rows, fit))

    def _new_wave(self, trials: int) -> Wave:
        return Wave(self._state, trials, self._weights, self._composites, self._hold_bytes(trials))

    def _hold_bytes(self, trials: int) -> int:
        """What heads' outputs on their way may take beside so many trials; the rest is formed where it is read."""
        state = self._state
        rows, size = state.batch * state.length, state.clean_final.element_size()
        trial = trial_bytes(state.config, loss_rows(self.problem, rows), size)
        return max(0, self.budget.window_bytes - trials * trial)

    def _wave_need(self, receiver: Receiver) -> int:
        """Positions that a wave from this receiver computes: those its outputs are needed at."""
        outputs = self.graph.outputs(receiver)
        return max(self._state.need[i] for i in outputs) if outputs else self._state.receiver_need(receiver)

    @torch.no_grad()
    def measure(self, trials: Sequence[Trial]) -> list[float]:
        """The loss of each trial. One device synchronisation for all of them."""
        for trial in trials:
            self._enter(trial.edge)
        self.measured += len(trials)
        with self._saving():
            values: list[float] = self._evaluate(trials).tolist()
        if isinstance(self._losses, KlLosses) and self._losses.expect(min(values)):
            self._loss = self._losses(self._current_rows())  # too coarse as well
            return self.measure(trials)
        careful = None if all(map(math.isfinite, values)) else carefully(self._losses)
        if careful is None:
            # only the first is sure to be of a state that comes about: the others stand behind guesses
            check_finite(self.problem, values[:1], trials[:1], self._present)
            return values
        self._losses, self._head_logits = careful, None  # from here on: such changes seldom come alone
        self._loss = careful(self._current_rows())
        return self.measure(trials)

    def _current_rows(self) -> Tensor:
        """The current state's final residual stream where the metric reads."""
        return self._at_items(self._state.inputs[Receiver("logits")])

    def _present(self, trial: Trial) -> Tensor:
        """The edges that are there in a trial, as a mask over the graph's."""
        present = torch.ones(len(self.graph.edges), dtype=torch.bool)
        for receiver, senders in self._state.present.items():
            present[list(self.graph.incoming(receiver))] = torch.tensor(senders)
        gone = [self.graph.direct(receiver) for receiver, online in self._state.online.items() if not online]
        present[[edge for edge in gone if edge is not None] + list(trial.removed)] = False
        return present

    def _saving(self) -> AbstractContextManager[None]:
        """Where memory is short, what a window frees goes back at once; the heap would keep it, in holes."""
        return nullcontext() if self.budget.hold_streams else frugal()

    @torch.no_grad()
    def remove(self, edges: Sequence[int]) -> None:
        """Take edges away for good; the state of a trial just measured is taken over, not computed again."""
        chosen = frozenset(edges)
        if not chosen:
            return
        if chosen not in self._answers:
            self._enter(edges[0])
            if self._matters(edges[0]):
                self._evaluate([Trial(edges[0], tuple(edges))])
        if chosen in self._answers:
            index, loss = self._answers[chosen]
            assert self._wave is not None
            self._wave.choose(index)
            self._loss = loss
        for edge in edges:
            self._state.take(edge)
        self._wave, self._answers = None, {}
        if isinstance(self._losses, KlLosses):
            self._losses.moved()

    def _matters(self, edge: int) -> bool:
        """Whether removing this edge can change anything: its receiver is connected and online."""
        receiver = self.graph.edges[edge].receiver
        offline = receiver.kind == "head" and not self._state.online[receiver]
        return self._state.receiver_need(receiver) != NOWHERE and not offline

    # ---- stages: which receivers are being tested

    def _enter(self, edge: int) -> None:
        """Move on to the stage of ``edge``, through every stage on the way: resuming may skip whole stages."""
        tested = self.graph.edges[edge]
        wanted = self._stage_numbers[Visit(tested.receiver, tested.direct)]
        if wanted < self._at:
            raise PahqError(f"the suffix engine tests from the output down; {tested} comes before what was tested last")
        while self._at < wanted:
            for opened in self._open:
                self._state.close(opened)
            self._at += 1
            self._wave, self._answers, self._open = None, {}, []
            if not self.budget.hold_streams:  # memory is short: what earlier waves left in the heap is given back
                give_back()
            self._begin(self._stages[self._at])
        self._refocus(edge)

    def _begin(self, stage: Stage) -> None:
        """Settle which positions the stage's nodes still need, and open the receivers that are connected."""
        before = self._stages[self._at - 1] if self._at else stage
        self._ablated_values = {}
        if stage.layer != before.layer:
            self._rebase(stage.layer)
        lowest = self.graph.upstream(stage.receivers[0])
        while self._settled > lowest:
            self._settled -= 1
            self._state.settle(self._settled)
        if stage.kind == "head" and (before.kind, before.layer) != ("head", stage.layer):
            self._state.enter(stage.layer)
        if stage.direct:
            return
        for receiver in reversed(stage.receivers):  # changes are added up from the first head to the last
            if self._state.receiver_need(receiver) != NOWHERE and self._state.online.get(receiver, True):
                self._state.open(receiver)
                self._open.append(receiver)

    def _rebase(self, layer: int) -> None:
        """All layers above ``layer`` are decided: compute their current values anew, and note how far they drifted."""
        final = rebase(self._state, layer + 1)
        if self._composites is not None:
            self._composites.stale()
        if self._head_logits is not None:
            self._head_logits.stale()
        loss = self._losses(self._at_items(final))
        drift = (loss - self._loss).abs()
        self._drift = torch.maximum(self._drift, torch.where(drift.isfinite(), drift, 0.0))  # others were never used
        self._loss = loss

    def _weights(self, layer: int) -> LayerWeights:
        return self.problem.store.layer(layer, self._focus)

    # ---- trials

    def _evaluate(self, trials: Sequence[Trial]) -> Tensor:
        """Losses [trial] in float64; remembers the wave, so that ``remove`` can choose a trial of it."""
        stage = self._stages[self._at]
        if not any(trial.removed for trial in trials):
            return self._loss.expand(len(trials))
        self._wave, self._answers = None, {}  # before the next one is made: two would be in memory
        wave = self._new_wave(len(trials))
        if stage.kind == "head":
            if stage.direct:
                direct_trials(wave, stage.layer, trials, self._ablated)
            else:
                addition_trials(wave, stage.layer, self._open, trials)
            final = wave.run("heads", stage.layer)
        else:
            final = stream_trials(wave, stage.receivers[0], trials)
        losses = (
            self._loss.expand(len(trials)) if final is None else self._final_losses(final, wave).expand(len(trials))
        )
        self._wave = wave
        self._answers = {frozenset(trial.removed): (i, losses[i]) for i, trial in enumerate(trials)}
        return losses

    def _final_losses(self, final: Tensor, wave: Wave) -> Tensor:
        """Losses of new final streams [trial, batch, pos, d_model] by the cheapest exact way."""
        resid, kept = self._at_items(final), self._head_logits
        if kept is None:
            return self._losses(resid)
        assert isinstance(self._losses, KlLosses)
        changed = wave.heads_into_logits()
        if changed is None or not kept.worthwhile(changed):
            wave.write(lambda j: kept.stale())
            return self._losses(resid)
        heads = {sender: (self._at_items(z), output) for sender, (z, output) in changed.items()}
        current = self._at_items(self._state.inputs[Receiver("logits")])
        losses = self._losses.along(resid, lambda clean, mean: kept.change(clean, current, resid, heads, mean))
        wave.write(lambda j: kept.keep(heads, j))
        return losses

    def _at_items(self, values: Tensor) -> Tensor:
        """Rows that the metric reads, from tensors that hold all positions or the last one."""
        positions = self._items[:, 1] - self._state.first
        positions = positions if values.shape[-2] > 1 else torch.zeros_like(positions)
        return values[..., self._items[:, 0], positions, :]

    def _ablated(self, receiver: Receiver) -> Tensor:
        """A projection's value in the ablated run, by the weights under the current focus, at its need."""
        state, key = self._state, (receiver, self._focus)
        if key not in self._ablated_values:
            x = at_need(state.corrupted_stream(receiver), state.receiver_need(receiver))[None]
            self._ablated_values[key] = project_inputs(state, receiver, self._weights(receiver.layer), x)[0]
        return self._ablated_values[key]

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
        wave = self._new_wave(1)
        for sender in change_weights(wave, layer, groups, before, self._weights(layer), self._ablated):
            if self._composites is not None:
                self._composites.forget(sender)
            if self._head_logits is not None:
                self._head_logits.forget(sender)
        final = wave.run("heads", layer)
        loss = None if final is None else self._final_losses(final, wave)[0]
        wave.choose(0)
        self._state_focus = self._focus
        self._wave, self._answers = None, {}
        if loss is not None:
            self._loss = loss
