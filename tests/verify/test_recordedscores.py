"""Recorded scores of EAP-IG's code are met, tampered copies are not, broken ones are told in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_models
from support.places import GOLDEN

import pahq
from pahq.__main__ import main
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.scores import Scores
from pahq.config.method import GRADIENTS
from pahq.engine.problem import build_problem
from pahq.errors import PahqError
from pahq.scores.gradients import gradient_scores
from pahq.verify.command import verify
from pahq.verify.recordedscores import (
    METHODS,
    TOLERANCE,
    RecordedCircuit,
    ScoresComparison,
    compare_scores,
    read_recorded_scores,
    ungrouped,
    with_circuit,
)

FOLDERS = ("eapig_gpt2like", "eapig_gqa")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FOLDERS)
def test_every_recorded_score_and_circuit_is_met(name: str, dtype: str):
    found = verify(GOLDEN / name, dtype=dtype)
    assert len(found) == 11  # five methods of two metrics, and the baseline
    for comparison in found:
        assert comparison.first is None, comparison.first
        assert comparison.worst < TOLERANCE
        assert comparison.worst_metric < 1e-6
    assert sum(comparison.edges for comparison in found) == 10 * 479
    assert sum(comparison.circuits for comparison in found) == 27
    assert sum(comparison.ties for comparison in found) == 0


def test_a_grouped_edge_has_the_sum_of_the_recorded_scores_of_its_query_heads():
    recorded = read_recorded_scores(GOLDEN / "eapig_gqa")
    tensors = load_file(GOLDEN / "eapig_gqa/tensors.safetensors")
    assert tensors["model.blocks.0.attn.W_K"].shape[0] == 2 < recorded.model.config.kv_heads == 4
    layers = tuple(
        type(at)(**vars(at) | {name: getattr(at, name)[::2] for name in ("W_K", "W_V", "b_K", "b_V")})
        for at in recorded.model.layers
    )
    grouped = type(recorded.model)(
        **vars(recorded.model) | {"layers": layers, "config": recorded.model.config.model_copy(update={"kv_heads": 2})}
    )
    assert torch.equal(ungrouped(grouped).layers[0].W_K, recorded.model.layers[0].W_K)
    for metric, methods in recorded.scores.items():
        problem = build_problem(grouped, recorded.prompts, metric=metric, direct_edges=False)
        assert len(problem.graph.edges) == 343
        for method, values in methods.items():
            if method == "exact" or (method, metric) == ("EAP", "kl"):
                continue
            found = gradient_scores(problem, METHODS[method], convention="eap-ig")
            for edge, value in zip(problem.graph.edges, found.tolist(), strict=True):
                at = edge.receiver
                heads = problem.graph.shape.query_heads(at.letter, at.head) if at.kind == "head" else []
                names = [str(edge).replace(f".h{at.head}<", f".h{head}<") for head in heads] or [str(edge)]
                assert abs(sum(values[name] for name in names) - value) < 2 * TOLERANCE * max(map(abs, values.values()))


def change(part: str, *keys: Any, by: Callable[[Any], Any]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        values = json.loads((folder / part).read_text())
        at = values
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = by(at[keys[-1]])
        (folder / part).write_text(json.dumps(values))

    return tamper


def edit_weight(folder: Path) -> None:
    tensors = load_file(folder / "tensors.safetensors")
    tensors["model.blocks.1.attn.W_V"][1, 0, 0] += 0.01
    save_file(tensors, folder / "tensors.safetensors")


def keep(folder: Path, metric: str, method: str) -> None:
    """Of what is recorded one metric and method alone: what a tampered copy is told by, and quickly read."""
    for part in ("scores", "circuits"):
        values = json.loads((folder / f"{part}.json").read_text())
        of_metric = values[part].get(metric, {})
        values[part] = {metric: {name: kept for name, kept in of_metric.items() if name == method}}
        (folder / f"{part}.json").write_text(json.dumps(values))


EAP = ("scores.json", "scores", "logit_diff", "EAP")
TOP = ("circuits.json", "circuits", "logit_diff", "EAP", 1)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (change(*EAP, "m0->logits", by=lambda x: x + 1e-5), "EAP: .*DISAGREES: the score of m0->logits is "),
        (change(*EAP, "m0->logits", by=lambda x: float("nan")), "EAP: .*DISAGREES: the score of m0->logits is "),
        (change(*EAP[:-1], "exact", "m0->logits", by=lambda x: -x), "exact: .*the score of m0->logits is "),
        (change(*EAP[:-2], "kl", "EAP", "m0->logits", by=lambda x: 1e-4), "the score of m0->logits is 0 but for roun"),
        (change(*TOP, "edges", by=lambda edges: edges[1:]), "the circuit of the top 30 differs in 1 edges, "),
        (change(*TOP, "edges", by=lambda edges: [*edges, "input->a0.h0<q>"]), "top 30 differs in 1 edges"),
        (change(*TOP, "kl", by=lambda x: x + 1e-5), "kl of the circuit of the top 30 is "),
        (change("circuits.json", "baseline", "kl", "corrupted", by=lambda x: x * 1.001), "kl of the corrupted prompts"),
        (change(*EAP, by=lambda values: dict(list(values.items())[1:])), "embed->a0.h0<q> is scored on one side alone"),
        (change("scores.json", "ig_steps", by=lambda x: x + 1), "EAP-IG-inputs: .*DISAGREES"),
        (change("scores.json", "batch_size", by=lambda x: 4), "EAP-IG-inputs: .*DISAGREES"),
        (edit_weight, "DISAGREES"),
    ],
)
def test_a_tampered_copy_is_told(tmp_path: Path, capsys, tamper: Callable[[Path], None], words: str):
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN / "eapig_gpt2like", folder)
    tamper(folder)
    method = next((name for name in ("EAP-IG-inputs", "exact") if words.startswith(name)), "EAP")
    keep(folder, "kl" if words.endswith("roun") else "logit_diff", method)
    assert main(["verify", str(folder)]) == 1
    assert_matches(words, capsys.readouterr().out)


def assert_matches(words: str, text: str) -> None:
    assert re.search(words, text), text


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (change("scores.json", "scores", by=lambda x: {"kl": {"HISP": {}}}), "unknown method in scores.json 'HISP'"),
        (change("scores.json", "scores", by=lambda x: {"loss": x["kl"]}), "unknown metric 'loss'"),
        (change("scores.json", "edge_names", by=lambda x: {}), "lacks the entry"),
        (change("circuits.json", "circuits", by=lambda x: 5), "is not a readable recorded run"),
        (lambda folder: (folder / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
        (lambda folder: (folder / "scores.json").write_text("{"), "scores.json"),
    ],
)
def test_a_broken_folder_is_told_in_one_sentence(tmp_path: Path, capsys, tamper, words: str):
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN / "eapig_gpt2like", folder)
    tamper(folder)
    assert main(["verify", str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert_matches(words, output.err)
    assert output.err.count("\n") == 1


def test_scores_need_no_engine():
    with pytest.raises(PahqError, match="leave --engine out"):
        verify(GOLDEN / "eapig_gqa", engine="suffix")


def record(folder: Path, family: str, metrics: list[str], *, batch_size: int, **more: Any) -> None:
    """A folder as EAP-IG's recorder writes them, with numbers of this project's own."""
    model = small_models.random_model(
        family, 3, dtype=torch.float32, rotary_scaling=None
    )  # TransformerLens has no yarn
    prompts, config = small_models.random_prompts(model, 4, batch=4), model.config
    folder.mkdir()
    values = {"n_layers": config.layers, "n_heads": config.heads, "d_model": config.d_model, "d_head": config.d_head}
    values |= {"d_mlp": config.d_mlp, "d_vocab": config.d_vocab, "n_ctx": config.context, "act_fn": config.activation}
    values |= {"normalization_type": "LN" if config.norm == "layer" else "RMS", "gated_mlp": config.gated}
    values |= {"n_key_value_heads": config.kv_heads, "rotary_base": config.rotary_base, "attn_only": not config.d_mlp}
    values |= {"rotary_dim": config.rotary_dim}
    values |= {"positional_embedding_type": {"learned": "standard"}.get(config.positions, config.positions), **more}
    (folder / "config.json").write_text(json.dumps(values))
    tensors = {f"model.{name}": tensor for name, tensor in model.tensors().items()} | {"model.unembed.W_U": model.W_U}
    tensors |= {"tokens.clean": prompts.clean, "tokens.corrupted": prompts.corrupted}
    tensors |= {f"targets.{name}": prompts.targets[name] for name in ("answer", "wrong")}
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "tensors.safetensors")
    names, scores = {}, {}
    for metric in metrics:
        for theirs, ours in METHODS.items():
            if (metric, ours) != ("kl", "eap"):
                asked = {"metric": metric, "steps": 2, "convention": "eap-ig", "batch_size": batch_size}
                wide = ungrouped(model).to(dtype=torch.float64)  # what float32 makes of it hangs on the machine
                found = pahq.score(wide, prompts, ours, **asked)  # type: ignore[arg-type]
                names = {name.replace("embed", "input"): name for name in found.by_name}
                own = {theirs: {name.replace("embed", "input"): value for name, value in found.by_name.items()}}
                scores[metric] = scores.get(metric, {}) | own
    recorded = {"scores": scores, "edge_names": names, "ig_steps": 2, "batch_size": batch_size}
    (folder / "scores.json").write_text(json.dumps(recorded))


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("gpt2", {}),
        ("attention-only", {}),
        ("shortformer", {}),
        ("llama", {}),
        ("parallel", {"parallel_attn_mlp": True}),
        ("qwen", {"use_qk_norm": True}),
    ],
)
def test_folders_of_every_family_are_read(tmp_path: Path, family: str, more: dict[str, Any]):
    record(tmp_path / "made", family, ["kl", "nll"], batch_size=2, **more)
    found = verify(tmp_path / "made")
    assert [comparison.first for comparison in found] == [None] * 9
    assert set(METHODS.values()) == {*GRADIENTS, "exact"}


def test_edges_that_rounding_cannot_tell_from_the_cut_are_ties():
    graph = build_graph(ModelShape(1, 1, 1, True), direct_edges=False)
    names = [str(edge) for edge in graph.edges]
    ours = dict.fromkeys(names, 0.0) | {"embed->logits": 1.0, "m0->logits": 0.5, "embed->m0": 0.6, "a0.h0->logits": 0.5}
    circuit = RecordedCircuit(3, frozenset({"embed->logits", "embed->m0", "m0->logits"}), {})

    def found(**theirs: float) -> ScoresComparison:
        recorded = ours | {name.replace("_", "->"): value for name, value in theirs.items()}
        scores = Scores(graph, tuple(ours[name] for name in names), "exact", "kl")
        return with_circuit(compare_scores("made", recorded, scores), circuit, scores, recorded)

    assert names.index("a0.h0->logits") < names.index("m0->logits")  # of equal ones the first is in
    assert found(m0_logits=0.5 + 1e-6).ties == 2
    assert found(m0_logits=0.5 + 1e-6).first is None
    assert "top 3 differs in 2 edges" in str(found())
    ours["m0->logits"] = 0.5 - 5e-6
    assert "recorded" in str(found(m0_logits=0.5 + 1e-6).first)
