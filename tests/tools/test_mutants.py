"""Which changes `make mutants` draws, what becomes of them, and what it says about that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mutants
import pytest
import yaml
from mutantplaces import Mutant, Place, difference, draw, function_at, mutated, places
from mutants import REASONS, ROOMS, ROOT, Found, TestFile, all_places, callers, lines, matching, report

SOURCE = '''"""Sums."""
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    SEEN = 1 + 2

def upto(n: int | None, *, step: int = 3) -> int | None:
    total = 0
    for k in range(n):
        total += k * step if k < 5 else 0
    return total
'''


def mutant(outcome: str, room: str = "search", after: str = "a >= b") -> Found:
    made = Mutant(room, "pahq/search/x.py", 7, "Replace", "a > b", after, "")
    return Found(made, outcome, "", ("tests/search/test_x.py",))


def test_rooms_give_places_in_turn_each_once_and_a_seed_gives_the_same_again() -> None:
    rooms = {
        room: [Place(room, line, 0, (("one", 0), ("two", 1))) for line in range(n)] for room, n in (("a", 5), ("b", 2))
    }
    found = list(draw(rooms, 0))
    assert [room for room, _, _ in found] == ["a", "b", "a", "b", "a", "a", "a"]
    assert {(place.file, place.line) for _, place, _ in found} == {
        (p.file, p.line) for own in rooms.values() for p in own
    }
    assert found == list(draw(rooms, 0)) != list(draw(rooms, 1))
    assert [one for one in found if one[0] == "a"] == list(draw({"a": rooms["a"]}, 0))  # whatever other rooms are drawn


def test_changes_lie_where_code_runs_and_make_other_programs() -> None:
    found = places("x.py", SOURCE)
    assert {place.line for place in found} == {7, 8, 9, 10}  # no SEEN, and of line 7 the default alone
    assert [place.column for place in found if place.line == 7 and mutated(SOURCE, *place.changes[0])] == [
        SOURCE.splitlines()[6].index("3")
    ]
    texts = [mutated(SOURCE, *change) for place in found for change in place.changes]
    made = {difference(SOURCE, text)[2] for text in texts if text}
    assert "total += k * step if k <= 5 else 0" in made
    assert SOURCE not in texts


def test_an_assertion_of_zip_decides_no_value() -> None:
    assert [place.column for place in places("x.py", "zip(a, b, strict=True)")] == []
    assert places("x.py", "zip(a, b + 1, strict=True)")


def test_a_protocol_says_nothing_to_what_runs() -> None:
    member = "    @property\n    def size(self) -> int: ...\n"
    assert [place.line for place in places("x.py", f"class Sized:\n{member}")] == [2]
    assert places("x.py", f"class Sized(Protocol):\n{member}") == []


def test_rooms_have_places_and_no_file_is_in_two() -> None:
    found = all_places(ROOT, ["circuits", "roc"])
    assert all(matching(ROOT, tests) for _, tests in ROOMS.values())
    assert min(map(len, found.values())) > 100
    files = [{place.file for place in there} for there in found.values()]
    assert sum(map(len, files)) == len(set.union(*files))
    assert "pahq/circuits/agreement.py" in {place.file for place in found["roc"]}


def test_a_change_is_told_by_the_lines_that_differ() -> None:
    assert difference("a\n  b\nc\n", "a\n  d\nc\n") == (2, "b", "d")
    assert difference("a\nb\nc\n", "a\nc\n") == (2, "b", "")
    assert difference("a\na\n", "a\n") == (2, "a", "")


def test_tests_that_call_the_changed_function_run_own_file_first() -> None:
    assert [function_at(SOURCE, line) for line in (1, 5, 7, 10)] == [0, 0, 7, 7]
    changed = Mutant("circuits", "pahq/circuits/order.py", 1, "", "", "", "")
    whole = function_at((ROOT / changed.file).read_text(), 1)
    assert whole == 0
    called = frozenset({"pahq/circuits/order.py:0"})
    known = [
        TestFile("tests/engine/test_a.py", "engine", 1, called),
        TestFile("tests/circuits/test_graph.py", "circuits", 2, called),
        TestFile("tests/circuits/test_long.py", "circuits", 1e9, called),
        TestFile("tests/circuits/test_order.py", "circuits", 3, called),
        TestFile("tests/circuits/test_else.py", "circuits", 1, frozenset({"pahq/circuits/graph.py:1"})),
    ]
    found = [Path(test.name).stem for test in callers(changed, ROOT, known)]
    assert found == ["test_order", "test_graph"]


def test_figures_and_words() -> None:
    found = [mutant("killed"), mutant("timed out"), mutant("survived"), mutant("survived", after="a < b")]
    reasons = [{"file": "pahq/search/x.py", "before": "a > b", "after": "a >= b", "reason": "They are never equal."}]
    record = report(found, {"search": 9, "scores": 4}, reasons)
    assert record["all"] == {"tried": 4, "killed": 1, "timed_out": 1, "survived": 2, "killed_share": 0.5}
    assert record["rooms"]["search"] == {"places": 9} | record["all"]
    assert record["rooms"]["scores"]["killed_share"] is None
    assert [one["reason"] for one in record["survived"]] == ["They are never equal.", ""]
    told = list(lines(record))
    assert told[:4] == [
        "survived: pahq/search/x.py:7 (Replace)",
        "    - a > b",
        "    + a >= b",
        "    They are never equal.",
    ]
    assert told[7] == "    no reason is given; these tests pass: tests/search/test_x.py"
    assert told[8:] == [
        "search: 4 mutants, 1 killed, 1 timed out, 2 survived, 50% noticed",
        "scores: 0 mutants, 0 killed, 0 timed out, 0 survived",
        "all: 4 mutants, 1 killed, 1 timed out, 2 survived, 50% noticed",
    ]


JUDGE = """
import json, sys, time
from pathlib import Path
import mutantruns, mutants
from mutantplaces import Mutant
mutantruns.LIBRARIES, mutants.PATIENCE = (), (0.0, float(sys.argv[2]))
root = Path(sys.argv[1])
mutantruns.prepare(root)
known = mutants.unchanged(root, {"circuits": "tests/circuits/*.py"}, ["pahq/circuits/sums.py"], root / "runs", 2, 60)
texts = {"same": "def double(n):\\n    return n + n\\n", "other": "def double(n):\\n    return n * n\\n"}
texts |= {"endless": "def double(n):\\n    while True: pass\\n", "broken": "1 / 0\\n"}
drawn = (Mutant("circuits", "pahq/circuits/sums.py", 2, name, "", "", text) for name, text in texts.items())
judged = mutants.judge(root, root / "runs/own", drawn, known, 2, time.monotonic() + 60)
print(json.dumps({one.mutant.operator: [one.outcome, one.by] for one in judged}))
"""


def repository(folder: Path, expected: int) -> Path:
    for part in ("pahq/circuits", "tests/circuits"):
        (folder / part).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    (folder / "pahq/circuits/sums.py").write_text("def double(n):\n    return 2 * n\n")
    test = f"from pahq.circuits.sums import double\n\ndef test_double():\n    assert double(3) == {expected}\n"
    (folder / "tests/circuits/test_sums.py").write_text(test)
    return folder


def judged(root: Path, patience: float = 3) -> subprocess.CompletedProcess[str]:
    place = {"PYTHONPATH": str(ROOT / "tools"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", JUDGE, str(root), str(patience)]
    return subprocess.run(command, env=place, capture_output=True, text=True)


def test_changes_are_seen_by_tests_and_leave_files_alone(tmp_path: Path) -> None:
    root = repository(tmp_path, 6)
    done = judged(root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"] == ["survived", ""]
    assert found["other"] == ["killed", "tests/circuits/test_sums.py::test_double"]
    assert found["endless"] == ["timed out", ""]
    assert found["broken"] == ["killed", "tests/circuits/test_sums.py"]
    assert (root / "pahq/circuits/sums.py").read_text() == "def double(n):\n    return 2 * n\n"


def test_tests_that_fail_without_a_change_are_told(tmp_path: Path) -> None:
    done = judged(repository(tmp_path, 7))
    assert done.returncode != 0
    assert "the tests of circuits fail: tests/circuits/test_sums.py::test_double without any change" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kitchen"], "unknown room 'kitchen'; known: circuits, search, engine, precision, scores, roc"),
        (["--minutes", "0"], "MINUTES must be a number above 0"),
        (["--minutes", "nan"], "MINUTES must be a number above 0"),
    ],
)
def test_bad_words_are_told(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        mutants.main(words)
    assert sentence in capsys.readouterr().err


def test_reasons_speak_of_lines_that_are_there() -> None:
    for entry in yaml.safe_load((ROOT / REASONS).read_text()):
        assert entry.keys() == {"file", "before", "after", "reason"}
        stripped = "\n".join(line.strip() for line in (ROOT / entry["file"]).read_text().splitlines())
        assert entry["before"] in stripped, entry
