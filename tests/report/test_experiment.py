"""The report as pages: everything is there, leads where it says, asks for nothing and obeys no text of others."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from photograph import FOUND, Browser
from support.made_cells import change_result, graph_of, make_cell, make_config

from pahq.__main__ import main
from pahq.analysis.evaluate import evaluate
from pahq.analysis.figures import write_figures
from pahq.analysis.findings import figure_names
from pahq.analysis.summary import Evaluation
from pahq.cell.files import read_result
from pahq.cell.journal import read_journal
from pahq.files.sealed import write_sealed
from pahq.report.curve import BOTTOM, HEIGHT, TOP, curve
from pahq.report.experiment import write_report

needs_chromium = pytest.mark.skipif(FOUND is None, reason="there is no Chromium here, so the page was not opened")
TASK = "nano-docstring"
EDGES = sorted(graph_of(TASK).edge_index)
SPITEFUL = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cells, one of which was shown prompts with a script in them and has a stability, and one never begun."""
    made = tmp_path_factory.mktemp("results")
    ids = [
        make_cell(made, make_config(TASK, "acdc", "float32", t), EDGES[:n], seconds=n) for t, n in ((0.1, 9), (0.2, 30))
    ]
    ids += [make_cell(made, make_config(TASK, "pahq", "int8", t), EDGES[:n]) for t, n in ((0.1, 10), (0.2, 30))]
    example = {"prompt": 0, "answer": SPITEFUL, "top": [SPITEFUL, "b"]}
    check = {"items": 4, "done": 0.75, "means": f"the answer beats {SPITEFUL}", "among_top": 1.0, "examples": [example]}
    change_result(made / "cells" / ids[0], task_check=check | {"warning": SPITEFUL})
    evaluate(made, "tiny", [*ids, f"{TASK}/{SPITEFUL}"])
    write_figures(made, "tiny")
    stability = made / "cells" / ids[0] / "stability.json"
    write_sealed(stability, {"schema": 1, "id": ids[0], "resamples": {"circuits": 5}})
    assert write_report(made, "tiny") == made / "report.html"
    stability.unlink()  # it is no whole one, and would be refused
    return made


class Links(HTMLParser):
    """Where a page's links lead, and how many scripts it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.to: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.to += [value for name, value in attrs if name == "href" and value and tag == "a"]


def pages(root: Path) -> list[Path]:
    return [root / "report.html", *sorted((root / "report").rglob("*.html"))]


def test_every_link_leads_somewhere(root: Path) -> None:
    assert len(pages(root)) == 2 + 4
    for page in pages(root):
        text = page.read_text()
        for link in Links(text).to:
            target, _, place = link.partition("#")
            assert not target or (page.parent / target).is_file(), f"{page}: {link}"
            assert not place or f'id="{place}"' in text
        assert not re.findall(r'(?:src|href)="https?:', text)


def test_what_others_wrote_is_shown_and_not_obeyed(root: Path) -> None:
    """A prompt's tokens, a task's warning, the name of a cell: nothing of them becomes part of the page."""
    for page in pages(root):
        text = page.read_text()
        assert Links(text).scripts == 1
        assert "<script>window" not in text
        assert "<img src=x" not in text
    assert sum("window.hurt = 1" in page.read_text() for page in pages(root)) == 3  # as text


def test_it_begins_with_what_was_found_and_holds_every_table(root: Path) -> None:
    text, found = (root / "report.html").read_text(), Evaluation.read(root, "tiny")
    assert text.index("<h2>What was found") < text.index("<svg") < text.index("<h2>What a row is")
    assert "4 of 5 cells are finished" in text
    assert [name for name in figure_names(found)[1:] if f'id="figure-{name}"' not in text] == []
    for name in ("auc", "circuits", "cost", "bits"):
        assert f'<section id="{name}">' in text


def test_the_page_of_a_cell_says_all_that_its_files_say(root: Path) -> None:
    (page,) = (root / "report" / "tiny" / TASK).glob("acdc-float32-t0.1-*.html")
    text = page.read_text()
    for words in (
        "The circuit",
        "The search",
        "How sure the decisions are",
        "Stability",
        "resamples: circuits",
        "Provenance",
    ):
        assert words in text
    assert text.count("<svg") == 2
    assert all(f">{name.replace('>', '&gt;').replace('<', '&lt;')}<" in text for name in EDGES[:9])
    (other,) = (root / "report" / "tiny" / TASK).glob("acdc-float32-t0.2-*.html")
    assert (
        f'The same search at threshold <strong>0.1</strong> (this page), <a href="../{TASK}/{other.name}">0.2</a>.'
        in text
    )
    folders = [root / "cells" / TASK / one.stem for one in (page, other)]
    assert f"<code>pahq show {folders[0]} {folders[1]} --out sweep.html</code>" in text
    held = json.loads(re.search(r"<pre>(.*?)</pre>", text, re.S)[1].replace("&#34;", '"'))  # type: ignore[index]
    assert held["task"]["name"] == TASK


@pytest.mark.parametrize(("start", "after"), [(0.0, (0.1, 0.4)), (-22.0, (-20.0, -9.0)), (3.0, (3.0, 3.0))])
def test_the_curve_of_a_search_stays_in_its_frame_and_ends_at_what_was_kept(
    root: Path, start: float, after: tuple[float, float]
) -> None:
    """Losses of a task's own metric lie below nought; edges that need no test are no step of it."""
    (folder,) = (root / "cells" / TASK).glob("acdc-float32-t0.1-*")
    result, journal = read_result(folder), read_journal(folder / "decisions.jsonl")[:4]
    assert result.search is not None
    result = result.model_copy(update={"search": result.search.model_copy(update={"start": start})})
    removed = [replace(line, removed=i != 1, after=after[i > 1]) for i, line in enumerate(journal)]
    drawn = curve(removed, result)
    lines = [[float(pair.split(",")[1]) for pair in found.split()] for found in re.findall(r'points="([^"]+)"', drawn)]
    assert all(TOP <= y <= HEIGHT - BOTTOM for line in lines for y in line)
    assert [len(line) for line in lines] == [5, 5]
    losses, kept = lines
    assert kept == [HEIGHT - BOTTOM, HEIGHT - BOTTOM, TOP, TOP, TOP]  # one edge of one, from the second test on
    assert losses[-1] == (TOP if after[1] > start else HEIGHT - BOTTOM)


def test_another_experiment_leaves_this_ones_page(root: Path, tmp_path: Path) -> None:
    evaluate(
        root,
        "other",
        [path.parent.relative_to(root / "cells").as_posix() for path in root.glob("cells/*/acdc*/*result*")],
    )
    write_figures(root, "other")
    write_report(root, "other")
    assert "Experiment other" in (root / "report.html").read_text()
    assert 'href="report/tiny.html"' in (root / "report.html").read_text()
    assert "Experiment tiny" in (root / "report" / "tiny.html").read_text()
    write_report(root, "tiny")


@pytest.mark.parametrize(("prepare", "says"), [("", "evaluate"), ("evaluate", "draw the figures first (pahq figures)")])
def test_what_is_missing_is_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: str, says: str
) -> None:
    cell = make_cell(tmp_path, make_config(TASK, "acdc", "float32", 0.1), EDGES[:9])
    if prepare:
        evaluate(tmp_path, "tiny", [cell])
    assert main(["report", "tiny", "--root", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as opened:
        yield opened


@needs_chromium
@pytest.mark.slow
def test_it_opens_from_disk_and_tables_sort(browser: Browser, root: Path) -> None:
    for page in pages(root):
        browser.errors.clear()
        browser.requests.clear()
        browser.open(page)
        assert browser.errors == []
        assert [asked for asked in browser.requests if not asked.startswith("data:")] == [page.as_uri()]
        assert browser.tell("window.hurt === undefined")
    browser.open(root / "report.html")
    kept = "[...document.querySelectorAll('#every-cell tbody tr')].map((row) => row.cells[at].textContent)"
    head = "[...document.querySelectorAll('#every-cell th')].findIndex((th) => th.textContent === 'kept')"
    for clicks, expected in ((1, ["9", "10", "30", "30"]), (2, ["30", "30", "10", "9"])):
        browser.tell("location.reload()") if clicks == 1 else None
        browser.open(root / "report.html")
        click = f"(() => {{ const at = {head}; const th = document.querySelectorAll('#every-cell th')[at];"
        click += f"for (let i = 0; i < {clicks}; i++) th.querySelector('button').click(); return {kept}; }})()"
        assert browser.tell(click) == expected
    typed = (
        "(() => { const f = document.querySelector('input'); f.value = 'pahq 0.2'; f.dispatchEvent(new Event('input'));"
    )
    typed += "return [...document.querySelectorAll('#every-cell tbody tr')].filter((row) => !row.hidden).length; })()"
    assert browser.tell(typed) == 1
