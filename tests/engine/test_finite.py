"""A network that overflows stops a search with a sentence that says where, in both engines and at set-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_models

from pahq.config.cell import CellConfig, RunConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.problem import build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.errors import PahqError
from pahq.model.sources.find import save_model
from pahq.tasks.task import Prompts, last_items

random_model, random_prompts = small_models.random_model, small_models.random_prompts


def with_layer(model, index: int, **changes):
    layers = list(model.layers)
    layers[index] = replace(layers[index], **changes)
    return replace(model, layers=tuple(layers))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_set_up_names_the_first_value_that_overflows(family: str) -> None:
    model = random_model(family, dtype=torch.float32)
    prompts = random_prompts(model)
    weights = model.layers[1].W_K.clone()
    weights[0] *= torch.finfo(torch.float32).max / weights[0].abs().max()
    with pytest.raises(PahqError, match=r"clean prompts.*layer 1 the (projection|output) of a1\.h0"):
        build_problem(with_layer(model, 1, W_K=weights), prompts, metric="kl")
    large = model.layers[0].W_out * 1e38
    with pytest.raises(PahqError, match=r"clean prompts.*layer 0 the output of m0 is infinite in float32"):
        build_problem(with_layer(model, 0, W_out=large), prompts, metric="kl")


def apart(model) -> Prompts:
    """Prompts whose clean tokens are below 5 and whose corrupted ones are not."""
    clean = torch.arange(10).view(2, 5) % 5
    return Prompts(clean, clean + 5, last_items(2, 5))


def test_set_up_looks_at_the_corrupted_run_too() -> None:
    model = random_model("tracr", dtype=torch.float32)
    embedding = model.W_E.clone()
    embedding[5:, 0] = torch.finfo(torch.float32).max
    with pytest.raises(PahqError, match="on the corrupted prompts: in"):
        build_problem(replace(model, W_E=embedding), apart(model), metric="kl")


@pytest.mark.parametrize("engine", [ReferenceEngine, SuffixEngine])
def test_a_search_stops_where_a_circuit_overflows(engine) -> None:
    """Clean and corrupted runs are finite; what they differ by is not."""
    model = random_model("tracr", dtype=torch.float32)
    embedding = torch.zeros_like(model.W_E)
    embedding[:5, 0], embedding[5:, 0] = 3e38, -3e38
    layers = [
        {name: torch.zeros_like(getattr(layer, name)) for name in ("W_Q", "W_K", "W_V", "W_in")}
        for layer in model.layers
    ]
    for index, zeros in enumerate(layers):
        model = with_layer(model, index, **zeros)
    unembedding = model.W_U * 0
    model = replace(model, W_E=embedding, W_pos=model.W_pos * 0, W_U=unembedding)
    built = engine(build_problem(model, apart(model), metric="kl"))
    edge = built.graph.index_of("embed->logits")
    with pytest.raises(
        PahqError, match=r"the network is not finite with the edges left when embed->logits is tested: in"
    ):
        built.measure([Trial(edge, (edge,))])


def test_a_cell_is_not_called_done(tmp_path: Path) -> None:
    from pahq.cell.run import run_cell
    from pahq.experiments.compose import compose_runs
    from pahq.model import load_model

    model = load_model("nano")
    save_model(with_layer(model, 2, W_in=model.layers[2].W_in * 1e38), tmp_path / "broken")
    typed = ["task=nano-ioi", "method=acdc", "task.examples=2", f"model.source={tmp_path / 'broken'}"]
    ((cell, _),) = compose_runs(typed)
    assert isinstance(cell, CellConfig)
    run = RunConfig(root=str(tmp_path), wandb="disabled", progress=False)
    with pytest.raises(PahqError, match="layer 2 the output of m2"):
        run_cell(cell, run)
    assert not list(tmp_path.rglob("result.json"))


def test_the_low_format_alone_may_overflow() -> None:
    model = random_model("gpt2", dtype=torch.float32)
    low = PrecisionConfig(name="fp16", format="fp16", mlp="fp16")
    with pytest.raises(PahqError, match="does not fit"):
        build_problem(
            with_layer(model, 0, W_out=model.layers[0].W_out * 1e6), random_prompts(model), metric="kl", precision=low
        )
