"""The library in three lines: a model, prompts of your own, a circuit.

model = pahq.load_model("nano")
prompts = pahq.prompts(model, clean=[...], corrupted=[...], answer=[...])
found = pahq.acdc(model, prompts, threshold=0.01)

Or, in place of the search, a number for every edge: ``pahq.score(model, prompts, method="eap-ig").top(50)``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Unpack

from torch import Tensor
from tqdm.auto import tqdm

from pahq.cell import run as cells
from pahq.cell.call import check_model, checked, problem_of, prompts_of
from pahq.cell.files import SearchResult
from pahq.cell.precheck import told_when_memory_ends
from pahq.circuits.circuit import Circuit
from pahq.circuits.order import Order
from pahq.circuits.scores import Scores
from pahq.circuits.svg import Drawing
from pahq.config.asked import Setting, thresholds_of
from pahq.config.cell import CellConfig, RunConfig
from pahq.config.method import LEARNED
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Resettable
from pahq.engine.problem import Problem, cell_problem
from pahq.errors import PahqError, unknown
from pahq.model.weights import Model
from pahq.report.library import draw, explorer
from pahq.scores.learned import Progress
from pahq.scores.start import score as score_edges
from pahq.search.acdc import Decision, circuit_of, margin
from pahq.search.doubt import Doubts
from pahq.search.progress import SearchBar
from pahq.search.start import build_engine, search_by, start_search
from pahq.search.sweep import sweep as sweep_thresholds
from pahq.search.twin import doubts_for, twin_engine
from pahq.tasks import own
from pahq.tasks.bos import missing_note
from pahq.tasks.check import check_answers_differ
from pahq.tasks.given import single_tokens, token_rows
from pahq.tasks.task import Prompts, Task, last_items

_log = logging.getLogger(__name__)
AUDITS = ("none", "band")  # of scores
__all__ = ["Found", "Setting", "acdc", "prompts", "read_prompts", "run_cell", "score", "sweep"]


# Arrays of numpy, or lists of tensors, will do as well: see pahq.tasks.given.
Text = Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[int]] | Sequence[Tensor] | Tensor


@dataclass(frozen=True, repr=False)
class Found:
    """A finished search: its circuit, every decision in order, and how far float noise reaches.

    ``certainty`` holds what ``certainty`` of a cell's result.json does (``pahq.search.doubt.Doubts.record``): the bound
    of an effect's error, how many tests float64 settled, and how many are at risk.
    """

    circuit: Circuit
    decisions: tuple[Decision, ...]
    certainty: Mapping[str, Any]

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of the kept edges, as ``a3.h2->a5.h1<q>``."""
        return self.circuit.edges

    def draw(self, out: str | Path | None = None) -> Drawing:
        """The circuit's picture, and in a file ``out`` too; ``pahq.draw`` takes more."""
        return draw(self, out)

    def _repr_svg_(self) -> str:
        return self.draw().svg

    def __repr__(self) -> str:
        graph, kept = self.circuit.graph, [one for one in self.decisions if not one.removed]
        strongest = sorted(kept, key=lambda one: -abs(one.effect))[:3]
        named = ", ".join(f"{graph.edges[one.edge]} {one.effect:.3g}" for one in strongest)
        first = f"Found {len(kept):,} of {len(graph.edges):,} edges in {len(self.decisions):,} tests"
        return f"{first}\nlargest effects: {named}" if kept else f"{first}\nno edge was kept"


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

    Each prompt is text (words for models with a word-level vocabulary), a list of words, or a row of token ids in a
    list or any array. ``answer`` and ``wrong``, one token or id each (for models with a tokenizer with its space:
    `` Mary``), allow the metrics nll and logit_diff. ``bos``, a token's text, goes before prompts that are no ids.
    Raises PahqError naming the prompt whose length differs or whose word the model lacks. ``read_prompts`` takes them
    from a file.
    """
    check_model(model)
    if bos is not None and not isinstance(bos, str):
        raise PahqError(f"bos: a token's text was expected, not {type(bos).__name__}")
    told = [token_rows(model, text, what, bos) for text, what in ((clean, "clean"), (corrupted, "corrupted"))]
    pair = [tokens for tokens, _ in told]
    targets = {}
    for name, values in (("answer", answer), ("wrong", wrong)):
        if values is not None:
            targets[name] = single_tokens(model, values, name, len(pair[0]))
    made = Prompts(pair[0], pair[1], last_items(*pair[0].shape), targets)
    check_answers_differ(made)
    _say(*dict.fromkeys(note for _, notes in told for note in notes))
    return made


def read_prompts(model: Model, path: str | Path, *, examples: int | None = None, bos: str | None = None) -> Task:
    """A file of prompts (CSV or JSONL: clean, corrupted, answer, perhaps wrong and split) as a task.

    Text is taken as it stands, so for models with a tokenizer an answer has its space: `` Mary``. The first half is
    searched on (or the first ``examples`` rows) and the rest is fresh, or as a column ``split`` (search, fresh) says.
    ``bos`` is the text of a token before every prompt. Without ``wrong`` the metrics are kl and nll, with it logit_diff
    too. Raises PahqError in one sentence, naming row and column: prompts that do not align, an answer of several
    tokens, a word that the model lacks.
    """
    check_model(model)
    task = own.read_prompts(model, path, examples=examples, bos=bos)
    _say(*(task.notes or missing_note(model, task.search.clean)))
    return task


@told_when_memory_ends()
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
    cell = checked(model, setting, threshold, absolute=absolute, order=order, engine=engine)
    problem = problem_of(model, task, cell, check=True)
    doubts = doubts_for(problem, cell.search_threshold, absolute=absolute)
    search = start_search(engine, problem, order or Order(), cell.search_threshold, absolute=absolute, judge=doubts)
    decisions: list[Decision] = []
    with SearchBar(problem.graph, order or Order(), kind=tqdm, disable=not progress) as bar:
        for decision in search:
            decisions.append(decision)
            bar.decided(decision.edge, decision.removed)
        bar.finish()
    return _found(problem, decisions, doubts)


@told_when_memory_ends()
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
    cells = [
        checked(model, setting, threshold, absolute=absolute, order=order) for threshold in thresholds_of(thresholds)
    ]
    problem = problem_of(model, task, cells[0], check=True)
    thresholds = sorted({cell.search_threshold for cell in cells})
    engine, judges = build_engine("suffix", problem), dict[float, Doubts]()
    made = cache(lambda: twin_engine(problem))  # once, if at all

    def twin() -> Resettable:
        found = made()
        found.reset()
        return found

    def start(threshold: float, done: Sequence[Decision], guesses: Mapping[int, bool]) -> Iterator[Decision]:
        engine.reset()
        judge = judges[threshold] = doubts_for(problem, threshold, absolute=absolute, twin=twin)
        for decision in done:
            judge.repeat(decision)
        begin = partial(search_by, engine, problem, order or Order(), threshold, absolute=absolute, judge=judge)
        return begin(done=done, guesses=guesses)

    def doubtful(decision: Decision, threshold: float) -> bool:
        away = margin(decision.effect, threshold, absolute=absolute)
        return decision.rough is None and not away > max(judge.bound(decision) for judge in judges.values())

    found = {}
    with tqdm(total=len(thresholds), unit="threshold", disable=not progress) as bar:
        for swept in sweep_thresholds(start, thresholds, absolute=absolute, doubtful=doubtful):
            found[swept.threshold] = _found(problem, swept.decisions, judges[swept.threshold])
            bar.update()
    return found


@told_when_memory_ends()
def score(
    model: Model,
    task: Prompts | Task,
    method: str = "eap-ig",
    *,
    metric: str | None = None,
    steps: int = 5,
    convention: str = "mean",
    ablation: Literal["corrupted", "zero", "mean"] = "corrupted",
    split_embed: bool = False,
    direct_edges: bool = False,
    precision: PrecisionConfig | str | None = None,
    focus: str = "none",
    batch_size: int | None = None,
    size: int | float | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    audit: str = "none",
    progress: bool = True,
) -> Scores:
    """A number for every edge, in place of a search: how much removing it raises the loss, exactly or to first order.

    ``method``: eap, eap-ig, eap-ig-activations, clean-corrupted (from gradients), exact (each edge alone removed from
    the whole graph), hisp (nodes from gradients), sp and edge-pruning (masks that are learnt), or random.
    ``metric``: logit_diff, or kl where masks are learnt, if not said. ``convention="eap-ig"`` gives the numbers of
    EAP-IG's own code. ``direct_edges`` scores the Direct edges too. ``batch_size``: prompts that gradients are computed
    of together at most. ``training``: settings of ``TrainingConfig``, as ``{"steps": 100}``; edge-pruning learns masks
    for circuits of a ``size``. ``audit="band"``: edges near the cut of a ``size`` are scored again in full precision
    (exact scores; ``Scores.audit`` says how many). ``seed``: of what is drawn. What each method computes and when to
    use it: docs/scores.md and docs/masks.md. ``Scores`` gives circuits by ``top``, ``threshold`` and ``greedy``.
    """
    if metric is None:
        metric = "kl" if method in LEARNED else "logit_diff"
    asked: Setting = {"metric": metric, "ablation": ablation, "split_embed": split_embed, "direct_edges": direct_edges}
    asked |= {"precision": precision, "focus": focus}
    if audit not in AUDITS:
        raise unknown("audit", audit, AUDITS)
    cell = checked(model, asked, 1.0)
    problem = problem_of(model, task, cell, check=True)
    if audit == "band" and cell.precision.is_full:
        raise PahqError("audit=band scores edges again in full precision, and that is what is asked for")
    full = cell_problem(cell, model, prompts_of(task), full=True) if audit == "band" else None
    exact = method == "exact"
    look: dict[str, Any] = {"unit": "edge", "total": len(problem.graph.edges)} if exact else {"unit": "step"}
    with tqdm(**look, disable=not progress or not (exact or method in LEARNED)) as bar:

        def report(done: Progress) -> None:
            bar.set_postfix(done.shown(metric), refresh=False)
            bar.update()

        return score_edges(
            problem,
            method,
            steps=steps,
            convention=convention,
            batch_size=batch_size,
            seed=seed,
            size=size,
            training=training,
            report=report,
            scored=bar.update,
            full=full,
        )


def run_cell(cell: CellConfig, run: RunConfig | None = None) -> SearchResult:
    """Run one cell to its end, or go on where it stopped, or return what is already there: its folder and its result.

    Raises PahqError, before any heavy work, for a model, task or device that cannot be had, and for a journal that
    another model or version left in the cell's folder; later only for a disk that is full.
    """
    return cells.run_cell(cell, run, explorer)


def _found(problem: Problem, decisions: Sequence[Decision], doubts: Doubts) -> Found:
    doubts.finish()
    return Found(circuit_of(problem.graph, decisions), tuple(decisions), doubts.record(decisions))


def _say(*notes: str) -> None:
    for note in notes:
        _log.warning("%s", note)
