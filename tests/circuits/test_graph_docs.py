"""docs/graph.md: every number of its table is what ``build_graph`` makes."""

from __future__ import annotations

import pytest
from support.places import ROOT

from pahq.circuits.graph import ModelShape, build_graph

TEXT = (ROOT / "docs" / "graph.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("row", ROWS[1:], ids=lambda row: row[0])
def test_a_row_is_what_build_graph_makes(row: list[str]) -> None:
    layers, heads, kv_heads, mlp, embeds, parallel, *counts = (int(cell.replace(",", "")) for cell in row[1:])
    graph = build_graph(ModelShape(layers, heads, kv_heads, mlp == 1, embeds == 2, parallel == 1))
    into = {
        kind: sum(graph.upstream(r) for r in graph.receivers if r.kind == kind) for kind in ("head", "mlp", "logits")
    }
    assert counts == [into["head"], into["mlp"], into["logits"], graph.n_addition, graph.n_direct]


def test_the_formulas_give_the_table() -> None:
    for row in ROWS[1:]:
        layers, heads, kv, mlp, embeds, parallel, *counts = (int(cell.replace(",", "")) for cell in row[1:])
        below = [embeds + layer * (heads + mlp) for layer in range(layers)]
        into_heads = (heads + 2 * kv) * sum(below)
        into_mlps = mlp * sum(senders + (1 - parallel) * heads for senders in below)
        logits, direct = embeds + layers * (heads + mlp), layers * (heads + 2 * kv)
        assert counts == [into_heads, into_mlps, logits, into_heads + into_mlps + logits, direct]


def test_the_models_that_the_page_is_asked_about_are_there() -> None:
    assert {row[0] for row in ROWS[1:]} >= {
        "GPT-2 small",
        "attn-only-4l",
        "redwood_attn_2l",
        "SmolLM2-135M",
        "Pythia-160M",
    }
    assert "1,290" in TEXT
