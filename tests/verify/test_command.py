"""Replays: the recorded runs of the original agree, tampered copies do not, broken ones are told in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_models
from support.places import GOLDEN

from pahq.__main__ import main
from pahq.cell.files import read_cell, read_result
from pahq.cell.journal import read_journal
from pahq.cell.run import run_cell
from pahq.circuits.graph import Edge
from pahq.circuits.order import Order
from pahq.config.cell import CellConfig, RunConfig
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.search.acdc import acdc
from pahq.search.start import ENGINES
from pahq.verify import command as verify_module
from pahq.verify.command import verify

random_model, random_prompts = small_models.random_model, small_models.random_prompts
FOLDERS = {"attn2l_t0.008": 1, "tracr_reverse": 8, "tracr_proportion": 8}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FOLDERS)
def test_every_recorded_run_of_the_original_is_met(name: str, dtype: str, engine: str) -> None:
    comparisons = verify(GOLDEN / name, engine=engine, dtype=dtype, device="cpu")
    assert len(comparisons) == FOLDERS[name]
    for comparison in comparisons:
        assert comparison.first is None, comparison.first
        assert comparison.equal == comparison.tests > 0
        assert comparison.worst < 1e-5
        assert comparison.margin > 0
    if name == "attn2l_t0.008":
        assert comparisons[0].tests == 99
        assert comparisons[0].margin == pytest.approx(1.2e-4, rel=0.1)


def test_the_command_line_reports_and_exits_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GOLDEN / "attn2l_t0.008"), "--engine", "reference", "--dtype", "float64"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("attn2l_t0.008: 99 of 99 tests equal, worst difference of effect ")
    assert output.out.endswith(": agrees\n")
    assert output.err == ""
    assert main(["verify", str(GOLDEN / "tracr_proportion")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def edit_tests(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        values = json.loads((folder / "result.json").read_text())
        change(values["tests"])
        (folder / "result.json").write_text(json.dumps(values))

    return tamper


def edit_result(**changes: Any) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        values = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(values | changes))

    return tamper


def edit_weight(folder: Path) -> None:
    tensors = load_file(folder / "tensors.safetensors")
    tensors["model.blocks.1.attn.W_V"][2, 0, 0] += 0.5
    save_file(tensors, folder / "tensors.safetensors")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (
            edit_tests(lambda tests: tests[40].update(effect=tests[40]["effect"] + 2e-5)),
            "98 of 99.*test 40 of .* has effect",
        ),
        (edit_tests(lambda tests: tests[7].update(effect=float("nan"))), "98 of 99.*test 7 of .* has effect"),
        (edit_tests(lambda tests: tests[3].update(kept=not tests[3]["kept"])), "98 of 99.*test 3 of .*recorded"),
        (edit_tests(lambda tests: tests.pop(50)), "test 50 is of .*, recorded "),
        (edit_tests(lambda tests: tests.pop()), "98 of 99.*99 tests, recorded 98"),
        (edit_tests(lambda tests: tests.append(tests[-1])), "99 of 100.*99 tests, recorded 100"),
        (edit_tests(lambda tests: tests.insert(0, tests.pop(1))), "test 0 is of a1.h0->logits, recorded a1.h1->logits"),
        (edit_tests(lambda tests: tests.clear()), "81 tests, recorded 0"),
        (edit_result(threshold=0.02), "DISAGREES"),
        (edit_result(indices_mode="normal"), "test 0 is of a1.h3->logits, recorded a1.h0->logits"),
        (edit_result(names_mode="reverse"), "test 0 is of embed->logits, recorded a1.h0->logits"),
        (edit_result(zero_ablation=True), "DISAGREES"),
        (edit_weight, "DISAGREES"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_tampered_copy_disagrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tamper: Callable[[Path], None], words: str
) -> None:
    folder = Path(shutil.copytree(GOLDEN / "attn2l_t0.008", tmp_path / "run"))
    tamper(folder)
    assert main(["verify", str(folder)]) == 1
    output = capsys.readouterr().out
    assert len(output.splitlines()) == 1
    assert "DISAGREES: " in output
    assert re.search(words, output), output


def test_one_wrong_run_among_several_is_a_disagreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(GOLDEN / "tracr_proportion", tmp_path / "run"))
    values = json.loads((folder / "acdc_runs.json").read_text())
    values["runs"][5]["tests"][2]["new_metric"] += 0.5
    (folder / "acdc_runs.json").write_text(json.dumps(values))
    assert main(["verify", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ["DISAGREES" in line for line in lines] == [i == 5 for i in range(8)]


def cut_weights(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def large_token(folder: Path) -> None:
    tensors = load_file(folder / "tensors.safetensors")
    tensors["tokens.clean"][3, 1] = 113
    save_file(tensors, folder / "tensors.safetensors")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (cut_weights, "not a safetensors file"),
        (large_token, "clean prompt 3 has a token outside the vocabulary of 113"),
        (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
        (lambda folder: (folder / "result.json").unlink(), "result.json does not exist"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
        (edit_result(metric="accuracy"), "metric 'accuracy'; known: KL at the last position"),
        (edit_result(indices_mode="shuffle"), "unknown indices_mode 'shuffle'; known: normal, reverse"),
        (edit_tests(lambda tests: tests[2].update(sender="a9.0")), "no edge 'a9.h0->logits'"),
        (lambda folder: shutil.rmtree(folder), "is not a folder"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence_and_exit_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tamper: Callable[[Path], None], words: str
) -> None:
    folder = Path(shutil.copytree(GOLDEN / "attn2l_t0.008", tmp_path / "run"))
    tamper(folder)
    assert main(["verify", str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("pahq: error: ")
    assert len(output.err.splitlines()) == 1
    assert words in output.err


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "", "meta"])
def test_an_unknown_device_is_refused(capsys: pytest.CaptureFixture[str], device: str) -> None:
    assert main(["verify", str(GOLDEN / "attn2l_t0.008"), "--device", device]) == 2
    assert f"device {device!r} is not available" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--engine", "magic"], "unknown --engine 'magic'; known: reference, suffix"),
        (["--dtype", "float16"], "unknown --dtype 'float16'; known: float32, float64"),
        (["--colour"], "unknown option '--colour'; known: --device, --dtype, --engine, "),
        (["--device"], "option '--device' requires an argument (--help lists what it takes)"),
    ],
)
def test_unknown_options_are_one_sentence_and_exit_two(
    capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    for words in ([str(GOLDEN / "attn2l_t0.008"), *options], options):
        assert main(["verify", *words]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("pahq: error: pahq verify: ")
        assert "; known: " in shown.err or shown.err.endswith("(--help lists what it takes)\n")
        assert (shown.err.count("\n"), shown.out) == (1, "")
        if words is not options:
            assert sentence in shown.err


CELL = ("task=nano-induction", "task.examples=3", "threshold=0.5")


def finish(root: Path, *overrides: str) -> Path:
    [(cell, _)] = compose_runs([*CELL, *overrides])
    return run_cell(cell, RunConfig(root=str(root), wandb="disabled", progress=False)).folder


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=acdc", "engine=reference", "engine.dtype=float64", "task=tracr-reverse"),
        ("method=acdc", "engine.doubts=leave"),
        ("method=pahq", "precision=int4", "audit=band"),
        ("method=pahq", "focus=both", "engine=reference", "task=tracr-reverse"),
    ],
    ids=" ".join,
)
def test_a_cell_is_searched_again_as_it_was_searched(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engine, dtype, audit and doubts are the stored cell's own; what is typed takes their place."""
    folder = finish(tmp_path, *overrides)
    seen: list[CellConfig] = []
    real = verify_module.rerun
    monkeypatch.setattr(verify_module, "rerun", lambda cell, device: seen.append(cell) or real(cell, device))
    [found] = verify(folder)
    assert found.first is None
    assert found.equal == found.tests > 0
    assert seen == [read_cell(folder / "config.json")]
    if "focus=both" in overrides:
        with pytest.raises(PahqError, match="engine suffix has no focus 'both'"):
            verify(folder, engine="suffix")
        return
    typed = {"engine": "reference", "dtype": "float64"}
    verify(folder, **typed)
    assert (seen[1].engine.name, seen[1].engine.dtype) == ("reference", "float64")
    assert (seen[1].audit, seen[1].engine.doubts) == (seen[0].audit, seen[0].engine.doubts)


def test_levels_of_changes_are_those_that_changes_were_rounded_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no disagreement is laid at their door."""
    folder = finish(tmp_path, "method=pahq-changes", "precision.rounding=calibrated", "threshold=0.1")
    real = verify_module.compare
    monkeypatch.setattr(
        verify_module, "compare", lambda *of, **more: replace(real(*of, **more), first="a disagreement")
    )
    [found] = verify(folder)
    assert found.first == "a disagreement"


def test_tests_that_float64_settled_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish(tmp_path, "task=nano-greaterthan", "method=acdc", "threshold=1e-6")
    settled = sum(line.rough is not None for line in read_journal(folder / "decisions.jsonl"))
    assert settled > 0
    assert main(["verify", str(folder)]) == 0
    tests = read_result(folder).tests
    told = f"{tests} of {tests} tests equal, {settled} settled in float64, worst difference of effect "
    assert told in capsys.readouterr().out
    assert main(["verify", str(folder), "--dtype", "float64"]) == 0  # float64 has nothing to settle
    assert "settled" not in capsys.readouterr().out


def test_an_unfinished_cell_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish(tmp_path, "method=acdc", "task=tracr-reverse")
    (folder / "result.json").unlink()
    assert main(["verify", str(folder)]) == 2
    assert "result.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("attention-only", {"names_mode": "reverse", "indices_mode": "reverse"}),
        ("gpt2", {"use_pos_embed": True, "indices_mode": "normal"}),
        ("gpt2", {"use_pos_embed": True, "names_mode": "reverse"}),
        ("gpt2", {"direct_edges": False, "abs_value_threshold": True}),
        ("gpt2", {"zero_ablation": True}),
        ("attention-only", {"zero_ablation": True, "use_pos_embed": True, "direct_edges": False}),
        ("tracr", {"abs_value_threshold": True}),
    ],
)
def test_runs_of_other_settings_and_models_replay(
    tmp_path: Path, family: str, settings: dict[str, Any], engine: str
) -> None:
    record(tmp_path, family, **settings)
    (comparison,) = verify(tmp_path, engine=engine, dtype="float64", device="cpu")
    assert comparison.first is None, comparison.first
    assert comparison.tests > 20
    assert comparison.worst < 1e-9


def record(folder: Path, family: str, *, direct_edges: bool = True, **settings: Any) -> None:
    """Write a run of the plain algorithm in the format of the recorded ones."""
    model = random_model(family, 2, dtype=torch.float32)
    prompts, config = random_prompts(model, 2), model.config
    norms = {"layer": "LN", "none": None}
    values = {
        "n_layers": config.layers, "n_heads": config.heads, "d_model": config.d_model, "d_head": config.d_head,
        "d_vocab": config.d_vocab, "n_ctx": config.context, "normalization_type": norms[config.norm],
        "attn_only": config.d_mlp == 0, "d_mlp": config.d_mlp or None, "act_fn": config.activation,
        "attention_dir": "causal" if config.causal else "bidirectional", "eps": config.eps,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))
    tensors = {f"model.{name}": tensor for name, tensor in model.tensors().items()}
    save_file(
        tensors | {"tokens.clean": prompts.clean, "tokens.corrupted": prompts.corrupted}, folder / "tensors.safetensors"
    )
    problem = build_problem(
        model.to(dtype=torch.float64),
        prompts,
        metric="kl",
        ablation="zero" if "zero_ablation" in settings else "corrupted",
        split_embed=settings.get("use_pos_embed", False),
        direct_edges=direct_edges,
    )
    order = Order(
        "ascending" if settings.get("indices_mode") == "reverse" else "descending",
        "farthest" if settings.get("names_mode") == "reverse" else "nearest",
    )
    absolute = settings.get("abs_value_threshold", False)
    tests = []
    for decision in acdc(ReferenceEngine(problem), order, 0.02, absolute=absolute):
        names = recorded_names(problem.graph.edges[decision.edge], settings.get("use_pos_embed", False))
        tests.append(names | {"effect": decision.effect, "kept": not decision.removed})
    result = {"threshold": 0.02, "metric": "mean over examples of KL at the last position", "tests": tests}
    (folder / "result.json").write_text(json.dumps(result | settings))


def recorded_names(edge: Edge, split: bool) -> dict[str, str]:
    node, receiver = edge.sender, edge.receiver
    target = f"a{receiver.layer}.{receiver.head}.{receiver.letter}" if receiver.kind == "head" else str(receiver)
    if node is None:
        return {"sender": target + "_input", "receiver": target, "type": "DIRECT_COMPUTATION"}
    start = {"embed": "embed" if split else "resid_pre0", "pos": "pos_embed", "head": f"a{node.layer}.{node.head}"}
    into = {"head": target + "_input", "mlp": target + ".in", "logits": target}[receiver.kind]
    return {"sender": start.get(node.kind, str(node)), "receiver": into, "type": "ADDITION"}
