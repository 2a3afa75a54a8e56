"""Tables of settings made short (tests/support/pairs.py) still let every two values meet."""

from __future__ import annotations

from itertools import combinations, product

from support.pairs import pairs

SETTINGS: dict[str, list[object]] = {"family": ["a", "b", "c", "d", "e"], "form": [1, 2, 3], "fast": [True, False]}


def cases(**more: object) -> list[tuple[object, ...]]:
    mark = pairs(SETTINGS, **more).mark  # type: ignore[arg-type]
    assert mark.args[0] == list(SETTINGS)
    return list(mark.args[1])


def test_every_two_values_meet() -> None:
    found = cases(every=False)
    assert len(set(found)) == len(found) < 5 * 3 * 2 / 1.9
    for one, other in combinations(range(3), 2):
        values = list(SETTINGS.values())
        assert {(row[one], row[other]) for row in found} == set(product(values[one], values[other]))


def test_every_case_runs_where_it_is_asked_for_and_none_that_is_left_out() -> None:
    assert sorted(cases(every=True)) == sorted(product(*SETTINGS.values()))
    wanted = [row for row in product(*SETTINGS.values()) if row[:2] != ("a", 2)]
    assert sorted(cases(every=True, without=lambda family, form, fast: (family, form) == ("a", 2))) == sorted(wanted)
    assert not any(row[:2] == ("a", 2) for row in cases(every=False, without=lambda a, b, c: (a, b) == ("a", 2)))
