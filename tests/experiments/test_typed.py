"""Texts on the command line count as they stand: paths of any letters, the documentation's lines as bash has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from pahq.__main__ import main
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs, parse_overrides
from pahq.experiments.typed import TEXTS, as_typed

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conf").rglob("*.yaml"))]
ODD = [
    "a=b",
    "with space",
    " leading and trailing ",
    "a,b",
    "it's",
    'say "so"',
    "both ' and \"",
    "(1)",
    "f(x)",
    "[0]",
    "{x: 1}",
    "Übung",
    "日本",
    "~/x",
    "2024",
    "1e3",
    "true",
    "a:b",
    "a;b&c|d",
    "<|endoftext|>",
    "$HOME",
    "back\\slash",
    "ends in \\",
    "mixed \\' \\\\ '",
    "#5%!?*^`@",
]
TABLE = "clean,corrupted,answer\na,b,c\nd,e,f\n"


def test_the_texts_are_paths_names_and_the_token_before_a_prompt() -> None:
    assert {"task.prompts", "task.bos", "task.name", "model.source", "model.revision", "run.root"} <= TEXTS
    assert not {"threshold", "task.examples", "task.metric", "precision.format", "run.wandb", "run.threads"} & TEXTS


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("text", ODD)
def test_a_text_is_what_was_typed(text: str, sweep: bool) -> None:
    overrides = [f"run.root={text}", "+task.bos=" + text.replace(",", ";"), "threshold=0.1"]
    [(cell, run)] = compose_runs(overrides, sweep=sweep)
    assert (run.root, cell.task.bos) == (text, text.replace(",", ";"))
    assert as_typed(as_typed(overrides[0], sweep=sweep), sweep=sweep) == as_typed(overrides[0], sweep=sweep)


@pytest.mark.parametrize("text", [text for text in ODD if not text.endswith(" ")])
def test_a_table_lies_anywhere_and_a_sweep_goes_beside_it(tmp_path: Path, text: str) -> None:
    folder = tmp_path / text.replace("/", "_")
    folder.mkdir()
    (folder / f"{folder.name}.csv").write_text(TABLE)
    typed = ["task=own", f"task.prompts={folder / f'{folder.name}.csv'}", f"run.root={folder}"]
    [(one, where)] = compose_runs(typed)
    assert (one.task.prompts, where.root) == (str(folder / f"{folder.name}.csv"), str(folder))
    swept = compose_runs([*typed, "threshold=0.1,0.2"], sweep=True)
    assert len(swept) == 2
    assert {(cell.task.prompts, run.root) for cell, run in swept} == {(one.task.prompts, str(folder))}


def test_in_a_sweep_commas_part_texts_unless_there_is_such_a_file(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("ä.csv", "b (1).csv")]
    for name in names:
        Path(name).write_text(TABLE.replace("\na,", f"\n{name},"))
    typed = f"task.prompts={','.join(names)}"
    with pytest.raises(PahqError, match="No such file"):
        compose_runs(["task=own", typed])
    swept = compose_runs(["task=own", typed], sweep=True)
    assert [cell.task.prompts for cell, _ in swept] == names
    bos = compose_runs(["+task.bos=null,<|a|>,<b>"], sweep=True)
    assert [cell.task.bos for cell, _ in bos] == [None, "<|a|>", "<b>"]


def test_what_is_written_for_hydra_stays_hydras() -> None:
    for text in ("'a,b'", '"a,b"'):
        [(_, run)] = compose_runs([f"run.root={text}"])
        assert run.root == "a,b"
    [(cell, run)] = compose_runs(["run.root=ü-${seed}", "seed=3", "+task.bos=null"])
    assert (run.root, cell.task.bos) == ("ü-3", None)
    chosen = compose_runs(["task.name=choice(a,b)"], sweep=True)
    assert [cell.task.name for cell, _ in chosen] == ["a", "b"]
    assert as_typed("threshold=(1)") == "threshold=(1)"
    assert as_typed("run.root") == "run.root"


@pytest.mark.parametrize("hydra", [[], ["hydra/launcher=basic"]], ids=["here", "in Hydra"])
def test_a_cell_runs_in_an_odd_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hydra: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pahq"])  # Hydra's entry writes there
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root = tmp_path / "Ergebnisse (ü), it's a=b [1]"
    typed = ["-m", "task=tracr-proportion", "task.examples=4", "method=acdc", "threshold=0.1,0.2", f"run.root={root}"]
    assert main([*typed, "wandb=disabled", *hydra]) == 0, capsys.readouterr().err
    assert len(list(root.glob("cells/*/*/result.json"))) == 2
    assert list(tmp_path.iterdir()) == [root]


def documented() -> list[tuple[str, str, str]]:
    """Texts in quotes that the documentation types: (place, the words, the text that is meant)."""
    found = []
    for path in DOCUMENTS:
        for line in path.read_text().splitlines():
            for words, key, text in re.findall(r"((?<![\w.])([\w.]+)=\"([^\"]*)\")", line):
                if key in TEXTS:
                    found.append((path.name, words, text))
    return found


def test_the_documentation_types_texts_in_quotes() -> None:
    assert ("prompts.md", 'task.bos="<|endoftext|>"', "<|endoftext|>") in documented()


@pytest.mark.parametrize(("place", "words", "text"), documented())
def test_a_documented_text_works_as_typed_in_bash(place: str, words: str, text: str) -> None:
    handed_on = subprocess.run(["bash", "-c", f"printf %s {words}"], capture_output=True, text=True, check=True).stdout
    assert handed_on == words.replace('"', "")
    for word in (handed_on, words):  # and as in Hydra's own examples: quotes inside quotes
        [override] = parse_overrides([word])
        assert override.value() == text
