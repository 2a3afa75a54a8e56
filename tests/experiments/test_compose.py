"""An experiment's YAML as cells: the same cells as typed one by one, in groups, faults in one sentence."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from pydantic import BaseModel

from pahq.circuits.order import Order
from pahq.config.cell import CellConfig, RunConfig, parse_config
from pahq.errors import PahqError
from pahq.experiments import compose as experiment
from pahq.experiments.compose import cells, compose_runs, configuration_folder, groups
from pahq.experiments.composer import FREE, Composer
from pahq.experiments.jobs import Asked, Cell, stability_jobs
from pahq.resamples.variants import order_variants


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ to break."""
    folder = tmp_path / "conf"
    shutil.copytree(configuration_folder(), folder)
    monkeypatch.setattr(experiment, "configuration_folder", lambda: folder)
    return folder


@pytest.fixture(scope="module")
def default() -> dict[str, Cell]:
    return cells("default")


@pytest.fixture(scope="module")
def stability() -> dict[str, Cell]:
    return cells("stability")


def test_the_cells_are_those_that_composing_each_anew_gives(default: dict[str, Cell]) -> None:
    sample = [*cells("smoke").values(), *list(default.values())[::40]]
    for cell in sample:
        [(config, _)] = compose_runs(cell.overrides)
        assert config == cell.config


@pytest.mark.parametrize(
    "words",
    [
        ["precision=int8,int4,auto,float32", "method=pahq", "precision.rounding=nearest,calibrated"],
        ["precision.mlp=float32", "precision=fp8,nf4", "precision.compute=bf16", "precision.cache=fp16"],
        ["precision=int8,plain,odd", "method=rtn-q", "threshold=0.1,0.2"],
        ["precision=int8,int4", "task.name=${precision.name}-${threshold}", "threshold=0.1,0.2"],
        ["precision=int8,int4", "++precision.kernel=codes", "precision.compute=int8"],
        ["precision=fp8,int8", "threshold=1,1e-2,0.5"],
        ["threshold=0.1,0.2"],
        ["task=tracr-reverse-zero,gpt2-ioi", "model=nano", "method=rtn-q", "task.examples=3", "method.focus=none"],
        [
            "method=acdc,pahq",
            "engine=reference",
            "engine.schedule=serial",
            "audit=band",
            "band.safety=1e1",
            "focus=null",
        ],
        ["seed=1,2", "run.root='a b'", "model.source='1'", "run.progress=false", "wandb=offline", "run={lock: false}"],
        ["seed=1", "seed=2", "method=pahq,acdc"],
        ["method=built,elsewhere,pahq", "task.metric=kl,mse"],
    ],
)
def test_values_and_small_groups_are_what_each_composed_alone_is(conf: Path, words: list[str]) -> None:
    (conf / "precision" / "plain.yaml").write_text((conf / "precision" / "int8-head.yaml").read_text())
    odd = (conf / "precision" / "int8.yaml").read_text().replace("name: int8", "name: odd-${seed}")
    (conf / "precision" / "odd.yaml").write_text(odd)
    (conf / "method" / "built.yaml").write_text("defaults: [_self_, rtn-q]\nname: built\norder: ascending\n")
    (conf / "method" / "elsewhere.yaml").write_text("# @package task\nmetric: mse\n")
    composed: list[dict[str, object]] = []
    fast = Composer(_counted(experiment._compose, composed), conf)
    lines = BasicSweeper.split_arguments(experiment.parse_overrides(words, sweep=True), max_batch_size=None)[0]
    with experiment._hydra():
        assert [fast.composed(line) for line in lines] == [experiment._compose(line) for line in lines]
    assert len(composed) <= len(lines)


def test_most_are_not_composed_at_all(conf: Path) -> None:
    composed: list[dict[str, object]] = []
    fast = Composer(_counted(experiment._compose, composed), conf)
    with experiment._hydra():
        for precision, at in product(("int8", "fp8", "bf16"), (0.1, 0.2)):
            fast.composed([f"precision={precision}", "method=pahq", f"threshold={at}"])
            fast.composed(["task=nano-ioi", "method=acdc", f"precision={precision}", f"threshold={at}", "seed=1"])
    assert len(composed) == 2


def test_what_is_composed_apart_is_said_by_no_other_group() -> None:
    """Composer takes a method, a precision and an engine from their own files alone."""
    for path in configuration_folder().glob("*/*.yaml"):
        said = yaml.safe_load(path.read_text())
        if path.parent.name in FREE:
            assert not {"method", "precision", "engine", "task", "model"} & set(said)
        elif path.parent.name != "experiment":
            assert not set(FREE) & {str(key).split(".")[0] for key in said}
            assert not [said for group in FREE if f"/{group}" in str(said.get("defaults"))]


def _counted(
    compose: Callable[[Sequence[str]], dict[str, object]], into: list[dict[str, object]]
) -> Callable[[Sequence[str]], dict[str, object]]:
    def counted(words: Sequence[str]) -> dict[str, object]:
        into.append(compose(words))
        return into[-1]

    return counted


def test_the_default_experiment(default: dict[str, Cell]) -> None:
    assert all(cell_id == cell.config.id for cell_id, cell in default.items())
    found = [cell.config for cell in default.values()]
    series = {(c.task.name, c.method.label, c.precision.name) for c in found}
    nano = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction")
    for task in ("tracr-reverse", "tracr-proportion", *nano):
        for method in ("pahq", "pahq-changes", "rtn-q"):
            for precision in ("fp8", "int8", "int4", "bf16"):
                assert (task, method, precision) in series
        assert (task, "acdc", "float32") in series
    for task, method, precision in series:
        of = [c for c in found if (c.task.name, c.method.label, c.precision.name) == (task, method, precision)]
        assert len({c.threshold for c in of}) >= 3


def test_groups_differ_in_threshold_alone_and_hold_every_cell_once() -> None:
    bundles = groups("smoke")
    assert [group.name for group in bundles] == ["tracr-proportion-acdc-float32", "tracr-proportion-pahq-int8"]
    assert [cell_id for group in bundles for cell_id in group.cells] == list(cells("smoke"))
    for group in bundles:
        alike = {cell.config.model_copy(update={"threshold": 0.0}) for cell in group.cells.values()}
        assert len(alike) == 1
        assert group.overrides[-1] == "threshold=0.001,0.01"


def test_a_grid_of_thresholds_is_its_thresholds_typed_one_by_one(conf: Path) -> None:
    row = "- {task: tracr-reverse, method: acdc, precision: float32, threshold: "
    for name, text in (("grid", "[{log10: [-2, 0, 5]}, 0.5]"), ("typed", "[0.01, 0.0316228, 0.1, 0.316228, 1, 0.5]")):
        (conf / "experiment" / f"{name}.yaml").write_text(f"{row}{text}}}\n")
    assert list(cells("grid")) == list(cells("typed"))


@pytest.mark.parametrize("name", ["smoke", "default", "real", "compare"])
def test_a_group_typed_as_a_sweep_is_its_cells(name: str) -> None:
    """Of tasks that are searched alike, one."""
    for group in {group.overrides[1:]: group for group in groups(name)}.values():  # the first word is the task
        typed = compose_runs(group.overrides, sweep=True)
        assert [cell.id for cell, _ in typed] == list(group.cells)


def test_names_of_groups_are_unique_and_cells_of_two_rows_count_once(conf: Path) -> None:
    (conf / "experiment" / "twice.yaml").write_text(
        "- {task: nano-ioi, method: [pahq, rtn-q], precision: int8, threshold: [0.01, 0.1]}\n"
        "- {task: nano-ioi, method: pahq, threshold: [0.1, 0.2]}\n"  # auto is int8: 0.1 is there already
        "- {task: nano-ioi, method: pahq, precision: int8, seed: 1, task.examples: 8, threshold: 0.1}\n"
    )
    bundles = groups("twice")
    assert len({group.name for group in bundles}) == len(bundles) == 4
    assert [len(group.cells) for group in bundles] == [2, 2, 1, 1]
    assert len(cells("twice")) == 6
    [last] = bundles[-1].cells.values()
    assert (last.config.seed, last.config.task.examples) == (1, 8)


def test_precisions_of_a_row_share_a_process_where_it_says_so(conf: Path) -> None:
    row = "- {task: [nano-ioi, nano-docstring], method: [pahq, rtn-q], precision: [int4, int8], threshold: [0.01, 0.1]"
    (conf / "experiment" / "apart.yaml").write_text(row + "}\n")
    (conf / "experiment" / "short.yaml").write_text(
        row + ", together: true}\n"
        "- {task: nano-ioi, method: pahq, precision: [fp8, bf16], threshold: [0.01, 0.1]}\n"
        "- {task: nano-ioi, method: pahq, precision: fp8, threshold: 0.2, together: true}\n"
        # the same thresholds, but one of them in a row that does not say so
        "- {task: nano-docstring, method: pahq, seed: 1, precision: fp8, threshold: 0.01}\n"
        "- {task: nano-docstring, method: pahq, seed: 1, precision: fp8, threshold: 0.1, together: true}\n"
        "- {task: nano-docstring, method: pahq, seed: 1, precision: bf16, threshold: [0.01, 0.1], together: true}\n"
    )
    assert list(cells("short"))[:16] == list(cells("apart"))
    found = {group.name: group for group in groups("short")}
    assert {name: len(group.cells) for name, group in found.items()} == {
        "nano-ioi-pahq-rtn-q": 8,
        "nano-docstring-pahq-rtn-q": 8,
        "nano-ioi-pahq-fp8": 2 + 1,
        "nano-ioi-pahq-bf16": 2,
        "nano-docstring-pahq-fp8": 2,
        "nano-docstring-pahq-bf16": 2,
    }
    for group in found.values():
        assert [cell.id for cell, _ in compose_runs(group.overrides, sweep=True)] == list(group.cells)


def test_seeds_share_a_process_where_a_row_says_so_and_no_sweep_is_longer_than_a_hundred(conf: Path) -> None:
    """So that thousands of tiny cells are neither a process each nor one for all of them."""
    row = f"task: tracr-reverse, precision: int8, threshold: 0.1, seed: {list(range(60))}"
    (conf / "experiment" / "many.yaml").write_text(
        f"- {{{row}, method: [pahq, rtn-q], together: true}}\n"
        "- {task: tracr-reverse, precision: int8, threshold: 0.1, seed: [0, 1], method: pahq-changes}\n"
        "- {task: tracr-proportion, method: acdc, precision: float32, threshold: {log10: [-4, 0, 101]}}\n"
    )
    found = {group.name: group for group in groups("many")}
    assert {name: len(group.cells) for name, group in found.items()} == {
        "tracr-reverse-pahq-rtn-q": 100,
        "tracr-reverse-pahq-rtn-q-2": 20,
        "tracr-reverse-pahq-changes-int8": 1,
        "tracr-reverse-pahq-changes-int8-2": 1,
        "tracr-proportion-acdc-float32": 100,
        "tracr-proportion-acdc-float32-2": 1,
    }
    assert len({cell_id for group in found.values() for cell_id in group.cells}) == 223
    for group in found.values():
        assert {cell.id for cell, _ in compose_runs(group.overrides, sweep=True)} == set(group.cells)


def test_thresholds_of_a_sweep_are_what_each_is_alone() -> None:
    base = ["task=nano-ioi", "method=acdc"]
    typed = ["0.1", "1e-2", "2E-3", "${seed}", "1"]
    swept = compose_runs([*base, "seed=3", f"threshold={','.join(typed)}"], sweep=True)
    alone = [compose_runs([*base, "seed=3", f"threshold={text}"])[0] for text in typed]
    assert [cell.threshold for cell, _ in swept] == [0.1, 0.01, 0.002, 3.0, 1.0]
    assert [cell.id for cell, _ in swept] == [cell.id for cell, _ in alone]


def test_what_rows_ask_for_goes_to_the_cells_of_their_rows_however_these_are_typed(conf: Path) -> None:
    (conf / "experiment" / "extra.yaml").write_text(
        "- {task: nano-ioi, method: [acdc, pahq], precision: auto, threshold: [0.01, 0.1]}\n"
        "- {task: nano-ioi, method: pahq, precision: int8, threshold: 0.1, stability: true}\n"  # auto is int8
        "- {task: nano-ioi, method: acdc, precision: auto, threshold: [0.10, 1e-1], stability: 5}\n"
        "- {task: nano-ioi, method: acdc, threshold: 0.1, stability: 8, together: true}\n"
        "- {task: nano-ioi, method: acdc, seed: 1, threshold: 0.2, stability: 8}\n"
        "- {task: nano-docstring, threshold: 0.3, stability: false}\n"
        "- {task: nano-docstring, engine: reference, focus: [sender, both]}\n"
    )
    bundles, every = groups("extra"), cells("extra")
    asked = {cell_id: cell.asked for cell_id, cell in every.items() if cell.asked.resamples}
    acdc, pahq, other = asked
    assert [(c.method.name, c.threshold, c.seed) for c in (every[cell_id].config for cell_id in asked)] == [
        ("acdc", 0.1, 0),
        ("pahq", 0.1, 0),
        ("acdc", 0.2, 1),
    ]
    assert asked == {acdc: Asked(together=True, resamples=8), pahq: Asked(resamples=20), other: Asked(resamples=8)}
    assert [(asked[cell_id].seeds) for cell_id in asked] == [2, 5, 2]
    assert [(job.name, job.cells, job.asked.resamples) for job in stability_jobs(bundles)] == [
        ("nano-ioi-acdc-n8", (acdc,), 8),
        ("nano-ioi-pahq-n20", (pahq,), 20),
        ("nano-ioi-acdc-n8-2", (other,), 8),
    ]
    jobs = {cell_id: job.asked.resamples for job in stability_jobs(bundles, "all") for cell_id in job.cells}
    assert jobs == {cell_id: cell.asked.resamples or 20 for cell_id, cell in every.items()}
    assert stability_jobs(bundles, "none") == []
    assert [Asked(resamples=n).seeds for n in (0, 2, 5, 8, 20)] == [0, 1, 1, 2, 5]
    assert [Asked(resamples=n).searches for n in (0, 5)] == [0, 5 + len(order_variants(Order())) + 1]
    assert not any("stability" in word for cell in every.values() for word in cell.overrides)
    assert [cell.config.method.focus for cell in every.values()][-2:] == ["sender", "both"]


def test_methods_share_a_process_where_the_whole_is_one_sweep(conf: Path) -> None:
    (conf / "experiment" / "uneven.yaml").write_text(
        "- {task: nano-ioi, method: [pahq, rtn-q], precision: [int4, int8], threshold: 0.1, together: true}\n"
        "- {task: nano-ioi, method: pahq, precision: fp8, threshold: 0.1, together: true}\n"  # more than RTN-Q has
        "- {task: nano-docstring, method: [pahq, rtn-q], precision: int8, threshold: 0.1, together: true}\n"
        "- {task: nano-induction, method: [pahq, rtn-q], precision: int8, threshold: 0.1}\n"
    )
    found = {group.name: len(group.cells) for group in groups("uneven")}
    assert found == {
        "nano-ioi-pahq": 3,
        "nano-ioi-rtn-q": 2,
        "nano-docstring-pahq-rtn-q": 2,
        "nano-induction-pahq-int8": 1,
        "nano-induction-rtn-q-int8": 1,
    }
    for group in groups("uneven"):
        assert [cell.id for cell, _ in compose_runs(group.overrides, sweep=True)] == list(group.cells)


def test_no_process_measures_the_stability_of_too_many(stability: dict[str, Cell]) -> None:
    jobs = stability_jobs(groups("stability"))
    assert max(len(job.cells) for job in jobs) == 16
    assert len({job.name for job in jobs}) == len(jobs)
    measured = [cell_id for job in jobs for cell_id in job.cells]
    assert sorted(measured) == sorted(cell_id for cell_id, cell in stability.items() if cell.asked.resamples)


def test_the_stability_experiment_measures_every_circuits_stability(stability: dict[str, Cell]) -> None:
    """On five resamples, and at one threshold a task, of ACDC and PAHQ at int8, on twenty.

    Of the serial schedule's no more: they are their twins' circuits.
    """
    unmeasured = [cell.config.engine.schedule for cell in stability.values() if not cell.asked.resamples]
    assert unmeasured == ["serial"] * len(unmeasured)
    assert {cell.asked.resamples for cell in stability.values()} == {0, 5, 20}
    surely = [cell.config for cell in stability.values() if cell.asked.resamples == 20]
    tasks = {cell.config.task.name for cell in stability.values()}
    assert sorted((c.task.name, c.method.name, c.precision.name) for c in surely) == sorted(
        (task, *series) for task in tasks for series in (("acdc", "float32"), ("pahq", "int8"))
    )


def test_the_default_experiment_is_a_part_of_it(default: dict[str, Cell], stability: dict[str, Cell]) -> None:
    """Of which the stability of ACDC's circuits of three nano tasks alone is measured."""
    assert set(default) < set(stability)
    marked = [cell.config for cell in default.values() if cell.asked.resamples]
    assert {(c.method.name, c.precision.name, c.threshold) for c in marked} == {("acdc", "float32", 0.03)}
    assert len(marked) == 3
    assert all(cell.asked.resamples <= stability[cell_id].asked.resamples for cell_id, cell in default.items())
    kinds = {(c.method.label, c.precision.rounding, c.audit) for c in (cell.config for cell in default.values())}
    assert {("pahq", "calibrated", "none"), ("pahq", "nearest", "band"), ("pahq-changes", "nearest", "band")} < kinds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- {task: nano-oi}", "experiment 'bad', row task=nano-oi: unknown task 'nano-oi'; known: attn4l-docstring"),
        ("- {tsk: nano-ioi}", "unknown key 'tsk'; known: audit, band, engine, focus, method"),
        ("- {task.exampels: 3}", "unknown key 'exampels' in 'task'; known: ablation, examples"),
        ("- {threshold: [0.1, high]}", "threshold: Input should be a valid number"),
        (
            "- {threshold: {log10: [-4, 0]}}",
            "experiment 'bad': threshold: {log10: [start, stop, count]} with two exponents",
        ),
        ("- {threshold: []}", "neither a name, a number nor a list"),
        ("- {method: acdc, precision: int8}", "method acdc is full precision"),
        ("- {task: nano-ioi, together: 3}", "gives 'together' the value 3; true or false was expected"),
        ("- {task: nano-ioi, stability: 1}", "gives 'stability' the value 1; true, false or a number of resamples"),
        ("- {task: nano-ioi, stability: often}", "gives 'stability' the value 'often'; true, false or a number"),
        ("- {run.root: here}", "rows say what is computed, not where"),
        ("- {wandb: offline}", "rows say what is computed, not where"),
        ("- {task: {name: x}}", "neither a name, a number nor a list"),
        ("- {task: []}", "neither a name, a number nor a list"),
        ("task: nano-ioi", "must be a list of rows"),
        ("", "must be a list of rows"),
        ("- {task: [", "is not readable YAML"),
    ],
)
def test_a_faulty_experiment_is_told_in_one_sentence(conf: Path, text: str, sentence: str) -> None:
    (conf / "experiment" / "bad.yaml").write_text(text)
    with pytest.raises(PahqError) as caught:
        groups("bad")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_models_of_one_name_are_refused_unless_one_is_named(conf: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name / "ckpt" for name in ("a, b", "c")]
    for folder in folders:
        folder.mkdir(parents=True)
    rows = [f'{{task: nano-ioi, method: acdc, model.source: "{folder}", threshold: [0.1, 0.2]' for folder in folders]
    (conf / "experiment" / "one.yaml").write_text(f"- {rows[0]}}}\n- {rows[1]}}}\n")
    with pytest.raises(PahqError, match=r"experiment 'one' calls two models 'ckpt' \(.*; give one a model.name"):
        groups("one")
    (conf / "experiment" / "two.yaml").write_text(f"- {rows[0]}}}\n- {rows[1]}, model.name: other}}\n")
    bundles = groups("two")
    assert [next(iter(group.cells.values())).config.model.name for group in bundles] == ["ckpt", "other"]
    for group in bundles:  # a comma in the path, and thresholds swept beside it
        assert [cell.id for cell, _ in compose_runs(group.overrides, sweep=True)] == list(group.cells)


def test_an_unknown_experiment_names_the_known_ones() -> None:
    known = "ablations, changes, compare, compare-real, default, gemma3, masks, masks-real, paper, products, real"
    with pytest.raises(PahqError, match=f"unknown experiment 'papr'; known: {known}"):
        cells("papr")


def test_the_real_models_two_experiments_have_every_method_and_no_row_that_is_lossless_by_construction() -> None:
    first, more = cells("real"), cells("real-more")
    found = [cell.config for cell in (first | more).values()]
    assert (len(first), len(more), len(found)) == (32, 64, 92)
    assert {first[cell_id].config.method.name for cell_id in set(first) & set(more)} == {"acdc"}
    assert not any(cell.asked.resamples for cell in first.values())
    assert [cell.config.method.name for cell in more.values() if cell.asked.resamples] == ["acdc"] * 4
    tasks = {config.task.name for config in found}
    assert tasks == {f"smollm2-{name}" for name in ("ioi", "greaterthan", "docstring", "induction")}
    assert {config.model.source for config in found} == {"smollm2"}
    for task in tasks:
        own = [c for c in found if c.task.name == task and c.audit == "none"]
        rows = [(c.method.label, c.precision.format) for c in own if c.precision.rounding == "nearest"]
        low = [(method, form) for method in ("pahq", "rtn-q") for form in ("int8", "fp8", "int4s", "bf16")]
        changes = [("pahq-changes", form) for form in ("int8", "fp8", "int4s", "bf16")]
        assert sorted(rows) == sorted([("acdc", "float32"), *low, *changes])
        calibrated = [(c.method.name, c.precision.format) for c in own if c.precision.rounding == "calibrated"]
        assert sorted(calibrated) == [("pahq", "fp8"), ("pahq", "int8")]
    assert "int4" not in {config.precision.format for config in found}
    audited = {(c.method.label, c.precision.format) for c in found if c.audit == "band"}
    assert audited == {("pahq", "int8"), ("pahq", "fp8"), *changes, ("pahq-changes", "float32")}
    products = {(c.precision.format, c.precision.compute) for c in found if c.precision.compute != "float32"}
    assert products == {("bf16", "bf16"), ("float32", "tf32")}


def test_the_ablations_have_every_search_of_both_arithmetics_with_and_without_audits() -> None:
    found = [cell.config for cell in cells("ablations").values()]
    both = [c for c in found if c.method.focus == "receiver" and c.precision.rounding == "nearest"]
    products = {("float32", "tf32"), ("bf16", "bf16")}
    wanted = {(name, "float32") for name in ("bf16", "fp8", "int8", "int4s", "int4", "nf4")} | products
    for task in {c.task.name for c in found}:
        for label in ("pahq", "pahq-changes"):
            own = [c for c in both if (c.task.name, c.method.label) == (task, label)]
            kinds = [(c.threshold, c.audit, c.band.share == 1) for c in own]
            for threshold in (0.01, 0.001, 0.0001):
                for kind in (("none", False), ("band", False)) + ((("band", True),) if threshold == 0.01 else ()):
                    here = [c for c, known in zip(own, kinds, strict=True) if known == (threshold, *kind)]
                    assert wanted <= {(c.precision.name, c.precision.compute) for c in here}
        assert {c.threshold for c in found if (c.task.name, c.method.name) == (task, "acdc")} == {0.01, 0.001, 0.0001}


def test_composing_works_inside_another_hydra_and_gives_it_back(conf: Path) -> None:
    with initialize_config_dir(str(conf), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert len(compose_runs(["threshold=0.1,0.2"], sweep=True)) == 2
        assert GlobalHydra.instance().hydra is outer


def test_no_torch() -> None:
    code = "import sys; from pahq.experiments.compose import cells; cells('smoke'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_rows_that_leave_threshold_or_size_out_share_a_group_with_those_that_name_it(conf: Path) -> None:
    rows = [
        {"task": "nano-ioi", "method": "eap-ig"},
        {"task": "nano-ioi", "method": "eap-ig", "size": [10, 50]},
        {"task": "nano-ioi", "method": "acdc"},
        {"task": "nano-ioi", "method": "acdc", "threshold": [0.1]},
    ]
    (conf / "experiment" / "made.yaml").write_text(yaml.safe_dump(rows))
    found = groups("made")
    assert [len(group.cells) for group in found] == [3, 2]
    assert all(group.overrides for group in found)
    assert [len(job.cells) for job in stability_jobs(found, "all")] == [3, 2]
    (conf / "experiment" / "made.yaml").write_text(yaml.safe_dump([rows[0] | {"method": "random", "stability": True}]))
    with pytest.raises(PahqError, match="method random draws scores from its seed"):
        groups("made")


def _mappings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every key of a configuration that holds settings of its own."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield f"{prefix}{name}", kind
                yield from _mappings(kind, f"{prefix}{name}.")


MAPPINGS = dict(_mappings(CellConfig)) | {"run": RunConfig}


def test_every_mapping_is_looked_at() -> None:
    assert set(MAPPINGS) == {"task", "model", "method", "method.training", "precision", "engine", "band", "run"}


@pytest.mark.parametrize("value", ["5", "abc", "true", "[1,2]"])
@pytest.mark.parametrize("key", MAPPINGS)
def test_a_value_in_the_place_of_a_mapping_is_told_in_our_words(key: str, value: str) -> None:
    with pytest.raises(PahqError) as caught:
        compose_runs([f"{key}={value}"])
    said = str(caught.value)
    assert "\n" not in said
    if key in experiment.GROUPS:
        assert said.startswith((f"unknown {key} ", "Config group override value type cannot be a list"))
        return
    assert said.startswith(f"{key}: a mapping was expected (got ")
    assert set(said.split("known keys: ")[1].split(", ")) >= set(MAPPINGS[key].model_fields) - {"wandb"}


@pytest.mark.parametrize("key", MAPPINGS)
def test_so_it_is_where_python_gives_it(key: str) -> None:
    values: dict[str, Any] = compose_runs([])[0][0].model_dump()
    *above, last = key.split(".")
    place = values
    for name in above:
        place = place[name]
    place[last] = 5
    with pytest.raises(PahqError, match=re.escape(f"{key}: a mapping was expected (got 5); known keys: ")):
        parse_config(values)


def test_an_unknown_key_is_told_before_what_is_missing() -> None:
    with pytest.raises(PahqError, match=r"unknown key 'method.training.stps'; known: .*; did you mean 'steps'\?"):
        compose_runs(["+method.training.stps=1"])
