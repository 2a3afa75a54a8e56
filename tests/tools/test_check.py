"""Which tests `make check` runs."""

from __future__ import annotations

import pytest
from check import ALWAYS, DOORS, FAST, chosen_tests, known_rooms, rooms_of

KNOWN = ["cell", "engine", "model"]


def test_files_belong_to_the_room_of_their_folder() -> None:
    files = ["pahq/engine/suffix/wave.py", "tests/cell/test_run.py", "pahq/api.py", "docs/graph.md", "conf/x/y.yaml"]
    assert rooms_of(files, KNOWN) == ["cell", "engine"]
    beside = ["tools/check.py", "conf/config.yaml", "Snakefile", "workflow/rules/cells.smk", "README.md"]
    assert rooms_of(beside, known_rooms()) == ["experiments", "tools"]


def test_changed_tests_at_the_root_run_too() -> None:
    found = chosen_tests([], KNOWN, ["tests/test_api.py", "pahq/model/run.py"])
    assert found == [*ALWAYS, "tests/model", "tests/test_api.py"]
    assert chosen_tests([], KNOWN, ["pahq/api.py", "pahq/cell/run.py"]) == [*ALWAYS, "tests/cell", *DOORS]


def test_without_a_change_a_fast_set_runs() -> None:
    assert chosen_tests([], KNOWN, ["README.md"]) == [*ALWAYS, *(f"tests/{room}" for room in FAST)]
    assert set(FAST) <= set(known_rooms())


def test_rooms_can_be_named() -> None:
    assert chosen_tests(["all"], KNOWN, []) == ["tests"]
    assert chosen_tests(["engine"], KNOWN, ["pahq/cell/run.py"]) == [*ALWAYS, "tests/engine"]
    with pytest.raises(ValueError, match="unknown room 'kitchen'; known: all, cell, engine, model"):
        chosen_tests(["kitchen"], KNOWN, [])
