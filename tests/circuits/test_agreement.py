"""ROC curves by hand, and against the areas of the published points where those lie beside the project."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest
from support.places import SHARED

from pahq.circuits.agreement import Agreement, Curve, Point, point
from pahq.errors import PahqError

GOLDEN = SHARED / "golden"


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(tuple(Point(*p) for p in points))


def test_point_counts_rates() -> None:
    # universe of 10, reference {a, b, c, d}: of the circuit's three edges two are right
    assert point({"a", "b", "x"}, {"a", "b", "c", "d"}, 10) == Point(1 / 6, 0.5)


@pytest.mark.parametrize("reference", [set(), {"a", "b"}])
def test_point_refuses_an_undefined_rate(reference: set[str]) -> None:
    with pytest.raises(PahqError, match="undefined"):
        point({"a"}, reference, 2)


def test_two_points_by_hand() -> None:
    two = curve((0.2, 0.5), (0.6, 0.9))
    assert two.auc_steps == pytest.approx(0.8 * 0.5 + 0.4 * 0.4 + 0.0 * 0.1)
    assert two.auc_trapezoid == pytest.approx(0.2 * 0.25 + 0.4 * 0.7 + 0.4 * 0.95)


def test_order_and_repetition_do_not_matter() -> None:
    once = curve((0.2, 0.5), (0.6, 0.9))
    assert curve((0.6, 0.9), (0.2, 0.5), (0.6, 0.9)).front == once.front


def test_end_points_belong_to_every_curve() -> None:
    empty = curve()
    assert empty.front == (Point(0, 0), Point(1, 1))
    assert (empty.auc_steps, empty.auc_trapezoid) == (0.0, 0.5)


def test_dominated_point_is_dropped() -> None:
    assert Point(0.5, 0.4) not in curve((0.2, 0.6), (0.5, 0.4)).front


def test_ties_are_no_dominance() -> None:
    """Equal in one rate: both stay, since the rule is strict in both."""
    tied = curve((0.2, 0.6), (0.2, 0.3), (0.5, 0.6))
    assert set(tied.front) >= {Point(0.2, 0.6), Point(0.2, 0.3), Point(0.5, 0.6)}
    assert tied.auc_steps == pytest.approx(0.8 * 0.6)
    assert tied.auc_trapezoid == pytest.approx(0.2 * 0.15 + 0.3 * 0.6 + 0.5 * 0.8)


def test_perfect_point() -> None:
    perfect = curve((0.0, 1.0))
    assert (perfect.auc_steps, perfect.auc_trapezoid) == (1.0, 1.0)
    assert perfect.few_points


def test_few_points_counts_distinct_interior_points_on_the_front() -> None:
    assert curve((0.1, 0.5), (0.1, 0.5), (0.0, 0.0), (1.0, 1.0), (0.9, 0.2)).interior == 1
    assert curve((0.1, 0.5), (0.2, 0.6)).few_points
    assert not curve((0.1, 0.5), (0.2, 0.6), (0.3, 0.7)).few_points


def test_agreement_by_hand() -> None:
    agreement = Agreement.of({"a", "b", "x"}, {"a", "b", "c", "d"}, 12)
    assert (agreement.shared, agreement.only_here, agreement.only_reference) == (2, 1, 2)
    assert agreement.differing == 3
    assert agreement.jaccard == pytest.approx(2 / 5)
    assert agreement.jaccard_by_chance == pytest.approx(1 / 6)  # expected overlap 3 * 4 / 12 = 1, of 7 - 1


def test_agreement_of_empty_circuits() -> None:
    assert Agreement.of(set(), set(), 5).jaccard == Agreement.of(set(), set(), 5).jaccard_by_chance == 1.0
    assert Agreement.of({"a"}, set(), 5).jaccard == 0.0


def test_circuits_of_which_one_is_empty_share_nothing_by_chance_either() -> None:
    for edges, reference in (({"a"}, set[str]()), (set[str](), {"a", "b"})):
        agreement = Agreement.of(edges, reference, 5)
        assert (agreement.jaccard, agreement.jaccard_by_chance) == (0.0, 0.0)
        assert agreement.differing == len(edges | reference)


def test_points_curves_and_agreements_are_values() -> None:
    for make in (lambda: Point(0.1, 0.2), lambda: curve((0.1, 0.2)), lambda: Agreement(1, 2, 3, 9)):
        assert len({make(), make()}) == 1
        with pytest.raises(FrozenInstanceError):
            make().tpr = 0.5  # type: ignore[misc]


def test_whole_circuits_agree_by_chance() -> None:
    everything = {"a", "b", "c"}
    assert Agreement.of(everything, everything, 3).jaccard_by_chance == 1.0


def test_published_points_give_the_published_areas() -> None:
    """All 32 sweeps of ACDC, SP and HISP that the ACDC release holds, to three digits."""
    if not (GOLDEN / "acdc_published_points.json").exists():
        pytest.skip("the published points are not beside this project")
    key = ("task", "metric", "alg", "weights", "ablation")
    areas = json.loads((GOLDEN / "acdc_published_auc.json").read_text())
    wanted = {tuple(entry[name] for name in key): entry for entry in areas}
    sweeps = json.loads((GOLDEN / "acdc_published_points.json").read_text())
    assert len(sweeps) == len(wanted) == 32
    for sweep in sweeps:
        entry = wanted[tuple(sweep[name] for name in key)]
        found = curve(*zip(sweep["edge_fpr"], sweep["edge_tpr"], strict=True))
        assert found.auc_steps == pytest.approx(entry["auc_edge"], abs=5e-4), entry["file"]
        assert found.auc_trapezoid == pytest.approx(entry["trap_edge"], abs=5e-4), entry["file"]
