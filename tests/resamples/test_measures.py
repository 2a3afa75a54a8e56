"""Jaccard indices, sizes and inclusion by hand, from a search that only pretends."""

from __future__ import annotations

import math

import pytest

from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.order import Order
from pahq.errors import PahqError
from pahq.resamples.measures import Repeats, Spread, Stability
from pahq.resamples.variants import (
    check_counts,
    order_variants,
    resample_variants,
    seed_variants,
)

GRAPH = build_graph(ModelShape(1, 2, 2, mlp=False))
A, B, C, D, *REST = map(str, GRAPH.edges)
FAKE = {  # what a search keeps, by resample
    "resample-000": [A, B],
    "resample-001": [A, B, C],
    "resample-002": [A, C, D],
    "resample-003": [A],
}


def measured() -> Stability:
    original = Circuit.from_names(GRAPH, [A, B])
    return Stability.of(original, {"resamples": FAKE, "orders": {"ascending-nearest": [B]}})


def test_inclusion_is_the_hand_count() -> None:
    inclusion = measured().inclusion
    assert list(inclusion) == [str(edge) for edge in GRAPH.edges]
    assert [inclusion[name] for name in (A, B, C, D)] == [1.0, 0.5, 0.5, 0.25]
    assert {inclusion[name] for name in REST} == {0.0}


def test_jaccard_indices_are_the_hand_counts() -> None:
    found = measured().resamples
    assert found.jaccard == pytest.approx(dict(zip(FAKE, (1, 2 / 3, 1 / 4, 1 / 2), strict=True)))
    pairs = [2 / 3, 1 / 4, 1 / 2, 2 / 4, 1 / 3, 1 / 3]
    assert found.pairwise is not None
    assert found.kept is not None
    assert found.pairwise.mean == pytest.approx(sum(pairs) / 6)
    assert (found.pairwise.min, found.pairwise.max) == pytest.approx((1 / 4, 2 / 3))
    assert found.pairwise.median == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert (found.kept.mean, found.kept.min, found.kept.max) == (9 / 4, 1, 3)
    values = found.to_json()
    assert (values["always"], values["ever"], values["circuits"]) == (1, 4, 4)
    assert values["each"]["resample-002"] == {"kept": 3, "jaccard": 0.25}
    assert measured().orders.jaccard == {"ascending-nearest": 0.5}


def test_by_chance_is_what_random_circuits_share() -> None:
    """Two circuits of 2 edges among N share 4 / N on average."""
    universe = len(GRAPH.edges)
    found = Stability.of(Circuit.from_names(GRAPH, [A, B]), {"resamples": {"one": [C, D]}}).resamples
    assert found.by_chance == pytest.approx((4 / universe) / (4 - 4 / universe))


def test_nothing_to_compare_is_no_number() -> None:
    nothing = measured().seeds
    assert (nothing.pairwise, nothing.to_original, nothing.kept, nothing.by_chance) == (None,) * 4
    assert all(math.isnan(share) for share in nothing.inclusion.values())
    assert nothing.to_json()["always"] is None
    empty = Circuit.from_names(GRAPH, [])
    twins = Repeats(empty, {"one": empty, "two": empty})
    assert twins.pairwise == Spread.of([1.0])  # two empty circuits are the same circuit


def test_an_edge_of_another_graph_is_told() -> None:
    with pytest.raises(PahqError, match="a9"):
        Stability.of(Circuit.from_names(GRAPH, [A]), {"resamples": {"one": ["a9.h9<q>"]}})


def test_variants_change_one_thing_each() -> None:
    own = Order("ascending", "nearest")
    assert {variant.order for variant in order_variants(own)} == {
        Order("descending", "nearest"),
        Order("descending", "farthest"),
        Order("ascending", "farthest"),
    }
    drawn, seeds = resample_variants(3, own), seed_variants(2, own)
    assert [variant.resample for variant in drawn] == [0, 1, 2]
    assert [variant.seed for variant in seeds] == [1, 2]
    assert {variant.order for variant in drawn + seeds} == {own}
    names = [variant.name for variant in drawn + seeds + order_variants(own)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((1, 0), "at least 2"),
        ((2, -1), "0 or more"),
        ((100_000_000, 0), "n=100000000 is too many searches of one cell; at most 10000"),
        ((2, 10_001), "seeds=10001 is too many searches of one cell; at most 10000"),
    ],
)
def test_faulty_counts(counts: tuple[int, int], sentence: str) -> None:
    with pytest.raises(PahqError, match=sentence):
        check_counts(*counts)
    check_counts(10_000, 10_000)
