"""Which tests `make check` runs, and that nothing that fails is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from check import ALWAYS, DOORS, FAST, chosen_tests, known_rooms, rooms_of, side_by_side

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


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Modules that end with a status, or wait until they are interrupted."""
    (tmp_path / "good.py").write_text("")
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "worse.py").write_text("raise SystemExit(4)")
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # which what a shell starts with & may not be
    waits = f"import pathlib, signal, time\n{heard}\ntry:\n    pathlib.Path('begun').touch()\n    time.sleep(60)\n"
    (tmp_path / "waits.py").write_text(
        f"{waits}except KeyboardInterrupt:\n    pathlib.Path('seen').touch()\n    raise\n"
    )
    late = "import pathlib, time\nwhile not pathlib.Path('begun').exists():\n    time.sleep(0.01)\ntime.sleep(0.2)\n"
    (tmp_path / "late.py").write_text(f"{late}raise SystemExit(5)")
    return tmp_path


@pytest.mark.parametrize(
    ("tests", "others", "status"),
    [("good", ["good", "good"], 0), ("bad", ["good"], 3), ("good", ["good", "worse"], 4), ("bad", ["worse"], 4)],
)
def test_any_failure_is_the_whole_s(commands: Path, tests: str, others: list[str], status: int) -> None:
    assert side_by_side((tests,), [(other,) for other in others], commands) == status


def test_a_fault_beside_the_tests_interrupts_them(commands: Path) -> None:
    assert side_by_side(("waits",), [("late",)], commands) == 5
    assert (commands / "seen").exists()
