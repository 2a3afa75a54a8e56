"""``pahq.stability``: a circuit's stability from Python, on a model and prompts, writing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from tqdm.auto import tqdm

from pahq.cell.call import checked, problem_of, prompts_of
from pahq.cell.precheck import told_when_memory_ends
from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.config.asked import Setting
from pahq.engine.problem import Problem
from pahq.errors import PahqError
from pahq.experiments.jobs import RESAMPLES
from pahq.model.weights import Model
from pahq.resamples.measures import Stability
from pahq.resamples.resample import draw, needs_copies, resample
from pahq.resamples.variants import (
    Variant,
    check_counts,
    order_variants,
    resample_variants,
    seed_variants,
)
from pahq.search.acdc import circuit_of
from pahq.search.likely import as_in
from pahq.search.start import start_search
from pahq.search.twin import doubts_for
from pahq.tasks.task import Prompts, Task


@told_when_memory_ends()
def stability(
    model: Model,
    task: Prompts | Task,
    threshold: float,
    *,
    n: int = RESAMPLES,
    seed: int = 0,
    orders: bool = True,
    others: Sequence[Prompts | Task] = (),
    absolute: bool = False,
    order: Order | None = None,
    engine: str = "suffix",
    progress: bool = True,
    **setting: Unpack[Setting],
) -> Stability:
    """``pahq.acdc`` again and again: on ``n`` resamples of the prompts, in other orders, on other prompts.

    A resample draws as many prompt pairs as there are, with replacement, by ``seed``. ``orders``: also search the
    prompts in the three other orders of heads and senders. ``others``: prompt sets of the same task, other seeds' say,
    each searched as it is. ``setting``: see ``Setting``. Raises PahqError for fewer than two resamples.
    """
    check_counts(n)
    cell = checked(model, setting, threshold, absolute=absolute, order=order, engine=engine, seed=seed)
    if isinstance(others, Prompts | Task | str) or not isinstance(others, Sequence):
        raise PahqError(f"others: a list of prompts or tasks was expected, not {type(others).__name__}")
    own, prompts, further = order or Order(), prompts_of(task), [prompts_of(other) for other in others]
    copies = needs_copies(cell.task.ablation, cell.precision)
    original = problem_of(model, prompts, cell, check=True)

    def problem(variant: Variant) -> Problem:
        if variant.kind == "orders":
            return original
        if variant.resample is not None:
            chosen = draw(len(prompts.clean), cell.seed, variant.resample)
            return problem_of(model, resample(prompts, chosen, copies=copies), cell)
        return problem_of(model, further[variant.seed - 1], cell)

    def search(on: Problem, by: Order, like: Circuit | None = None) -> Circuit:
        judge = doubts_for(on, cell.search_threshold, absolute=absolute)
        asked: dict[str, Any] = {"absolute": absolute, "judge": judge, "guesses": None if like is None else as_in(like)}
        return circuit_of(on.graph, start_search(engine, on, by, cell.search_threshold, **asked))

    variants = [*resample_variants(n, own), *(order_variants(own) if orders else ())]
    variants += seed_variants(len(further), own)
    kept: dict[str, dict[str, tuple[str, ...]]] = {}
    with tqdm(total=1 + len(variants), unit="search", disable=not progress) as bar:
        circuit = search(original, own)
        bar.update()
        for variant in variants:
            found = search(problem(variant), variant.order, circuit)
            kept.setdefault(variant.kind, {})[variant.name] = found.edges
            bar.update()
    return Stability.of(circuit, kept)
