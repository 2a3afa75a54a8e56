"""How layers are put together: what the table says, what walks it, and what a graph is told of it."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from support import small_models
from support.small_models import random_model, random_prompts

from pahq.circuits.graph import Receiver, build_graph
from pahq.model.block import WIRINGS, Part, behind, cross, mlp_reads_heads, part_of, parts_of, through
from pahq.model.forward import logits, part_output
from pahq.model.layerweights import LayerWeights
from pahq.model.sources.find import load_model, save_model
from pahq.model.weights import ModelConfig

SERIAL, PARALLEL, HEADS = (
    parts_of("serial", mlp=True),
    parts_of("parallel", mlp=True),
    parts_of("serial", mlp=False),
)


@pytest.mark.parametrize("name", WIRINGS)
def test_a_part_reads_only_what_is_added_before_it(name: str) -> None:
    parts = WIRINGS[name]
    assert [part.kind for part in parts] == ["heads", "mlp"]  # the order in which a graph lists a layer's senders
    assert all(0 <= part.reads <= place for place, part in enumerate(parts))


def test_every_wiring_has_a_name_in_a_config_and_a_model_in_these_tests() -> None:
    assert set(get_args(ModelConfig.model_fields["block"].annotation)) == set(WIRINGS)
    assert {random_model(family).config.block for family in small_models.FAMILIES} == set(WIRINGS)


def test_what_the_parts_read() -> None:
    assert [(part.kind, part.reads) for part in SERIAL] == [("heads", 0), ("mlp", 1)]
    assert [(part.kind, part.reads) for part in PARALLEL] == [("heads", 0), ("mlp", 0)]
    assert [(part.kind, part.reads) for part in HEADS] == [("heads", 0)]
    assert [mlp_reads_heads(parts) for parts in (SERIAL, PARALLEL, HEADS)] == [True, False, False]
    assert part_of(PARALLEL, "mlp") == Part("mlp", reads=0)


def test_what_stands_behind_a_part() -> None:
    above = [(2, "heads"), (2, "mlp")]
    assert list(behind(SERIAL, "heads", 1, 3)) == [(1, "mlp"), *above]
    assert list(behind(SERIAL, "mlp", 1, 3)) == above
    assert list(behind(PARALLEL, "heads", 1, 3)) == above  # the MLP beside the heads reads nothing of them
    assert list(behind(PARALLEL, "mlp", 1, 3)) == above
    assert list(behind(HEADS, "heads", 0, 3)) == [(1, "heads"), (2, "heads")]
    assert list(behind(SERIAL, "mlp", 2, 3)) == []


@pytest.mark.parametrize(
    ("parts", "expected"), [(SERIAL, ["m(x+a(x))", "x+a(x)"]), (PARALLEL, ["m(x)", "x+a(x)"]), (HEADS, ["a(x)", "x"])]
)
def test_a_layer_is_crossed_as_its_parts_say(parts: tuple[Part, ...], expected: list[str]) -> None:
    levels = {0: "x"}
    cross(parts, levels, lambda part, read, stream: f"{stream}+{'a' if part.kind == 'heads' else 'm'}({read})")
    sent, stream = expected
    assert levels == {0: f"{stream}+{sent}"}


@pytest.mark.parametrize(("parts", "kept"), [(SERIAL, False), (PARALLEL, True)])
def test_a_stream_goes_when_no_part_reads_it_any_more(parts: tuple[Part, ...], kept: bool) -> None:
    """A stream takes as much memory as a layer's outputs do."""
    levels = {0: torch.zeros(3)}
    before, alive = weakref.ref(levels[0]), []

    def advance(part: Part, read: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        if part.kind == "mlp":
            alive.append(before() is not None)
        return stream + 1

    gc.disable()
    try:
        cross(parts, levels, advance)
        assert alive == [kept]
        assert before() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("family", ["gpt2", "parallel"])
def test_a_graph_has_edges_from_heads_where_their_mlp_reads_them(family: str) -> None:
    """Moved in the network itself: what a layer's heads send is changed, and the MLP beside them moves or does not."""
    model = random_model(family)
    config, graph = model.config, build_graph(model.config.shape())
    start = model.W_E[random_prompts(model).clean]

    def mlps(shift: float) -> list[torch.Tensor]:
        sent: list[torch.Tensor] = []

        def send(index: int, layer: LayerWeights, part: Part, read: torch.Tensor) -> torch.Tensor:
            output = part_output(config, layer, part, read)
            if part.kind == "mlp":
                sent.append(output)
                return output
            return output + shift * (index == 1) * torch.arange(config.d_head)

        through(config.parts, model.layers, start, send)
        return sent

    changed = [not torch.equal(a, b) for a, b in zip(mlps(0.0), mlps(1.0), strict=True)]
    heads = graph.head_senders(1)
    has_edges = [graph.upstream(Receiver("mlp", layer)) >= heads.stop for layer in range(2)]
    assert changed == has_edges == [False, family == "gpt2"]


def test_a_parallel_block_without_mlps_is_refused() -> None:
    config = random_model("attention-only").config
    with pytest.raises(ValidationError, match="a parallel block has an MLP, and d_mlp is 0"):
        ModelConfig(**config.model_dump() | {"block": "parallel"})
    with pytest.raises(ValidationError, match="'serial' or 'parallel'"):
        ModelConfig(**config.model_dump() | {"block": "sandwich"})


def test_a_folder_says_how_its_blocks_are_wired_and_older_ones_are_serial(tmp_path: Path) -> None:
    model = random_model("parallel", dtype=torch.float32)
    tokens = random_prompts(model).clean
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config.block == "parallel"
    assert torch.equal(logits(again, tokens), logits(model, tokens))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["block"]  # as every model was stored before there was a choice
    (tmp_path / "config.json").write_text(json.dumps(values))
    older = load_model(tmp_path)
    assert older.config.block == "serial"
    assert not torch.allclose(logits(older, tokens), logits(model, tokens))
