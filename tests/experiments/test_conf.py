"""Every YAML file under conf/ composes into a valid cell, and says what its name says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from pahq.config.cell import METRICS, CellConfig, RunConfig
from pahq.config.method import CLEAN
from pahq.config.precision import PrecisionConfig
from pahq.config.presets import preset
from pahq.errors import PahqError
from pahq.experiments.compose import GROUPS, cells, compose_runs, configuration_folder, options

BUILT_IN = [name for name in options("task") if name != "own"]
MODELS = {"attn4l": "attn-only-4l"}  # where a task's prefix is not its model's name
EVERY = [(group, name) for group in GROUPS for name in options(group)]


def own_prompts(folder: Path) -> list[str]:
    path = folder / "own.csv"
    path.write_text("clean,corrupted,answer\na,b,c\nd,e,f\n")
    return [f"task.prompts={path}"]


@cache
def one(*overrides: str) -> tuple[CellConfig, RunConfig]:
    [run] = compose_runs(overrides)
    return run


def test_the_groups_are_the_folders() -> None:
    folders = {path.name for path in configuration_folder().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment"}


@pytest.mark.parametrize(("group", "name"), EVERY, ids=[f"{group}={name}" for group, name in EVERY])
def test_every_file_composes(group: str, name: str, tmp_path: Path) -> None:
    method = "rtn-q" if group == "precision" and name not in ("float32", "auto") else "acdc"
    typed = [f"{group}={name}"] if group == "method" else [f"method={method}", f"{group}={name}"]
    typed += ["task.metric=logit_diff"] if name in CLEAN else []  # those that have no use for KL
    cell, _ = one(*typed, *(own_prompts(tmp_path) if name == "own" else ()))
    chosen = getattr(cell, group)
    assert (chosen.label if group == "method" else chosen.name) == ("float32" if name == "auto" else name)


# Those that take seconds to compose have tests in test_compose.py.
@pytest.mark.parametrize("name", sorted({*options("experiment")} - {"default", "stability"}))
def test_every_experiment_composes(name: str) -> None:
    found = cells(name)
    assert found
    assert all(cell_id == cell.config.id for cell_id, cell in found.items())


def test_defaults() -> None:
    cell, run = one()
    assert (cell.task.name, cell.model.name, cell.method.name) == ("nano-ioi", "nano", "pahq")
    assert (cell.threshold, cell.seed, cell.precision.name) == (0.01, 0, "int8")
    assert run == RunConfig()
    fields = CellConfig.model_fields
    names = ("engine", "seed", "audit", "band")
    assert tuple(getattr(cell, name) for name in names) == tuple(fields[name].default for name in names)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_task_brings_its_model_and_the_command_line_wins(name: str) -> None:
    own = one(f"task={name}")[0].model.name
    prefix = name.split("-")[0]
    assert own == (name.removesuffix("-zero") if prefix == "tracr" else MODELS.get(prefix, prefix))
    other = "tracr-reverse" if own == "nano" else "nano"
    assert one(f"task={name}", f"model={other}")[0].model.name == other
    assert one(f"model={other}", f"task={name}")[0].model.name == other


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_task_says_all_of_its_settings(name: str) -> None:
    task = one(f"task={name}")[0].task
    tracr = task.kind.startswith("tracr")
    assert task.metric in METRICS
    assert task.metric == ("mse" if tracr else "kl")
    assert task.split_embed is tracr
    assert task.ablation == ("zero" if name.endswith("-zero") else "corrupted")


def test_auto_is_the_recommended_format_and_no_second_address() -> None:
    assert one("method=acdc")[0].id == one("method=acdc", "precision=float32")[0].id
    assert one("method=pahq")[0].id == one("method=pahq", "precision=int8")[0].id
    assert one("method=rtn-q")[0].id == one("method=rtn-q", "precision=int8")[0].id


@pytest.mark.parametrize("name", [name for name in options("precision") if name not in ("auto", "float32")])
def test_low_formats_keep_mlps_in_bf16(name: str) -> None:
    precision = one("method=rtn-q", f"precision={name}")[0].precision
    assert precision.mlp == "bf16"
    assert precision.format == name.removesuffix("-head").removesuffix("-row")
    groups = {"int4": "group32", "int4s": "group32", "nf4": "group64"}
    assert precision.scales == ("head" if name.endswith("-head") else groups.get(name, "row"))


def test_where_and_how_loudly_do_not_change_the_address() -> None:
    plain = one()[0].id
    assert one("run.root=elsewhere", "run.threads=2", "wandb=disabled", "run.experiment=other")[0].id == plain
    assert one("threshold=0.02")[0].id != plain
    assert one("seed=1")[0].id != plain
    assert one("method.order=ascending")[0].id != plain


def test_hydra_leaves_no_dated_folders_and_does_not_change_directory() -> None:
    settings = yaml.safe_load((configuration_folder() / "config.yaml").read_text())["hydra"]
    assert settings["job"]["chdir"] is False
    assert settings["output_subdir"] is None
    assert "${now" not in str(settings)


def test_a_float_typed_in_two_ways_is_one_cell() -> None:
    assert one("threshold=1e-2")[0].id == one("threshold=0.010")[0].id


def test_a_threshold_below_zero_is_refused() -> None:
    with pytest.raises(PahqError, match="finite number of at least 0"):
        compose_runs(["threshold=-0.1"])


def test_focus_has_a_short_name_and_no_second_address() -> None:
    short, long = (compose_runs(["engine=reference", f"{key}=sender"])[0][0] for key in ("focus", "method.focus"))
    assert short.method.focus == "sender"
    assert short.id == long.id != compose_runs(["engine=reference"])[0][0].id
    swept = compose_runs(["engine=reference", "focus=receiver,sender,both"], sweep=True)
    assert [cell.method.focus for cell, _ in swept] == ["receiver", "sender", "both"]
    with pytest.raises(PahqError, match="Input should be 'receiver', 'sender', 'both' or 'none'"):
        compose_runs(["focus=reciever"])
    with pytest.raises(PahqError, match=r"focus is short for method\.focus; give one of them"):
        compose_runs(["engine=reference", "focus=sender", "method.focus=both"])
    with pytest.raises(PahqError, match="method acdc cannot have focus 'sender'"):
        compose_runs(["method=acdc", "focus=sender"])


def test_own_prompts_take_any_model(tmp_path: Path) -> None:
    for model in ("nano", "gpt2"):
        cell = one("task=own", f"model={model}", *own_prompts(tmp_path))[0]
        assert (cell.model.name, cell.task.kind, cell.task.examples) == (model, "own", 1)
    with pytest.raises(PahqError, match="needs prompts=FILE"):
        one("task=own")


def test_the_papers_tasks_are_as_large_as_theirs() -> None:
    tasks = {name: one(f"task={name}")[0].task for name in BUILT_IN}
    sizes = {"gpt2-ioi": 100, "gpt2-greaterthan": 100, "attn4l-docstring": 50, "redwood-induction": 50}
    assert {name: tasks[name].examples for name in sizes} == sizes
    assert tasks["redwood-induction"].positions == 300
    smollm2 = [task for name, task in tasks.items() if name.startswith("smollm2")]
    assert [task.bos for task in smollm2] == ["<|endoftext|>"] * 4
    assert tasks["gpt2-ioi"].bos is tasks["gpt2-greaterthan"].bos is None


def test_models_of_a_hub_are_pinned() -> None:
    assert one("model=gpt2")[0].model.revision == "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.mark.parametrize("name", options("precision"))
def test_a_precision_says_what_is_other_than_the_defaults_and_nothing_else(name: str) -> None:
    said = preset("precision", name)
    assert said.pop("name") == name
    fields = PrecisionConfig.model_fields
    assert set(said) <= set(fields)
    assert not {key for key, value in said.items() if fields[key].default == value}


def test_every_setting_of_a_precision_can_be_typed_and_swept() -> None:
    typed = one("method=rtn-q", "precision=fp8", "precision.rounding=calibrated", "precision.cache=bf16")[0].precision
    assert (typed.name, typed.rounding, typed.cache, typed.mlp) == ("fp8", "calibrated", "bf16", "bf16")
    swept = compose_runs(["precision=int8,nf4", "precision.cache=float32,bf16"], sweep=True)
    assert [(cell.precision.name, cell.precision.cache) for cell, _ in swept] == [
        *(("int8", "float32"), ("int8", "bf16")),
        *(("nf4", "float32"), ("nf4", "bf16")),
    ]
    known = ", ".join(sorted(PrecisionConfig.model_fields))
    with pytest.raises(PahqError, match=f"unknown key 'colour' in 'precision'; known: {known}"):
        compose_runs(["precision.colour=red"])
    with pytest.raises(PahqError, match="unknown precision 'defaults'; known: auto, bf16"):
        compose_runs(["precision=defaults"])
