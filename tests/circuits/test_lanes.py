"""Gutters that edges choose, by hand."""

from __future__ import annotations

from pahq.circuits.lanes import Lane, Spot, lanes_of


def test_edges_avoid_a_gutter_only_where_another_one_passes_the_same_rows() -> None:
    upper, lower = (Spot(0, 1, 1), Spot(2, 1, 1)), (Spot(3, 1, 1), Spot(5, 1, 1))
    found = lanes_of([upper, lower, upper], ["all"] * 6, right=9)
    assert found == (Lane(1, 0, 1, 1), Lane(1, 0, 4, 4), Lane(2, 0, 1, 1))


def test_an_edge_with_nothing_in_its_way_needs_no_lane() -> None:
    assert lanes_of([(Spot(0, 1, 1), Spot(2, 1, 1))], ["none"] * 3, right=9) == (None,)


def test_however_many_edges_pass_a_row_they_do_so_between_columns_or_right_beside_them() -> None:
    found = lanes_of([(Spot(0, 1, 1), Spot(2, 1, 1))] * 120, ["all"] * 3, right=9)
    assert {lane.gutter for lane in found if lane} == {0, 1, 2}
    assert len({(lane.gutter, lane.number) for lane in found if lane}) == 120
    assert lanes_of([], ["all"], right=9) == ()
