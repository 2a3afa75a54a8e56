"""The library in three lines: a model, prompts of your own, a circuit.

model = pahq.load_model("nano")
prompts = pahq.prompts(model, clean=[...], corrupted=[...], answer=[...])
found = pahq.acdc(model, prompts, threshold=0.01)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pahq.cell import focus_on, start_search
from pahq.circuit import Circuit
from pahq.config import PrecisionConfig
from pahq.engine.problem import Problem, build_problem
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model.weights import Model
from pahq.search.acdc import Decision, circuit_of
from pahq.search.order import Order
from pahq.search.speculate import speculate
from pahq.search.sweep import sweep as sweep_thresholds
from pahq.tasks.encoder import encoder_of
from pahq.tasks.own import read_prompts
from pahq.tasks.task import Prompts, Task, last_items, stack_rows

__all__ = ["Found", "Setting", "acdc", "prompts", "read_prompts", "sweep"]


class Setting(TypedDict, total=False):
    """What is searched: metric (default kl), what absent edges carry, precision and focus.

    ``precision`` with ``focus="receiver"`` makes it PAHQ, ``precision`` alone RTN-Q.
    """

    metric: str
    ablation: Literal["corrupted", "zero", "mean"]
    precision: PrecisionConfig | None
    focus: str
    split_embed: bool
    direct_edges: bool


Text = Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[int]] | Tensor


@dataclass(frozen=True)
class Found:
    """A finished search: its circuit, and every decision in order."""

    circuit: Circuit
    decisions: tuple[Decision, ...]

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the kept edges, as ``a3.h2->a5.h1<q>``."""
        return self.circuit.edges


def prompts(
    model: Model,
    clean: Text,
    corrupted: Text,
    *,
    answer: Text | None = None,
    wrong: Text | None = None,
    bos: str | None = None,
) -> Prompts:
    """Prompt pairs of your own, read at the last position.

    Each prompt is text (words for models with a word-level vocabulary), a list of words, or a row of token ids.
    ``answer`` and ``wrong``, one token or id each (for models with a tokenizer with its space: `` Mary``), allow the
    metrics nll and logit_diff. ``bos``, a token's text, goes before prompts that are no ids. Raises PahqError naming
    the prompt whose length differs or whose word the model lacks. ``read_prompts`` takes them from a file.
    """
    pair = [_tokens(model, text, what, bos) for text, what in ((clean, "clean"), (corrupted, "corrupted"))]
    targets = {}
    for name, values in (("answer", answer), ("wrong", wrong)):
        if values is not None:
            targets[name] = _single(model, values, name, len(pair[0]))
    return Prompts(pair[0], pair[1], last_items(*pair[0].shape), targets)


def acdc(
    model: Model,
    task: Prompts | Task,
    threshold: float,
    *,
    absolute: bool = False,
    order: Order | None = None,
    engine: str = "suffix",
    progress: bool = True,
    **setting: Unpack[Setting],
) -> Found:
    """ACDC on a model and prompts (a task's search prompts), in the model's dtype on its device.

    ``setting``: see ``Setting``. Writes no file (``pahq.run_cell`` does, and resumes). Conmy et al. 2023, algorithm 1.
    """
    problem = problem_of(model, task, setting)
    search = start_search(engine, problem, order or Order(), threshold, absolute=absolute)
    decisions: list[Decision] = []
    kept = 0
    with tqdm(total=len(problem.graph.edges), unit="edge", disable=not progress) as bar:
        for decision in search:
            decisions.append(decision)
            kept += not decision.removed
            bar.set_postfix(kept=kept, refresh=False)
            bar.update()
    return Found(circuit_of(problem.graph, decisions), tuple(decisions))


def sweep(
    model: Model,
    task: Prompts | Task,
    thresholds: Sequence[float],
    *,
    absolute: bool = False,
    order: Order | None = None,
    progress: bool = True,
    **setting: Unpack[Setting],
) -> dict[float, Found]:
    """``acdc`` at many thresholds, by threshold; clean values and equal prefixes of decisions are computed once."""
    problem = problem_of(model, task, setting)
    graph, engine = problem.graph, SuffixEngine(problem)

    def start(threshold: float, done: Sequence[Decision]) -> Iterator[Decision]:
        engine.reset()
        focus = focus_on(problem)
        return speculate(engine, order or Order(), threshold, absolute=absolute, focus=focus, done=done)

    found = {}
    with tqdm(total=len(set(thresholds)), unit="threshold", disable=not progress) as bar:
        for swept in sweep_thresholds(start, thresholds, absolute=absolute):
            found[swept.threshold] = Found(circuit_of(graph, swept.decisions), swept.decisions)
            bar.update()
    return found


def problem_of(model: Model, task: Prompts | Task, setting: Setting) -> Problem:
    """What ``acdc`` searches; PahqError when model, prompts and setting do not fit each other."""
    with torch.no_grad():
        return build_problem(model, task.search if isinstance(task, Task) else task, **({"metric": "kl"} | setting))


def _tokens(model: Model, text: Text, what: str, bos: str | None) -> Tensor:
    if isinstance(text, Tensor):
        return text.long()
    rows: list[Any] = [row if isinstance(row, str) else list(row) for row in text]
    if rows and rows[0] and isinstance(rows[0][0], int):
        return stack_rows([[int(token) for token in row] for row in rows], what)
    words = [row if isinstance(row, str) else [str(word) for word in row] for row in rows]
    return encoder_of(model, what, bos=bos).batch(words, what)


def _single(model: Model, values: Text, what: str, count: int) -> Tensor:
    if isinstance(values, Tensor):
        tokens = values.long().flatten()
    else:
        plain: list[Any] = [value if isinstance(value, str | int) else value[0] for value in values]
        encoder = encoder_of(model, what) if any(isinstance(value, str) for value in plain) else None
        ids = [encoder.token(str(value), what, inside=True) if encoder else int(value) for value in plain]
        tokens = torch.tensor(ids)
    if len(tokens) != count:
        raise PahqError(f"{len(tokens)} values of {what} for {count} prompts; one word or token id each was expected")
    return tokens
