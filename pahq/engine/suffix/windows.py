"""How many trials may share a wave: as many as their rows and the budget's bytes allow."""

from __future__ import annotations

from pahq.circuits.graph import Receiver
from pahq.engine.problem import Problem
from pahq.engine.suffix.budget import Budget, loss_rows, trial_bytes
from pahq.engine.suffix.state import EVERYWHERE, State


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
    on_the_way = of_trial * size * state.config.d_model * sum(at == EVERYWHERE for at in state.need)
    fit = budget.window_bytes // (trial_bytes(state.config, loss_rows(problem, of_trial), size) + on_the_way)
    return max(1, min(widest, budget.rows // of_trial, fit))


def hold_bytes(problem: Problem, budget: Budget, state: State, trials: int) -> int:
    """What heads' outputs on their way may take beside so many trials; the rest is formed where it is read."""
    rows, size = state.batch * state.length, state.clean_final.element_size()
    trial = trial_bytes(state.config, loss_rows(problem, rows), size)
    return max(0, budget.window_bytes - trials * trial)


def _wave_need(state: State, receiver: Receiver) -> int:
    """Positions that a wave from this receiver computes: those its outputs are needed at."""
    outputs = state.graph.outputs(receiver)
    return max(state.need[i] for i in outputs) if outputs else state.receiver_need(receiver)
