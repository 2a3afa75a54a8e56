"""Two methods side by side: circuits of one size, ranks of all edges; what is of no size or no score is left out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from support import small_models

from pahq.analysis import pairs
from pahq.analysis.collect import Collected
from pahq.analysis.pairs import NAMES, pair_rows
from pahq.analysis.pairsfigure import pairs_figure
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import build_graph
from pahq.circuits.packed import PackedCircuits
from pahq.circuits.scores import Scores
from pahq.errors import PahqError

GRAPH = build_graph(small_models.random_model("gpt2", layers=4).config.shape(), direct_edges=False)
EDGES = len(GRAPH.edges)
COUNT = round(0.05 * EDGES)
VALUES = tuple(float(EDGES - edge) for edge in range(EDGES))  # the graph's own order


def cell(method: str, circuit: Circuit, threshold: float = math.nan, **more: object) -> dict[str, object]:
    values = {
        "id": f"{method}-{threshold}-{len(circuit)}",
        "task": "t",
        "method": method,
        "variant": "",
        "series": method,
    }
    values |= {"scores": method != "acdc", "full_precision": True, "engine": "suffix", "metric": "logit_diff"}
    sizes = {"edges": EDGES, "kept": len(circuit), "kept_cleaned": len(circuit.cleaned(ablation="zero"))}
    return values | sizes | {"threshold": threshold, "ablation": "zero", "circuit": circuit} | more


def first(count: int) -> Circuit:
    """The last edges of the graph, those into the logits first: all of them lie on a path."""
    return Circuit.from_indices(GRAPH, range(count))


def collected(*cells: dict[str, object]) -> Collected:
    circuits = {str(row["id"]): row["circuit"] for row in cells}
    frame = pd.DataFrame(cells).drop(columns="circuit")
    return Collected(frame, pd.DataFrame(columns=["id", "reason"]), PackedCircuits(circuits))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scored cell has the graph's own order, but ``exact``, which has the reverse."""

    def read(path: Path, graph: object, config: object) -> Scores:
        values = VALUES[::-1] if "exact" in str(path) else VALUES
        return Scores(GRAPH, values, method="eap-ig", metric="kl")

    monkeypatch.setattr(pairs, "read_scores", read)
    monkeypatch.setattr(pairs, "read_result", lambda folder: SimpleNamespace(config=None))


def by_pair(rows: pd.DataFrame) -> dict[tuple[str, str], dict[str, object]]:
    return {(row["first"], row["second"]): row for row in rows.to_dict("records")}


def test_ranks_of_all_edges_and_circuits_of_one_size() -> None:
    into_logits = [edge for edge in range(EDGES) if GRAPH.edges[edge].receiver.kind == "logits"]
    one, other = (Circuit.from_indices(GRAPH, chosen) for chosen in (into_logits[:COUNT], into_logits[1 : COUNT + 1]))
    rows = by_pair(pair_rows("root", collected(cell("eap", one), cell("exact", other), cell("eap-ig", one))))
    assert list(rows) == [("eap", "eap-ig"), ("eap", "exact"), ("eap-ig", "exact")]  # in the order of tables
    assert rows["eap", "eap-ig"]["rank_correlation"] == pytest.approx(1)
    assert rows["eap", "exact"]["rank_correlation"] == pytest.approx(-1)
    assert rows["eap", "eap-ig"]["jaccard"] == 1
    kept = one.cleaned(ablation="zero"), other.cleaned(ablation="zero")
    shared, either = (len(set(kept[0].edges) & set(kept[1].edges)), len(set(kept[0].edges) | set(kept[1].edges)))
    assert rows["eap", "exact"]["jaccard"] == pytest.approx(shared / either)


def test_a_search_ranks_by_the_threshold_at_which_an_edge_falls() -> None:
    sweep = [cell("acdc", first(2 * COUNT), 0.1), cell("acdc", first(COUNT), 0.2)]
    rows = by_pair(pair_rows("root", collected(*sweep, cell("eap", first(COUNT)))))
    found = Scores.of_sweep({0.1: first(2 * COUNT), 0.2: first(COUNT)})
    assert found.values[: COUNT + 1] == (*[0.2] * COUNT, 0.1)
    assert found.values[2 * COUNT :] == (0.0,) * (EDGES - 2 * COUNT)
    expected = pd.Series(found.values).corr(pd.Series(VALUES), method="spearman")
    assert rows["acdc", "eap"]["rank_correlation"] == pytest.approx(expected)


def test_circuits_of_another_graph_or_ablation_are_not_compared() -> None:
    """They are grounds of their own, and the task's name says which."""
    other = build_graph(small_models.random_model("gpt2", layers=4).config.shape(), direct_edges=True)
    more = Circuit.from_indices(other, range(COUNT))
    cells = [cell("eap", first(COUNT)), cell("eap-ig", first(COUNT)), cell("exact", first(COUNT), ablation="mean")]
    cells.append(cell("exact", more, edges=len(other.edges), id="of another graph"))
    rows = pair_rows("root", collected(*cells))
    assert list(zip(rows["first"], rows["second"], strict=True)) == [("eap", "eap-ig")]
    assert rows["task"].tolist() == [f"t (zero ablation, {EDGES:,} edges)"]


def test_a_circuit_of_another_size_is_not_compared() -> None:
    rows = by_pair(pair_rows("root", collected(cell("eap", first(COUNT)), cell("eap-ig", first(EDGES)))))
    assert math.isnan(rows["eap", "eap-ig"]["jaccard"])  # type: ignore[arg-type]
    assert rows["eap", "eap-ig"]["rank_correlation"] == pytest.approx(1)


def test_without_scores_there_is_no_pair_and_the_figure_says_so() -> None:
    rows = pair_rows("root", collected(cell("acdc", first(COUNT), 0.1)))
    assert rows.empty
    assert list(rows.columns) == list(NAMES)
    assert any("No method of this experiment" in text.get_text() for text in pairs_figure(rows).texts)


def test_sweeps_without_a_circuit_or_of_two_graphs_have_no_scores() -> None:
    other = build_graph(small_models.random_model("gpt2").config.shape())
    for circuits in ({}, {0.1: first(3), 0.2: Circuit.from_indices(other, [0])}):
        with pytest.raises(PahqError, match="circuits of one graph were expected"):
            Scores.of_sweep(circuits)


def test_circuits_of_a_size_that_both_have_are_compared_however_small() -> None:
    """A search of a large model keeps far less than 5% of the edges: both methods' smaller circuits are compared."""
    into_logits = [edge for edge in range(EDGES) if GRAPH.edges[edge].receiver.kind == "logits"]
    small, wide = Circuit.from_indices(GRAPH, into_logits[:4]), first(2 * COUNT)
    search = cell("acdc", small, 0.1)
    rows = by_pair(pair_rows("root", collected(search, cell("eap", wide), cell("eap", small))))
    assert rows["acdc", "eap"]["jaccard"] == 1
    kept = len(small.cleaned(ablation="zero"))
    assert (rows["acdc", "eap"]["first_kept"], rows["acdc", "eap"]["second_kept"]) == (kept, kept)
