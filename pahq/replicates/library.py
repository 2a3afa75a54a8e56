"""``pahq.stability``: a circuit's stability from Python, on a model and prompts, writing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from tqdm.auto import tqdm

from pahq.api import Setting, problem_of
from pahq.cell import start_search
from pahq.circuit import Circuit
from pahq.engine.problem import Problem
from pahq.model.weights import Model
from pahq.replicates.measures import Stability
from pahq.replicates.resample import draw, needs_copies, resample
from pahq.replicates.variants import (
    REPLICATES,
    Variant,
    bootstrap_variants,
    check_counts,
    order_variants,
    seed_variants,
)
from pahq.search.acdc import circuit_of
from pahq.search.order import Order
from pahq.tasks.task import Prompts, Task


def stability(
    model: Model,
    task: Prompts | Task,
    threshold: float,
    *,
    n: int = REPLICATES,
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
    own, prompts = order or Order(), task.search if isinstance(task, Task) else task
    copies = needs_copies(setting.get("ablation", "corrupted"), setting.get("precision"))
    original = problem_of(model, prompts, setting)

    def problem(variant: Variant) -> Problem:
        if variant.kind == "orders":
            return original
        if variant.replicate is not None:
            chosen = draw(len(prompts.clean), seed, variant.replicate)
            return problem_of(model, resample(prompts, chosen, copies=copies), setting)
        return problem_of(model, others[variant.seed - 1], setting)

    def search(on: Problem, by: Order) -> Circuit:
        return circuit_of(on.graph, start_search(engine, on, by, threshold, absolute=absolute))

    variants = [*bootstrap_variants(n, own), *(order_variants(own) if orders else ())]
    variants += seed_variants(len(others), own)
    kept: dict[str, dict[str, tuple[str, ...]]] = {}
    with tqdm(total=1 + len(variants), unit="search", disable=not progress) as bar:
        circuit = search(original, own)
        bar.update()
        for variant in variants:
            kept.setdefault(variant.kind, {})[variant.name] = search(problem(variant), variant.order).edges
            bar.update()
    return Stability.of(circuit, kept)
