"""How many trials may share a wave: as many as their rows and the budget's bytes allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pahq.circuits.graph import Receiver
from pahq.engine.problem import Problem
from pahq.engine.suffix.budget import Budget, loss_rows, trial_bytes
from pahq.engine.suffix.needs import EVERYWHERE, LAST, NOWHERE
from pahq.engine.suffix.state import State

# Rows of the residual stream in a recorded round. On an H200 rounds of 800 to 3,300 rows took 0.6 to 0.9 of their time
# when they were recorded, and rounds of 5,200 to 10,400 1.2 to 1.4; in TF32 5,200 took 0.9, and 10,400 1.2 (GPT-2's
# shape, benchmarks/results/card_rounds_h200.json).
RECORDED_ROWS = 4096
FORMED = 3  # tensors of d_model that all inputs of heads in a layer take while they are projected in one go
PROJECTIONS = 3  # tensors of a trial's projections that a recorded round holds for each input of heads in a layer


def widest_window(
    problem: Problem, budget: Budget, state: State, receiver: Receiver, *, rows: int | None, widest: int
) -> int:
    """Trials at ``receiver``: bounded by the rows that it needs, and by memory for them and for heads on their way.

    ``rows``: of the residual stream, in place of the budget's; memory is then no matter. ``widest``: trials at most.
    """
    of_trial = state.batch * (state.length if _wave_need(state, receiver) == EVERYWHERE else 1)
    if rows is not None:
        return max(1, min(widest, rows // of_trial))
    size = state.clean_final.element_size()
    on_the_way = size * state.config.d_model * state.batch * _slots(state, _wave_need(state, receiver))
    fit = budget.window_bytes // (trial_bytes(problem, loss_rows(problem, of_trial), size) + on_the_way)
    return max(1, min(widest, budget.rows // of_trial, fit))


def overhead(problem: Problem, budget: Budget, state: State, receiver: Receiver) -> float:
    """How many trials at ``receiver`` take as long as a round that measures none: 1 at least.

    By the multiplications of a trial that changes all that is alive, and of its loss, and by how many a device does
    while the host asks for a round's operations.
    """
    config = state.config
    rows = state.batch * (state.length if _wave_need(state, receiver) == EVERYWHERE else 1)
    alive = Counter(state.graph.senders[sender].kind for sender, need in enumerate(state.need) if need != NOWHERE)
    each = config.d_model * (
        4 * config.d_head * alive["head"] + (3 if config.gated else 2) * config.d_mlp * alive["mlp"]
    )
    loss = len(problem.reference) * config.d_model * problem.store.ends.W_U.shape[1]
    return max(1.0, budget.idle / (rows * each + loss))


def hold_bytes(problem: Problem, budget: Budget, state: State, trials: int, receivers: Sequence[Receiver] = ()) -> int:
    """What changes on their way may take beside so many trials, which start at ``receivers`` (none: anywhere)."""
    everywhere = any(_wave_need(state, receiver) == EVERYWHERE for receiver in receivers) or not receivers
    rows, size = state.batch * (state.length if everywhere else 1), state.clean_final.element_size()
    trial = trial_bytes(problem, loss_rows(problem, rows), size)
    return max(0, budget.window_bytes - trials * trial)


def widest_recording(problem: Problem, state: State, receivers: Sequence[Receiver]) -> int:
    """Of how many trials at ``receivers`` the host takes as long to launch a round as a GPU to compute it.

    More are no quicker when they are recorded, since a recording starts from all heads of a layer.
    """
    need = max(_wave_need(state, receiver) for receiver in receivers)
    rows = RECORDED_ROWS * (1 if problem.store.products == "float32" else 2)
    return rows // (state.batch * (state.length if need == EVERYWHERE else 1))


def recording_bytes(problem: Problem, budget: Budget, state: State, receivers: Sequence[Receiver], trials: int) -> int:
    """What a recorded round of so many trials holds, which starts from all ``receivers`` of a stage."""
    config, need = state.config, max(_wave_need(state, receiver) for receiver in receivers)
    rows, size = state.batch * (state.length if need == EVERYWHERE else 1), state.clean_final.element_size()
    held, inputs = state.batch * _slots(state, need) * config.d_model, config.heads + 2 * config.kv_heads
    formed = FORMED * size * min(budget.together, trials * inputs * rows * config.d_model)
    started = PROJECTIONS * inputs * state.batch * state.length * config.d_head
    return trials * (trial_bytes(problem, loss_rows(problem, rows), size) + size * (held + started)) + formed


def _slots(state: State, need: int) -> int:
    """Positions of a prompt that all changes of a wave hold together, at most (``Wave``)."""
    alive, everywhere = (sum(at >= least for at in state.need) for least in (LAST, EVERYWHERE))
    return alive + (everywhere * state.length if need == EVERYWHERE else 0)


def _wave_need(state: State, receiver: Receiver) -> int:
    """Positions that a wave from this receiver computes: those its outputs are needed at."""
    outputs = state.graph.outputs(receiver)
    return max(state.need[i] for i in outputs) if outputs else state.receiver_need(receiver)
