"""Whether what a bundle claims holds, found out anew on this machine.

Of a search every test (or a seeded sample) is measured by the reference engine in float64, each in the state that the
journal had reached. If each falls as the journal says, the search that starts from the whole graph takes these very
decisions. Before that, and without any model, the journal must name the tests that the search would come to, in their
order; with ``audit=band`` it must have audited those that the band asks for. Scores are computed again. In the end the
circuit is judged on the fresh prompts once more.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pahq.cell.files import read_cell
from pahq.cell.journal import as_decision, read_journal
from pahq.cell.outcome import judge, losses, sizes
from pahq.cell.precheck import told_when_memory_ends
from pahq.cell.provenance import versions
from pahq.cell.result import Fresh, Result
from pahq.circuits.circuit import Circuit
from pahq.config.cell import CellConfig
from pahq.engine.problem import cell_problem
from pahq.errors import PahqError
from pahq.files.text import read_json
from pahq.model.sources.find import check_device, load_model
from pahq.model.weights import Model
from pahq.precision.levels import levels_digest
from pahq.tasks import build_task
from pahq.tasks.check import check_prompts
from pahq.tasks.task import Task
from pahq.verify.bundle import MODEL, PROMPTS, Bundle, laid_out, read_bundle
from pahq.verify.bundledprompts import alike, read
from pahq.verify.claimed import Claim
from pahq.verify.redecide import band_fault, order_fault, redecide
from pahq.verify.rescore import rescore

NEAR = 1e-4  # of a metric on fresh prompts, in its units or in proportion where it is above 1: float32 on two machines


@told_when_memory_ends()
def verify_bundle(
    path: str | Path,
    *,
    sample: int | None = None,
    seed: int = 0,
    model: str | Path | None = None,
    device: str = "cpu",
) -> Claim:
    """Decide a bundle's search again with the reference engine, or compute its scores again: whether the claim holds.

    ``sample``: so many tests, drawn by ``seed``, in place of all; the ``Claim`` says what that is sure of. ``model``:
    where the weights are (a folder, a name), if not where the cell had them; their sha256 is checked. Raises PahqError
    in one sentence for a file that is no whole bundle, and for other weights.
    """
    if sample is not None and (type(sample) is not int or sample < 1):
        raise PahqError(f"sample: a number of tests from 1 on was expected (got {sample!r})")
    if not isinstance(path, str | Path):
        raise PahqError(f"a bundle is a file; its path was expected, not {type(path).__name__}")
    check_device(device)
    found = read_bundle(Path(path))
    with laid_out(found) as (folder, result):
        cell = result.config
        network = _model(found, folder, cell, result, model, device)
        task, notes = _task(found, folder, cell, result, network)
        claim, circuit = _decided(folder, cell, result, network, task, sample, seed)
        claim = replace(claim, notes=notes)
        if claim.first is None:
            claim = replace(
                claim,
                first=_summary_fault(circuit, cell, result) or _fresh_fault(network, task, circuit, cell, result.fresh),
            )
        return claim


def _model(
    bundle: Bundle, folder: Path, cell: CellConfig, result: Result, given: str | Path | None, device: str
) -> Model:
    """The network, in the cell's dtype; PahqError unless its weights are those of the claim."""
    if bundle.has_model and given is not None:
        raise PahqError(f"{bundle.path} includes its model, so that none is to be given")
    place: str | Path = given or ((folder / MODEL[0]).parent if bundle.has_model else cell.model.source)
    try:
        model = load_model(place, device=device, revision=None if given or bundle.has_model else cell.model.revision)
    except PahqError as error:
        if bundle.has_model:
            raise PahqError(
                f"{bundle.path} is no whole bundle: of its model, {str(error).replace(f'{folder}/', '')}"
            ) from None
        raise PahqError(
            f"{error}; the bundle names its model by sha256 {result.model_digest[:12]}... (--model says where it is)"
        ) from None
    if model.digest != result.model_digest:
        where = f"{bundle.path}'s own model" if bundle.has_model else str(place)
        raise PahqError(
            f"{where} has weights of sha256 {model.digest[:12]}..., and the claim is of {result.model_digest[:12]}...; "
            "those were expected (--model says where they are)"
        )
    return model.to(dtype=getattr(torch, cell.engine.dtype))


def _task(bundle: Bundle, folder: Path, cell: CellConfig, result: Result, model: Model) -> tuple[Task, tuple[str, ...]]:
    """The bundle's prompts, and what there is to say of them; PahqError for such as no search can have had."""
    try:
        task = read(read_json(folder / PROMPTS))
        for prompts, metric in ((task.search, cell.task.metric), (task.fresh, task.metric)):
            check_prompts(model.config, prompts, metric=metric, ablation=cell.task.ablation)
        if len(task.search.clean) != cell.task.examples:  # before so many are drawn
            raise PahqError(f"it has {len(task.search.clean)} prompts where its task has {cell.task.examples} examples")
    except PahqError as error:
        raise PahqError(f"{bundle.path} is no whole bundle: {str(error).replace(f'{folder}/', '')}") from None
    asked = cell.task
    if asked.prompts is not None:
        asked = asked.model_copy(update={"prompts": str(folder / f"prompts{Path(asked.prompts).suffix.lower()}")})
    try:
        same = alike(task, build_task(asked, model, cell.seed))
    except PahqError as error:
        raise PahqError(
            f"{bundle.path}: its task cannot be set up here: {str(error).replace(f'{folder}/', '')}"
        ) from None
    if same:
        return task, ()
    ours = result.versions.model_dump() | {"python": ""} == versions() | {"python": ""}
    if asked.prompts is not None or ours:
        raise PahqError(
            f"{bundle.path} is no whole bundle: its prompts are not those of task {asked.name} and seed {cell.seed}"
        )
    note = f"pahq {versions()['pahq']} with torch {versions()['torch']} draws other prompts for task {asked.name}"
    return task, (f"{note}; the bundle's own were taken",)


def _decided(
    folder: Path, cell: CellConfig, result: Result, model: Model, task: Task, sample: int | None, seed: int
) -> tuple[Claim, Circuit]:
    circuit = Circuit.read(folder / "circuit.json")
    claim = Claim(
        name=result.id,
        kind="scores" if cell.method.scores else "search",
        tests=result.tests,
        kept=result.kept,
        edges=result.edges,
    )
    made = read_json(folder / "provenance.json")
    known = isinstance(made, dict) and made.get("model") == result.model_digest
    if read_cell(folder / "config.json") != cell or not known:
        return replace(claim, first="config.json and provenance.json are not of the result's cell"), circuit
    problem = cell_problem(cell, model, task.search, store="plain" if cell.method.scores else None)
    if problem.graph != circuit.graph:
        return replace(claim, first="the circuit is of another graph than the model's"), circuit
    if cell.precision.rounding == "calibrated" and result.levels != levels_digest(problem.changes or problem.store):
        claim = replace(claim, before="calibrated rounding chose other levels on this machine; ")
    if cell.method.scores:
        return rescore(claim, folder, cell, problem, sample, seed), circuit
    decisions = [as_decision(problem.graph, line) for line in read_journal(folder / "decisions.jsonl")]
    if result.certainty is None:
        return replace(claim, first="result.json says nothing of how certain the search's decisions are"), circuit
    fault = order_fault(problem.graph, cell, decisions) or band_fault(problem, cell, decisions)
    if fault is None and losses(cell, decisions) != result.search:
        fault = "result.json says of the search's losses what the journal does not"
    if fault is not None:
        return replace(claim, first=fault), circuit
    return redecide(claim, cell, model, problem, decisions, result.certainty, sample, seed), circuit


def _summary_fault(circuit: Circuit, cell: CellConfig, result: Result) -> str | None:
    for name, found in sizes(circuit, cell).items():
        if getattr(result, name) != found:
            return f"{name} of the circuit is {found}, the bundle says {getattr(result, name)}"
    return None


def _fresh_fault(model: Model, task: Task, circuit: Circuit, cell: CellConfig, said: Fresh) -> str | None:
    found = judge(model, task, circuit, cell)
    if said.faithfulness is not None:
        whole = said.clean - said.corrupted
        faithful = (said.value - said.corrupted) / whole if whole else float("nan")
        if not abs(faithful - said.faithfulness) <= 1e-9 * max(1.0, abs(faithful)):
            return f"faithfulness is {faithful} by the bundle's own figures, and it says {said.faithfulness}"
    for name in ("metric", "kl", "value", "clean", "corrupted"):
        here, there = getattr(found, name), getattr(said, name)
        same = here == there
        if not same and name != "metric":
            same = abs(here - there) <= NEAR * max(1.0, abs(there))
        if not same:
            return f"on fresh prompts {name} is {here}, the bundle says {there}"
    return None
