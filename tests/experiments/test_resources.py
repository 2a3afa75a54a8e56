"""What jobs ask for: estimates beside recorded runs, and what they do when something grows."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any, NamedTuple

import pytest
from support.places import ROOT

from pahq.circuits.graph import ModelShape, build_graph
from pahq.config.cell import CellConfig
from pahq.config.method import SCORING
from pahq.config.modelnames import models_folder
from pahq.config.presets import preset
from pahq.experiments.compose import compose_runs
from pahq.experiments.resources import MIB, Needs, Shape, estimate, needs, prompt_length, usual_search

SMOLLM2 = Shape(30, 9, 3, 576, 64, 1536, 49152, 49152, 8192, True, True, "rotary")
FASTER = {"AMD EPYC": 1.5}  # than the machine that the estimates are of, where a report was made on another
UNFIT = ("peak set by a shared process", "peak of the last run alone")  # notes on a record of memory


class Record(NamedTuple):
    """Cells that were measured together, their seconds on the machine that the estimates are of, and the peak in bytes
    where it is their own."""

    cells: list[CellConfig]
    seconds: float
    peak: float | None


@cache
def base(task: str) -> dict[str, Any]:
    return compose_runs([f"task={task}"])[0][0].model_dump()


@cache
def method_of(name: str) -> dict[str, Any]:
    return compose_runs(["task=nano-ioi", "task.metric=logit_diff", f"method={name}"])[0][0].method.model_dump()


def cell(task: str, method: str, precision: str, **changes: Any) -> CellConfig:
    values = base(task) | {"method": method_of(method), "precision": preset("precision", precision)}
    values |= {"threshold": None, "size": None, "band": {}} | {k: v for k, v in changes.items() if "." not in k}
    for key, value in ((key.split(".")[1], value) for key, value in changes.items() if "." in key):
        values["precision"] = values["precision"] | {key: value}
    if method in SCORING and task.endswith("ioi"):
        values["task"] = values["task"] | {"metric": "logit_diff"}
    return CellConfig(**values)


def shape(config: CellConfig) -> Shape:
    name = config.model.name
    if name == "smollm2":
        return SMOLLM2
    return Shape.of(json.loads((models_folder() / name / "config.json").read_text()))


def tables() -> Iterator[Record]:
    """The rows of the reference tables' costs: all thresholds of a method and precision on a task."""
    for folder in sorted((ROOT / "results" / "reference").iterdir()):
        machine = json.loads((folder / "PROVENANCE.json").read_text())["machine"]
        faster = FASTER.get(machine.split(",")[0], 1.0)
        thresholds: dict[tuple[str, ...], list[float]] = {}
        key = ("task", "method", "precision", "variant")
        with (folder / "tables" / "circuits.csv").open() as file:
            for row in csv.DictReader(file):
                if row["threshold"]:
                    thresholds.setdefault(tuple(row[k] for k in key), []).append(float(row["threshold"]))
        with (folder / "tables" / "cost.csv").open() as file:
            for row in csv.DictReader(file):
                if row["engine"] != "suffix" or row["method"] in SCORING:
                    continue
                changes = dict(word.split("=") for word in row["variant"].split())
                found = [
                    cell(row["task"], row["method"], row["precision"], threshold=value, **changes)
                    for value in thresholds[tuple(row[k] for k in key)]
                ]
                assert len(found) == int(row["thresholds"])
                own = not any(note in row["note"] for note in UNFIT)
                yield Record(found, faster * float(row["seconds"]), float(row["peak_mib"]) * MIB if own else None)


def benchmarks() -> Iterator[Record]:
    """Single searches of the benchmarks' records."""
    for name in ("smollm2_real", "products"):
        for row in json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]:
            if row["method"] in SCORING:
                continue
            changes = {f"precision.{key}": row[key] for key in ("rounding", "compute", "kernel") if key in row}
            changes |= {"audit": row["audit"], "threshold": row["threshold"]}
            found = cell(row["task"], row["method"], row["precision"], **changes)
            yield Record([found], row["seconds"], None if row["resumed"] else row["peak_bytes"])


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [*tables(), *benchmarks()]


def share_within(ratios: list[float], factor: float = 2.0) -> float:
    return sum(1 / factor <= ratio <= factor for ratio in ratios) / len(ratios)


def test_searches_seconds_are_mostly_within_a_factor_of_two_of_those_recorded(records: list[Record]) -> None:
    ratios = [sum(estimate(one, shape(one)).seconds for one in r.cells) / max(r.seconds, 1e-3) for r in records]
    assert len(ratios) > 200
    assert share_within(ratios) >= 0.9  # as docs/running.md says


def test_searches_memory_is_mostly_within_a_factor_of_two_of_that_recorded(records: list[Record]) -> None:
    measured = [(r, r.peak) for r in records if r.peak is not None]
    ratios = [max(estimate(one, shape(one)).bytes for one in r.cells) / peak for r, peak in measured]
    assert len(ratios) > 150
    assert share_within(ratios) >= 0.9


def random_weights() -> Iterator[tuple[Shape, int, float, float]]:
    """Searches on random weights in GPT-2's shape and others like it: shape, prompts, threshold, seconds."""
    folder = ROOT / "benchmarks" / "results"

    def like(layers: int, heads: int, vocabulary: int = 5003) -> Shape:
        wide = 64 * heads
        return Shape(layers, heads, heads, wide, 64, 4 * wide, vocabulary, vocabulary, 1024)

    for path in folder.glob("engine-*.json"):
        row = json.loads(path.read_text())
        said = row["settings"]
        yield like(said["layers"], 12, said["vocabulary"]), said["prompts"], row["threshold"], row["seconds"]
    for row in json.loads((folder / "audit_shape.json").read_text())["rows"]:
        yield like(12, 12), row["prompts"], row["threshold"], row["seconds"]["acdc"]
    scaling = json.loads((folder / "scaling.json").read_text())
    for row in (row for series in scaling["points"].values() for row in series):
        yield like(row["layers"], row["heads"]), row["prompts"], scaling["threshold"], row["seconds"]


def test_searches_on_random_weights_are_mostly_faster_than_estimated_as_the_page_says() -> None:
    ratios = []
    for found, prompts, threshold, seconds in random_weights():
        usual = cell("nano-ioi", "acdc", "float32", threshold=threshold)
        asked = usual.model_copy(update={"task": usual.task.model_copy(update={"examples": prompts})})
        ratios.append(estimate(asked, found).seconds / seconds)
    assert (len(ratios), round(median(ratios)), round(max(ratios))) == (39, 12, 49)
    assert sum(ratio < 1 for ratio in ratios) == 1
    assert min(ratios) > 1 / 1.5


@pytest.mark.parametrize("name", ["nano", "tracr-reverse"])
def test_a_shapes_edges_are_those_of_its_graph(name: str) -> None:
    found = Shape.of(json.loads((models_folder() / name / "config.json").read_text()))
    graph = build_graph(ModelShape(found.layers, found.heads, found.kv_heads, found.d_mlp > 0))
    assert (found.edges, found.senders) == (graph.n_addition, len(graph.senders))
    assert SMOLLM2.edges == 70651


def test_more_work_asks_for_more() -> None:
    nano = shape(small := cell("nano-ioi", "acdc", "float32", threshold=0.01))
    least = estimate(small, nano)
    many = small.model_copy(update={"task": small.task.model_copy(update={"examples": 160})})
    assert estimate(many, nano).seconds > 5 * least.seconds
    assert estimate(many, nano).bytes > least.bytes
    assert estimate(small, SMOLLM2).bytes > 10 * least.bytes
    lower = small.model_copy(update={"threshold": 1e-4})
    assert estimate(lower, nano).seconds > 2 * least.seconds
    slow = small.model_copy(update={"engine": small.engine.model_copy(update={"name": "reference"})})
    assert estimate(slow, nano).seconds > 50 * least.seconds
    none = small.model_copy(update={"threshold": 0.0})
    assert least.seconds < estimate(none, nano).seconds < 1e3
    audited = cell("nano-ioi", "pahq", "int8", threshold=0.01, audit="band")
    assert estimate(audited, nano).seconds > estimate(cell("nano-ioi", "pahq", "int8", threshold=0.01), nano).seconds


def test_a_model_s_usual_search_is_told_in_words_and_is_the_cell_s_own_estimate() -> None:
    nano = shape(asked := cell("nano-ioi", "acdc", "float32", threshold=0.01))
    found = usual_search(nano, 48)
    few = asked.model_copy(update={"task": asked.task.model_copy(update={"examples": 10})})
    assert (found.seconds, found.bytes) == (estimate(few, nano).seconds, estimate(few, nano).bytes)
    assert str(found).startswith("about 0.3 s and 38 MB beside Python's own 1.3 GB: ACDC in float32, threshold 0.01, ")
    short, larger = usual_search(nano, 5), usual_search(replace(SMOLLM2, layers=300), 8192)
    assert (short.tokens, found.tokens) == (5, 16)
    assert short.seconds < found.seconds
    assert re.match(r"about \d+ hours and \d\.?\d? GB beside", str(larger))


def test_every_method_has_an_estimate() -> None:
    for method in (*SCORING, "rtn-q", "pahq-changes"):
        precision = "int8" if method in ("rtn-q", "pahq-changes") else "float32"
        found = cell("nano-ioi", method, precision, **({"size": 50} if method in SCORING else {"threshold": 0.01}))
        assert estimate(found, shape(found)).seconds >= 0
        assert (method == "random") == (estimate(found, shape(found)).seconds == 0)


def test_a_further_attempt_asks_for_so_many_times_as_much() -> None:
    found = cell("nano-ioi", "acdc", "float32", threshold=0.01)
    first = needs([(found, shape(found))])
    assert first.memory_mb == pytest.approx(1200 + 1.5 * estimate(found, shape(found)).bytes / MIB, abs=1)
    second = needs([(found, shape(found))] * 40, attempt=2)
    assert second.memory_mb == pytest.approx(2 * first.memory_mb, abs=2)
    assert second.minutes > 2 * first.minutes
    assert needs([(found, shape(found))], searches=500).minutes > first.minutes
    assert needs([]) == Needs(1200, 10)


def test_prompts_of_ones_own_are_as_long_as_the_longest(tmp_path: Any) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("clean,corrupted,answer,wrong\n" + "a b,a c, d, e\n" + f"{'x' * 300},{'y' * 300}, d, e\n")
    own = compose_runs(["task=own", f"task.prompts={path}", "model=nano"])[0][0]
    assert prompt_length(own) == 102
