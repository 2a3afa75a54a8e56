"""A search's bar: it counts edges that need no test, never goes back, and ends at 100%."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from support import small_models
from tqdm import tqdm

import pahq
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.order import Order
from pahq.search.progress import SearchBar, places

GRAPH = build_graph(ModelShape(2, 2, 2, mlp=True))


class Watched(tqdm):  # type: ignore[type-arg]
    """A bar that notes every state that it was in."""

    states: list[tuple[int, str]]
    drawn = 0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.states = [(self.n, "")]

    def refresh(self, *arguments: Any, **settings: Any) -> bool | None:
        self.drawn += 1
        return super().refresh(*arguments, **settings)

    def update(self, n: float | None = 1) -> bool | None:
        told = super().update(n)
        self.states.append((self.n, self.postfix or ""))
        return told


@pytest.mark.parametrize(
    "order", [Order(*values) for values in itertools.product(("descending", "ascending"), ("nearest", "farthest"))]
)
def test_every_edge_has_a_place_of_its_own(order: Order) -> None:
    assert sorted(places(GRAPH, order)) == list(range(1, len(GRAPH.edges) + 1))


def test_a_search_ends_at_all_edges_and_names_tests_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Watched] = []

    def kind(*arguments: Any, **settings: Any) -> Watched:
        seen.append(Watched(*arguments, **settings | {"disable": False, "leave": False}))
        return seen[-1]

    monkeypatch.setattr("pahq.api.tqdm", kind)
    model = small_models.random_model("gpt2")
    found = pahq.acdc(model, small_models.random_prompts(model), 0.3, progress=False)
    [bar] = seen
    counts = [count for count, _ in bar.states]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == bar.total == len(found.circuit.graph.edges) > len(found.decisions)
    assert bar.states[-1][1] == f"tests={len(found.decisions)}, kept={len(found.edges)}"


def test_a_search_that_goes_on_begins_where_it_stopped() -> None:
    place = places(GRAPH, Order())
    first, second = sorted(range(len(place)), key=lambda edge: place[edge])[4:6]
    with SearchBar(GRAPH, Order(), [(first, False)], kind=Watched, leave=False) as bar:
        bar.decided(second, True)
        shown = bar._bar
        assert [count for count, _ in shown.states] == [5, 6]
        assert shown.postfix == "tests=2, kept=1"


def test_a_test_is_drawn_when_the_bar_sees_fit() -> None:
    """Thousands of tests a second would else wait for the terminal."""
    with SearchBar(GRAPH, Order(), kind=Watched, leave=False, mininterval=1e6) as bar:
        before = bar._bar.drawn
        for edge in sorted(range(len(GRAPH.edges)), key=places(GRAPH, Order()).__getitem__)[:20]:
            bar.decided(edge, True)
        assert bar._bar.drawn == before
        assert bar._bar.n == 20
