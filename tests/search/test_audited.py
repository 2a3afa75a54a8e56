"""Cells with audit=band: their results, their journals, going on after a kill, what is refused."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pahq.cell.files import cell_folder, read_result
from pahq.cell.journal import JournalLine, read_journal
from pahq.cell.result import BandAudit, Result
from pahq.cell.run import load, rerun, run_cell
from pahq.circuits.circuit import Circuit
from pahq.config.band import BandConfig
from pahq.config.cell import CellConfig, RunConfig, parse_config
from pahq.engine.problem import cell_problem
from pahq.errors import PahqError
from pahq.model.sources.modelfile import ModelFile
from pahq.precision.bits import bits_share
from pahq.search.acdc import Decision
from pahq.search.audited import audit_record
from pahq.search.band import Calibration, layers_of
from pahq.search.rounds import stages_of
from pahq.search.start import search

TASK = {"name": "r", "kind": "tracr-reverse", "examples": 6, "metric": "mse", "split_embed": True}
INT4 = {"name": "int4", "format": "int4", "scales": "row", "mlp": "bf16"}
EARLY = {"enough": 5, "near": 0.3, "first": 3, "confidence": 0.9, "hopeless": 1.0}


def make(engine: str = "reference", **changes: Any) -> CellConfig:
    values = {
        "task": TASK,
        "model": {"name": "tracr-reverse", "source": "tracr-reverse"},
        "method": {"name": "pahq", "focus": "receiver"},
        "precision": INT4,
        "engine": {"name": engine},
        "threshold": 0.01,
        "audit": "band",
        "band": EARLY,
    }
    return parse_config(values | changes)[0]


def run_in(root: Path, cell: CellConfig) -> Result:
    return run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False)).result


def band_of(result: Result) -> BandAudit:
    assert result.band is not None
    return result.band


def decided(folder: Path) -> list[tuple[object, ...]]:
    lines = read_journal(folder / "decisions.jsonl")
    return [(x.i, x.edge, x.before, x.after, x.removed, x.audited, x.low) for x in lines]


def test_settings_of_a_band_count_where_there_is_one() -> None:
    assert make().digest != make(band={**EARLY, "share": 0.5}).digest
    assert CellConfig(**json.loads(make().model_dump_json())) == make()
    plain = make(audit="none", band={})
    assert CellConfig(**plain.model_dump()).id == plain.id
    with pytest.raises(PahqError, match=r"the settings band\.\* belong to audit=band"):
        make(audit="none", band={"share": 0.5})


def test_acdc_has_nothing_to_audit() -> None:
    with pytest.raises(PahqError, match="audit=band decides again in full precision, and method acdc is full") as told:
        make(method={"name": "acdc"}, precision={"name": "float32", "format": "float32"})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("engine", ["reference", "suffix"])
def test_a_cell_tells_of_its_audit(tmp_path: Path, engine: str) -> None:
    cell = make(engine)
    values = run_in(tmp_path, cell)
    told = band_of(values)
    lines = read_journal(cell_folder(tmp_path, cell.id) / "decisions.jsonl")
    audited = [line for line in lines if line.audited]
    assert 0 < len(audited) < len(lines)
    assert (told.kind, told.tests, told.hopeless) == ("band", len(audited), False)
    assert told.share == len(audited) / len(lines)
    assert 0.125 < told.bits_share < 2
    assert values.certainty.noise < 1e-4
    assert values.search.start == lines[0].low[0] > lines[0].before  # type: ignore[index]
    problem, again = rerun(cell, "cpu")
    edges = problem.graph.edges
    assert [(str(edges[d.edge]), d.removed) for d in again] == [(line.edge, line.removed) for line in lines]


def test_the_band_of_a_cell_begins_anew_in_each_layer(tmp_path: Path) -> None:
    """Replayed by its journal alone: the tests that were audited are those within the band of their layer."""
    cell = make("suffix", band={"near": 1.0, "enough": 3, "share": 0.0, "hopeless": 1.0})
    told = band_of(run_in(tmp_path, cell))
    folder = cell_folder(tmp_path, cell.id)
    graph = Circuit.read(folder / "circuit.json").graph
    index = {str(edge): at for at, edge in enumerate(graph.edges)}
    known = Calibration(cell.band, cell.threshold, layer_of=layers_of(graph))
    flat = Calibration(cell.band, cell.threshold)  # one band for all layers
    differing = 0
    for line in read_journal(folder / "decisions.jsonl"):
        before, after = line.low or (line.before, line.after)
        measured = Decision(line.i, index[line.edge], before, after, line.removed)
        assert known.wants(measured) == line.audited
        differing += flat.wants(measured) != line.audited
        for one in (known, flat):
            one.note(Decision(line.i, index[line.edge], line.before, line.after, line.removed, line.audited, line.low))
    assert differing
    assert told.layers.tested == len(known.layers) > 1
    assert told.layers.calibrated == sum(count >= 3 for count in known.layers.values()) > 0


@pytest.mark.parametrize("hopeless", [1.0, 0.001])
def test_a_cut_journal_is_gone_on_with(tmp_path: Path, hopeless: float) -> None:
    cell = make(band={**EARLY, "hopeless": hopeless, "safety": 2.0 if hopeless == 1 else 1e9})
    whole = run_in(tmp_path / "whole", cell)
    finished, folder = cell_folder(tmp_path / "whole", cell.id), cell_folder(tmp_path / "cut", cell.id)
    assert band_of(whole).hopeless == (hopeless < 1)
    lines = (finished / "decisions.jsonl").read_bytes().splitlines(keepends=True)
    for length in (1, 4, 5, 6, 7, 9, len(lines) // 2, len(lines) - 1, len(lines)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "provenance.json"):
            (folder / name).write_bytes((finished / name).read_bytes())
        (folder / "decisions.jsonl").write_bytes(b"".join(lines[:length]))
        (folder / "result.json").unlink(missing_ok=True)
        result = run_in(tmp_path / "cut", cell)
        assert decided(folder) == decided(finished)
        assert result.certainty == read_result(finished).certainty


def test_a_hopeless_cell_is_acdcs(tmp_path: Path) -> None:
    audited = make("suffix", band={**EARLY, "hopeless": 0.001, "safety": 1e9})
    acdc = make("suffix", audit="none", band={}, method={"name": "acdc"}, precision={"name": "auto"})
    told = band_of(run_in(tmp_path, audited))
    run_in(tmp_path, acdc)
    assert told.hopeless
    assert (told.share, told.could_differ) == (1.0, 0.0)
    circuits = [Circuit.read(cell_folder(tmp_path, cell.id) / "circuit.json") for cell in (audited, acdc)]
    assert circuits[0] == circuits[1]


@pytest.mark.parametrize("arithmetic", ["network", "changes"])
@pytest.mark.parametrize("given_up", [False, True])
def test_the_bits_of_an_audit_count_what_each_network_did(arithmetic: str, given_up: bool) -> None:
    """Tests in low precision, up to where the format is given up; those in full; and passes that carry a state on."""
    method = {"name": "pahq", "focus": "receiver", "arithmetic": arithmetic} | (
        {"round": 3} if arithmetic == "changes" else {}
    )
    band = EARLY | ({"hopeless": 0.001, "least": 1e6, "enough": 0} if given_up else {"safety": 2.0})
    cell = make("suffix", method=method, band=band)
    model, task = load(cell, "cpu")
    problem, full = (cell_problem(cell, model, task.search, full=which) for which in (False, True))
    found = list(search(cell, problem, [], full=full))
    told = audit_record(cell, model, full, found, problem.format_error)
    assert told["hopeless"] == given_up
    low = found[: told["hopeless_at"] + 1] if given_up else found
    assert 0 < len(low) <= len(found)
    passes = 0
    if arithmetic == "changes":
        for _, members in groupby(low, key=lambda decision: stages_of(full.graph)(decision.edge)):
            tests = [decision.removed for decision in members]
            passes += sum(any(tests[first : first + 3]) for first in range(0, len(tests), 3))
        assert passes > 0
    assert told["bits_share"] == bits_share(
        model,
        cell.precision,
        low=len(low),
        focused=sum(full.graph.edges[decision.edge].receiver.kind == "head" for decision in low),
        full=sum(decision.audited for decision in found) + passes,
        tests=len(found),
    )


def test_a_journal_without_audit_looks_as_ever(tmp_path: Path) -> None:
    cell = make(audit="none", band={})
    run_in(tmp_path, cell)
    first = (cell_folder(tmp_path, cell.id) / "decisions.jsonl").read_text().splitlines()[0]
    assert list(json.loads(first)) == ["i", "edge", "before", "after", "removed", "seconds"]
    assert JournalLine(0, "a", 1.0, 2.0, True, 0.1).low is None
    assert BandConfig() == cell.band


def test_packed_weights_and_plain_ones_give_one_search(tmp_path: Path) -> None:
    """The packed store leaves the model in its file, from which the audit takes its full-precision network."""
    folders = []
    for store in ("plain", "packed"):
        run = RunConfig(root=str(tmp_path / store), wandb="disabled", progress=False, store=store)  # type: ignore[arg-type]
        folders.append(run_cell(make("suffix"), run).folder)
    assert decided(folders[0]) == decided(folders[1])
    plain, packed = (read_result(folder) for folder in folders)
    assert (plain.store, packed.store) == ("plain", "packed")
    assert plain.certainty == packed.certainty


@pytest.mark.parametrize("audit", ["band", "none"])
def test_the_full_model_is_loaded_once(audit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit's is what the circuit is judged by: a second copy might not fit a card."""
    loads: list[int] = []
    load_all = ModelFile.load
    monkeypatch.setattr(ModelFile, "load", lambda self: loads.append(1) or load_all(self))
    changes = {} if audit == "band" else {"audit": "none", "band": {}}
    found = run_in(tmp_path, make(**changes))
    assert (found.store, len(loads)) == ("packed", 1)
    assert found.model_digest
