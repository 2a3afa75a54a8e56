"""Recorded runs: names, settings and files, read or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.places import GOLDEN

from pahq.circuits.order import Order
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.verify.recorded import check_edges, edge_name, model_config, read_recorded

ATTN = GOLDEN / "attn2l_t0.008"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ATTN, tmp_path / "run"))


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


@pytest.mark.parametrize(
    ("sender", "receiver", "name"),
    [
        ("a0.1", "logits", "a0.h1->logits"),
        ("m3", "logits", "m3->logits"),
        ("a10.11", "a11.10.q_input", "a10.h11->a11.h10<q>"),
        ("a0.1", "a1.2.v", "a0.h1->a1.h2<v>"),  # compiled programs' runs name inputs without the suffix
        ("m0", "m1.in", "m0->m1"),
        ("m0", "m1", "m0->m1"),
        ("resid_pre0", "a0.0.k_input", "embed->a0.h0<k>"),
        ("embed", "m0.in", "embed->m0"),
        ("pos_embed", "a2.0.v_input", "pos->a2.h0<v>"),
        ("pos", "logits", "pos->logits"),
        ("a1.3.q_input", "a1.3.q", "a1.h3<q>"),
    ],
)
def test_recorded_names(sender: str, receiver: str, name: str) -> None:
    assert edge_name(sender, receiver) == name


def test_the_single_run() -> None:
    (run,) = read_recorded(ATTN)
    assert (run.name, run.metric, run.ablation, run.threshold) == ("attn2l_t0.008", "kl", "corrupted", 0.008)
    assert (run.split_embed, run.direct_edges, run.absolute) == (False, True, False)
    assert run.order == Order("ascending", "nearest")
    assert len(run.tests) == 99
    assert run.prompts.last_only
    assert run.prompts.clean.shape == (16, 12)
    config = run.model.config
    assert (config.layers, config.heads, config.d_mlp, config.norm, config.causal) == (2, 4, 0, "layer", True)
    kept = {test.edge for test in run.tests if test.kept}
    recorded = json.loads((ATTN / "result.json").read_text())
    assert len(kept) == recorded["n_kept_counted"]
    listed = {edge_name(e["sender"], e["receiver"]) for e in recorded["kept"] if e["type"] != "PLACEHOLDER"}
    assert kept == listed


def test_the_clean_model_is_the_recorded_one() -> None:
    (run,) = read_recorded(ATTN)
    expected = load_file(ATTN / "reference.safetensors")["base_logprobs_last"]
    objective = build_problem(run.model, run.prompts, metric="kl").objective
    assert (objective.clean - expected).abs().max() < 1e-5  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "columns", "split"), [("tracr_reverse", 3, True), ("tracr_proportion", 1, True)])
def test_the_compiled_programs_runs(name: str, columns: int, split: bool) -> None:
    runs = read_recorded(GOLDEN / name)
    assert len(runs) == 8
    assert len({run.name for run in runs}) == 8
    for run in runs:
        assert run.metric == "mse"
        assert run.split_embed == split
        assert run.direct_edges
        assert run.order == Order("descending", "nearest")
        assert set(run.prompts.items[:, 1].tolist()) == {1, 2, 3}
        order = run.prompts.position_order
        assert (order is None) == (run.ablation == "zero")
        assert (
            order is None or order.tolist() == torch.randperm(4, generator=torch.Generator().manual_seed(49)).tolist()
        )
        assert len(run.prompts.targets.get("columns", range(run.model.config.d_vocab_out))) == columns
        recorded = {edge_name(e["sender"], e["receiver"]) for e in _kept(name, run.ablation, run.threshold)}
        assert {test.edge for test in run.tests if test.kept} == recorded


def _kept(name: str, ablation: str, threshold: float) -> list[dict[str, str]]:
    for run in json.loads((GOLDEN / name / "acdc_runs.json").read_text())["runs"]:
        if run["zero_ablation"] == (ablation == "zero") and run["threshold"] == threshold:
            return list(run["kept"])
    raise AssertionError


def test_order_settings_are_read(copy: Path) -> None:
    edit(
        copy / "result.json", indices_mode="normal", names_mode="reverse", abs_value_threshold=True, zero_ablation=True
    )
    (run,) = read_recorded(copy)
    assert run.order == Order("descending", "farthest")
    assert run.absolute
    assert run.ablation == "zero"


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("result.json", {"metric": "logit difference, last position"}, "metric 'logit difference.*known: KL"),
        ("result.json", {"indices_mode": "random"}, "unknown indices_mode 'random'; known: normal, reverse"),
        ("result.json", {"names_mode": "random"}, "unknown names_mode 'random'; known: normal, reverse"),
        ("result.json", {"threshold": None}, "not a readable recorded run"),
        ("result.json", {"threshold": "low"}, "not a readable recorded run"),
        ("result.json", {"tests": 5}, "not a readable recorded run"),
        ("result.json", {"tests": [{"sender": "a1.0", "receiver": "logits"}]}, "lacks the entry 'effect'"),
        ("config.json", {"normalization_type": "Batch"}, "unknown normalization_type 'Batch'; known: LN"),
        ("config.json", {"positional_embedding_type": "alibi"}, "unknown positional_embedding_type 'alibi'"),
        ("config.json", {"attn_only": False, "act_fn": "solu"}, "unknown act_fn 'solu'; known: gelu"),
        ("config.json", {"use_local_attn": True}, "use_local_attn = True is not supported"),
        ("config.json", {"use_attn_scale": False}, "use_attn_scale = False is not supported"),
        ("config.json", {"n_layers": 0}, "config.json describes no model: layers"),
        ("config.json", {"n_layers": "two"}, "config.json describes no model: layers|not a readable recorded run"),
        ("config.json", {"n_layers": 3}, "lacks the tensor 'blocks.2"),
        ("config.json", {"d_vocab": 99}, "tensor 'embed.W_E' has shape"),
        ("config.json", {"d_model": None}, "describes no model"),
    ],
)
def test_settings_that_cannot_be_replayed_are_refused(
    copy: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    edit(copy / file, **changes)
    with pytest.raises(PahqError, match=words) as caught:
        read_recorded(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "7", "null", "\xff"])
def test_broken_json_is_one_sentence(copy: Path, name: str, content: str) -> None:
    (copy / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(PahqError) as caught:
        read_recorded(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "result.json", "tensors.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(PahqError, match=name) as caught:
        read_recorded(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["n_layers", "d_vocab", "n_ctx"])
def test_a_missing_entry_is_named(copy: Path, key: str) -> None:
    values = json.loads((copy / "config.json").read_text())
    del values[key]
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(PahqError, match=f"lacks the entry '{key}'"):
        read_recorded(copy)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_a_cut_weights_file_is_one_sentence(copy: Path, cut: int) -> None:
    path = copy / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(PahqError, match=r"tensors\.safetensors is missing or not a safetensors file") as caught:
        read_recorded(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tokens.clean", None, "lacks the entry 'tokens.clean'"),
        ("tokens.clean", torch.zeros(16, 12), "tokens.clean must be whole numbers"),
        ("tokens.corrupted", torch.zeros(16, dtype=torch.long), "tokens.corrupted must be whole numbers"),
        ("tokens.corrupted", torch.zeros(16, 9, dtype=torch.long), r"corrupted ones \[16, 9\]"),
        ("model.embed.W_E", None, "lacks the tensor 'embed.W_E'"),
        ("model.extra", torch.zeros(2), "has no tensor 'extra'"),
        ("model.unembed.W_U", torch.full((64, 113), float("nan")), "'unembed.W_U' holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_named(copy: Path, name: str, value: torch.Tensor | None, words: str) -> None:
    tensors = load_file(copy / "tensors.safetensors")
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), copy / "tensors.safetensors")
    with pytest.raises(PahqError, match=words):
        read_recorded(copy)


def test_no_folder_and_unknown_edges_are_refused(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(PahqError, match="is not a folder"):
        read_recorded(tmp_path / "nowhere")
    recorded = json.loads((copy / "result.json").read_text())
    recorded["tests"][4]["sender"] = "a7.1"
    (copy / "result.json").write_text(json.dumps(recorded))
    (run,) = read_recorded(copy)
    with pytest.raises(PahqError, match=r"no edge 'a7\.h1->"):
        check_edges(run, build_problem(run.model, run.prompts, metric="kl").graph)


TL = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_head": 4, "d_vocab": 5, "n_ctx": 6}


def test_configurations_of_other_families() -> None:
    config = model_config(TL | {"normalization_type": "LN", "act_fn": "gelu", "d_vocab_out": -1})
    assert (config.d_mlp, config.d_vocab_out, config.activation, config.kv_heads) == (32, 5, "gelu", 2)
    rotary = {"normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_base": 500, "act_fn": "silu"}
    config = model_config(TL | rotary | {"n_key_value_heads": 1, "gated_mlp": True, "d_mlp": 12, "eps": 1e-6})
    assert (config.norm, config.positions, config.rotary_base, config.gated) == ("rms", "rotary", 500.0, True)
    assert (config.kv_heads, config.d_mlp, config.eps) == (1, 12, 1e-6)
    config = model_config(TL | {"normalization_type": None, "attention_dir": "bidirectional", "act_fn": "relu"})
    assert (config.norm, config.causal, config.activation) == ("none", False, "relu")


@pytest.mark.parametrize("norm", ["LNPre", "RMSPre"])
def test_folded_norms_have_no_weights_of_their_own(copy: Path, norm: str) -> None:
    tensors = {name: value for name, value in load_file(copy / "tensors.safetensors").items() if ".ln" not in name}
    tensors = {name: value for name, value in tensors.items() if "ln_final" not in name}
    save_file(tensors, copy / "tensors.safetensors")
    edit(copy / "config.json", normalization_type=norm)
    (run,) = read_recorded(copy)
    assert bool((run.model.layers[1].ln1_w == 1).all())
    assert run.model.layers[0].ln2_w is None
    assert (run.model.ln_final_b is None) == (norm == "RMSPre")
