"""Bad input, row by row: one clear sentence, exit status 2, nothing on standard output, and nothing lost.

What is typed stands in ``tests/files/bad_words.txt``, what files hold in ``support.bad``. All rows run in this process.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.bad import cells, foreign, models, prompts
from support.bad.row import Row
from support.bundles import finish
from support.places import ROOT

from pahq.__main__ import main
from pahq.commandline.application import application
from pahq.experiments import compose
from pahq.experiments.composer import Composer

SMALL = ("task=tracr-proportion", "task.examples=4")
TRACES = (".lock", "config.json", "provenance.json", "decisions.jsonl")  # that a refused cell may leave in its folder


def typed() -> Iterator[Row]:
    for line in (ROOT / "tests" / "files" / "bad_words.txt").read_text().splitlines():
        if not line.startswith("#"):
            words, says = line.split(" => ")
            yield Row(words, says)


ROWS = [*typed(), *prompts.rows(), *models.rows(), *cells.rows(), *foreign.rows()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which somebody has worked, and configurations that are composed once for all rows."""
    folder = tmp_path_factory.mktemp("place")
    finish(folder / "results", *SMALL, "method=acdc", "threshold=0.05")
    finish(folder / "results", *SMALL, "method=eap-ig", "size=5")
    (folder / "file").write_text("x")
    (folder / "given.csv").write_text("clean,corrupted,answer\na,b,c\n")
    (folder / "given.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        shared = Composer(compose._compose, compose.configuration_folder())
        patch.setattr(compose, "Composer", lambda hydra, folder: shared)
        patch.setattr("pahq.__main__.application", cache(application))
        patch.setenv("BAD_INPUT_CELL", str(cell(folder, "acdc")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.chdir(folder)
        yield folder


def cell(place: Path, method: str) -> Path:
    [found] = (place / "results" / "cells" / "tracr-proportion").glob(f"{method}-*")
    return found


def held(folder: Path) -> dict[str, str]:
    """Every file below a folder, and every link, with the sha256 of what it holds."""
    files = {path for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a link"
        for path in files
    }


def words_of(row: Row, place: Path) -> list[str]:
    made = [path.relative_to(place) for path in (place / "given").glob("cells/*/*")]
    values = {"FINISHED": cell(place, "acdc"), "SCORED": cell(place, "eap-ig"), "LONG": "l" * 300}
    values["CELL"] = made[0] if made else values["FINISHED"]
    text = re.sub(r"\$([A-Z]+)", lambda name: str(values[name[1]]), row.words)
    return [word.encode().decode("unicode_escape") if "\\" in word else word for word in shlex.split(text)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_input_is_told_in_one_sentence_and_loses_nothing(
    row: Row, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place / "given", ignore_errors=True)
    (place / "given").mkdir()
    row.make(place / "given")
    words, before = words_of(row, place), held(place)
    assert main(words) == 2
    shown, after = capsys.readouterr(), held(place)
    assert shown.out == ""
    assert shown.err.startswith("pahq: error: ")
    assert shown.err.count("\n") == 1
    assert row.says in shown.err
    assert before.items() <= after.items()
    assert {Path(name).name for name in after.keys() - before.keys()} <= set(TRACES)


def test_there_are_many_and_no_two_alike() -> None:
    assert len(ROWS) >= 400
    assert len({str(row) for row in ROWS}) == len(ROWS)
    assert all(len(row.says) > 7 for row in ROWS)
