"""Calibrated levels have a fingerprint: the same for both stores, told by a cell, and minded when it goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_models

from pahq.cell.files import cell_folder, read_result, write_result
from pahq.cell.run import rerun, run_cell
from pahq.config.cell import CellConfig, RunConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.model import open_model, save_model
from pahq.precision.levels import levels_digest
from pahq.precision.store import ATTENTION, PrecisionStore
from pahq.verify.command import verify

INT4 = PrecisionConfig(name="int4", format="int4", mlp="bf16", rounding="calibrated")


def make(rounding: str = "calibrated") -> CellConfig:
    typed = ("task=tracr-proportion", "threshold=0.05", "method=pahq", "precision=int4")
    return compose_runs([*typed, f"precision.rounding={rounding}"])[0][0]


def run_in(root: Path) -> RunConfig:
    return RunConfig(root=str(root), wandb="disabled", progress=False)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_either_store_has_the_same_fingerprint_and_every_head_is_in_it(family: str, tmp_path: Path) -> None:
    model = small_models.random_model(family, dtype=torch.float32)
    save_model(model, tmp_path)
    prompts = small_models.random_prompts(model)
    plain = build_problem(model, prompts, metric="kl", precision=INT4).store
    assert isinstance(plain, PrecisionStore)
    packed = build_problem(open_model(tmp_path), prompts, metric="kl", precision=INT4, store="packed").store
    seen = {levels_digest(plain)}
    assert levels_digest(packed) in seen
    for index, layer in enumerate(plain.low.layers):
        for name in ATTENTION:
            for head in range(getattr(layer, name).shape[0]):
                weight = getattr(layer, name).clone()
                weight[head, 0, 0] += 0.25
                layers = list(plain.low.layers)
                layers[index] = replace(layer, **{name: weight})
                changed = replace(plain, low=replace(plain.low, layers=tuple(layers)))
                seen.add(levels_digest(changed))
    config = model.config
    assert len(seen) == 1 + config.layers * 2 * (config.heads + config.kv_heads)


def test_a_calibrated_cell_tells_its_levels_and_goes_on_with_these_alone(tmp_path: Path) -> None:
    cell = make()
    folder = cell_folder(tmp_path, cell.id)
    run_cell(cell, run_in(tmp_path))
    problem, _ = rerun(cell, "cpu")
    result, provenance = (json.loads((folder / name).read_text()) for name in ("result.json", "provenance.json"))
    assert result["levels"] == provenance["levels"] == levels_digest(problem.store)
    (folder / "result.json").unlink()
    assert run_cell(cell, run_in(tmp_path)).result.levels == result["levels"]
    (folder / "result.json").unlink()
    (folder / "provenance.json").write_text(json.dumps(provenance | {"levels": "0" * 64}))
    with pytest.raises(PahqError, match=r"its calibrated rounding chose other levels than here and now\); move it"):
        run_cell(cell, run_in(tmp_path))
    before = {key: value for key, value in provenance.items() if key != "levels"}  # by a version that knew of none
    for other in (provenance | {"levels": "0" * 64, "model": "1" * 64}, before):
        (folder / "provenance.json").write_text(json.dumps(other))
        with pytest.raises(PahqError, match=r"another run .provenance\.json differs.; move it away"):
            run_cell(cell, run_in(tmp_path))


def test_rounding_to_the_nearest_needs_no_fingerprint(tmp_path: Path) -> None:
    result = run_cell(make("nearest"), run_in(tmp_path))
    assert result.result.levels is None
    assert set(json.loads((result.folder / "provenance.json").read_text())) == {"model", "pahq"}


def test_a_replay_that_disagrees_says_that_its_levels_are_others(tmp_path: Path) -> None:
    cell = make()
    folder = run_cell(cell, run_in(tmp_path)).folder
    settings = {"engine": "suffix", "dtype": "float32", "device": "cpu"}
    [found] = verify(folder, **settings)
    assert found.first is None
    other = shutil.copytree(folder, tmp_path / "other")
    lines = [json.loads(line) for line in (other / "decisions.jsonl").read_text().splitlines()]
    lines[-1]["after"] += -1 if lines[-1]["removed"] else 1  # what follows from it is still so
    (other / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_result(other, read_result(other))
    [found] = verify(other, **settings)
    assert found.first is not None
    assert found.first.startswith(f"test {len(lines) - 1} of ")
    provenance = json.loads((other / "provenance.json").read_text())
    (other / "provenance.json").write_text(json.dumps(provenance | {"levels": "0" * 64}))
    write_result(other, read_result(other))
    [found] = verify(other, **settings)
    assert found.first is not None
    assert found.first.startswith(f"calibrated rounding chose other levels here; test {len(lines) - 1} of ")
