"""Configurations: what makes a cell the same cell, and how bad input is told."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pahq.config.band import BANDS, BandConfig
from pahq.config.cell import CellConfig, EngineConfig, RunConfig, parse_config
from pahq.config.method import MethodConfig
from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError, unknown

CHANGES = {"name": "pahq", "focus": "receiver", "arithmetic": "changes"}


def composed(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": {"name": "nano-ioi", "kind": "ioi", "examples": 8, "metric": "kl"},
        "model": {"name": "nano", "source": "nano"},
        "method": {"name": "acdc"},
        "precision": {"name": "auto"},
        "threshold": 0.01,
    }
    for place, value in changes.items():
        *groups, last = place.split("__")
        target = values
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = value
    return values


def cell(**changes: Any) -> CellConfig:
    return parse_config(composed(**changes))[0]


def test_the_address_is_readable_and_a_function_of_the_cell() -> None:
    one = cell()
    assert one.id == f"nano-ioi/acdc-float32-t0.01-{one.digest}"
    assert len(one.digest) == 16
    assert set(one.digest) <= set("0123456789abcdef")
    typed_differently = [
        cell(threshold="1e-2"),
        cell(seed="0"),
        cell(engine=EngineConfig().model_dump()),
        cell(task__examples="8"),
    ]
    assert {other.id for other in typed_differently} == {one.id}
    assert CellConfig(**json.loads(json.dumps(one.model_dump(mode="json")))) == one


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.02},
        {"seed": 1},
        {"task__examples": 9},
        {"task__ablation": "zero"},
        {"method__order": "ascending"},
        {"method__senders": "farthest"},
        {"method__direct_edges": False},
        {"method__absolute": True},
        {"engine__dtype": "float64"},
        {"model__revision": "0" * 40},
        {"method__name": "rtn-q"},
    ],
)
def test_whatever_decides_the_result_changes_the_address(change: dict[str, Any]) -> None:
    assert cell(**change).digest != cell().digest


def test_another_schedule_is_another_cell() -> None:
    pahq = {"name": "pahq", "focus": "receiver"}
    usual, serial = cell(method=pahq), cell(method=pahq, engine__schedule="serial")
    assert usual == cell(method=pahq, engine__schedule="overlapped")
    assert usual.digest != serial.digest


@pytest.mark.parametrize("key", ["cache", "compute"])
def test_fewer_bits_are_another_cell(key: str) -> None:
    usual, low = (cell(method__name="rtn-q", precision={"name": "auto", key: value}) for value in ("float32", "bf16"))
    assert usual == cell(method__name="rtn-q")
    assert low.model_dump()["precision"] == usual.model_dump()["precision"] | {key: "bf16"}
    assert usual.digest != low.digest
    with pytest.raises(PahqError, match="acdc is full precision"):
        cell(precision={"name": "auto", key: "bf16"})


def test_products_in_8_bits_need_weights_in_them_and_codes_need_such_products() -> None:
    def made(**precision: str) -> CellConfig:
        return cell(method__name="rtn-q", precision={"name": "x", "mlp": "bf16", **precision})

    unpack, codes = (made(format="int8", compute="int8", kernel=kernel) for kernel in ("unpack", "codes"))
    assert codes.model_dump()["precision"]["kernel"] == "codes"
    assert len({unpack.digest, codes.digest, made(format="int8").digest}) == 3
    with pytest.raises(PahqError, match=r"compute=fp8 .* of that format, and precision\.format is int8"):
        made(format="int8", compute="fp8")
    with pytest.raises(PahqError, match="compute=fp8 needs scales row or head, not 'none'"):
        made(format="fp8", compute="fp8", scales="none")
    with pytest.raises(PahqError, match=r"unknown key 'precision\.bogus'"):
        cell(method__name="rtn-q", precision={"name": "auto", "bogus": "1"})
    with pytest.raises(PahqError, match="kernel=codes needs compute=fp8 or int8, not bf16"):
        made(format="int8", compute="bf16", kernel="codes")


def test_calibrated_rounding_needs_a_format_with_levels() -> None:
    def made(**precision: str) -> CellConfig:
        return cell(method__name="rtn-q", precision={"name": "x", "mlp": "bf16", **precision})

    nearest, calibrated = (made(format="fp8", rounding=rounding) for rounding in ("nearest", "calibrated"))
    assert nearest.digest == made(format="fp8").digest
    assert calibrated.digest != nearest.digest
    assert cell(method__name="rtn-q", precision={"name": "auto", "rounding": "calibrated"}).precision.format == "int8"
    with pytest.raises(PahqError, match=r"needs a format among fp8, int8, int4, int4s, nf4, not bf16"):
        made(format="bf16", rounding="calibrated")
    with pytest.raises(PahqError, match=r"rounding=calibrated needs a format among .*, not float32"):
        cell(precision={"name": "auto", "rounding": "calibrated"})


def test_where_it_runs_does_not_change_the_address() -> None:
    one, run = parse_config(composed(run={"root": "/elsewhere", "device": "cuda", "threads": 4}, wandb="offline"))
    assert one.id == cell().id
    assert (run.root, run.device, run.threads, run.wandb) == ("/elsewhere", "cuda", 4, "offline")
    assert parse_config(composed())[1] == RunConfig()


def test_auto_precision_is_settled_by_the_method() -> None:
    acdc = cell().precision
    assert (acdc.name, acdc.format, acdc.scales, acdc.mlp) == ("float32", "float32", "row", "float32")
    for method in ({"name": "rtn-q"}, {"name": "pahq", "focus": "receiver"}):
        settled = cell(method=method).precision
        assert (settled.name, settled.format, settled.scales, settled.mlp) == ("int8", "int8", "row", "bf16")


def test_auto_precision_is_settled_for_values_as_for_mappings() -> None:
    values = composed() | {"method": MethodConfig(name="rtn-q"), "precision": PrecisionConfig(name="auto")}
    assert CellConfig(**values) == cell(method={"name": "rtn-q"})


def test_a_named_precision_stays_as_it_is() -> None:
    precision = {"name": "fp8-head", "format": "fp8", "scales": "head", "mlp": "bf16"}
    assert cell(method={"name": "rtn-q"}, precision=precision).precision == PrecisionConfig(**precision)


def test_the_arithmetic_of_the_network_leaves_addresses_as_they_were() -> None:
    """Cells from before there was another keep their folders; another arithmetic, and another round, are others."""
    assert cell().id == "nano-ioi/acdc-float32-t0.01-ff7a99f4e49c6327"
    pahq = {"name": "pahq", "focus": "receiver"}
    network, changes = cell(method=pahq), cell(method=CHANGES)
    assert cell(method=pahq | {"arithmetic": "network", "round": 32}).id == network.id
    assert changes.id.startswith("nano-ioi/pahq-changes-int8-t0.01-")
    assert len({network.digest, changes.digest, cell(method=CHANGES | {"round": 8}).digest}) == 3


def test_a_band_is_what_is_usual_with_its_arithmetic() -> None:
    pahq = {"name": "pahq", "focus": "receiver"}
    for method, arithmetic in ((pahq, "network"), (CHANGES, "changes")):
        found = cell(method=method, audit="band", band={"share": None, "safety": 4})
        assert found.band == BANDS[arithmetic].model_copy(update={"safety": 4.0})
        assert cell(method=method, audit="band").band == BANDS[arithmetic]
        assert CellConfig(**found.model_dump()) == found
    assert BANDS["network"] == BandConfig()


def test_values_are_frozen() -> None:
    one = cell()
    with pytest.raises(ValidationError):
        one.threshold = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": -1}, ["threshold", "at least 0", "-1"]),
        ({"threshold": float("nan")}, ["threshold", "finite", "nan"]),
        ({"threshold": float("inf")}, ["threshold", "finite"]),
        ({"threshold": "low"}, ["threshold", "'low'"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"task__metric": "accuracy"}, ["task.metric", "'accuracy'", "logit_diff", "kl"]),
        ({"task__examples": 0}, ["task.examples", "0"]),
        ({"task__ablation": "noise"}, ["task.ablation", "'noise'", "mean"]),
        ({"task__exampels": 3}, ["unknown key 'task.exampels'", "examples"]),
        ({"thresold": 1}, ["unknown key 'thresold'", "threshold", "run"]),
        ({"method__name": "magic"}, ["method.name", "'magic'", "rtn-q"]),
        ({"method__focus": "receiver"}, ["acdc", "'receiver'"]),
        ({"method": {"name": "pahq", "focus": "both"}}, ["engine suffix has no focus 'both'", "receiver", "reference"]),
        ({"method": {"name": "pahq"}}, ["pahq", "'none'"]),
        ({"method__arithmetic": "change"}, ["method.arithmetic", "'change'", "'network' or 'changes'"]),
        ({"method__arithmetic": ["changes"]}, ["method.arithmetic", "['changes']"]),
        ({"method__arithmetic": {"a": 1}}, ["method.arithmetic"]),
        ({"method__arithmetic": "changes"}, ["arithmetic=changes is for low precision", "acdc has none"]),
        ({"method__round": 5}, ["method.round is for arithmetic=changes"]),
        (
            {"method": CHANGES, "precision": {"name": "x", "format": "int8", "cache": "bf16"}},
            ["arithmetic=changes keeps its state in full precision", "precision.cache cannot be bf16"],
        ),
        ({"method": CHANGES | {"round": 0}}, ["method.round", "0"]),
        ({"method": CHANGES, "band": {"least": 1.0}}, ["band.* belong to audit=band"]),
        ({"precision": {"name": "int8", "format": "int8"}}, ["acdc is full precision", "'int8'"]),
        ({"precision": {"name": "int2", "format": "int2"}}, ["precision.format", "'int2'", "int4"]),
        (
            {"method": {"name": "rtn-q"}, "precision": {"name": "x", "format": "int8", "scales": "group32"}},
            ["precision", "format int8 has no scales 'group32'", "row, head"],
        ),
        ({"engine__schedule": "serial"}, ["engine.schedule is for method pahq", "acdc has no head in focus"]),
        ({"engine__schedule": "fast"}, ["engine.schedule", "'fast'", "'overlapped' or 'serial'"]),
        ({"engine__dtype": "float16"}, ["engine.dtype", "float64"]),
        ({"wandb": "maybe"}, ["wandb", "'maybe'", "offline"]),
        ({"run": {"threads": 0}}, ["threads", "0"]),
        (
            {"run": {"devise": "cpu"}},
            [
                "unknown key 'run.devise'",
                "known: device, experiment, lock, memory_gb, plan, progress, repair, root, store, threads",
            ],
        ),
        ({"run": "fast"}, ["run", "'fast'"]),
    ],
)
def test_bad_input_is_one_sentence_with_the_known_names(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(PahqError) as caught:
        parse_config(composed(**change))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert [word for word in words if word not in sentence] == []


def test_a_run_key_at_the_top_is_told_what_is_known_there() -> None:
    with pytest.raises(
        PahqError, match=r"unknown key 'device'; known: .*engine, focus, method, model, precision, run, seed"
    ):
        parse_config(composed(device="cpu"))


def test_a_missing_group_is_named() -> None:
    values = composed()
    del values["model"]
    with pytest.raises(PahqError, match="model: Field required"):
        parse_config(values)


def test_unknown_names_are_listed_in_order() -> None:
    said = "unknown task 'ioy'; known: docstring, ioi; did you mean 'ioi'?"
    assert str(unknown("task", "ioy", {"ioi": 1, "docstring": 2})) == said


def test_configurations_need_no_torch() -> None:
    modules = "pahq.config.cell, pahq.circuits.graph, pahq.circuits.circuit, pahq.errors"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
