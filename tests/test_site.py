"""The documentation as a site (mkdocs.yml): it builds strictly, has every page, and needs no other host."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import photograph
import pytest
import site_pages
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from support.places import ROOT

import pahq

WORDS = (
    "a abbr article aside b blockquote br button code details div em form h1 h2 h3 h4 h5 h6 hr i img input label li nav"
    " ol p path pre small span strong sub summary sup svg table tbody td th thead tr ul"
)
TEXT = set(WORDS.split())  # tags that there are; a <word> of a page would be another


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MkDocsConfig:
    """The configuration, for a site in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    return load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))


@pytest.fixture(scope="module")
def site(config: MkDocsConfig) -> Path:
    """The built site; a warning would have stopped it."""
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return Path(config.site_dir)


class Page(HTMLParser):
    """What a page asks a browser to fetch, the tags of its text, and where its sections are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.places: set[str] = set()
        self._depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attributes}
        link = tag == "link" and told.get("rel") not in ("canonical", "next", "prev")
        self.fetched += [told["href"]] if link else []
        self.fetched += [told[name] for name in ("src", "srcset", "data", "poster") if name in told]
        self.fetched += re.findall(r"url\(([^)]+)\)", told.get("style", ""))
        self.places |= {told["id"]} if "id" in told else set()
        self._depth += tag == "article"
        if self._depth:
            self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "article"


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in sorted(site.rglob("*.html")):
        yield path, Page(path.read_text())


def named(entries: object) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(entries, str):
        yield entries
    else:
        assert isinstance(entries, list | dict)
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from named(entry)


def test_every_page_of_docs_is_in_the_navigation_once(config: MkDocsConfig, site: Path) -> None:
    listed = list(named(config.nav))
    assert len(listed) == len(set(listed))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == {page for page in listed if "/" not in page}
    for page in listed:
        assert (site / page).with_suffix(".html").exists() or (site / page).with_name("index.html").exists(), page


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    seen = 0
    for path, page in pages(site):
        for address in page.fetched:
            seen += 1
            assert not re.match(r"(\w+:)?//", address), f"{path.name}: {address}"
            if path.name != "404.html" and not address.startswith("data:"):  # which lies wherever a page is missing
                assert (path.parent / address.split("#")[0].split("?")[0]).exists(), f"{path.name}: {address}"
    assert seen > 100
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style.name


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    places = {path.resolve(): page.places for path, page in pages(site)}
    for path in places:
        if path.name == "404.html":
            continue
        for address in re.findall(r'<a [^>]*href="([^"]+)"', path.read_text()):
            if re.match(r"\w+:", address):
                continue
            place, _, section = address.partition("#")
            there = (path.parent / place).resolve() if place else path
            assert there.is_file() or (there / "index.html").is_file(), f"{path.name}: {address}"
            assert not section or there not in places or section in places[there], f"{path.name}: {address}"


def test_no_words_are_lost_as_tags(site: Path) -> None:
    for path, page in pages(site):
        assert page.tags <= TEXT, f"{path.name}: {page.tags - TEXT}"


def test_what_the_repository_reads_otherwise_is_read_alike(site: Path) -> None:
    results, prompts = (site / "results.html").read_text(), (site / "prompts.html").read_text()
    assert "| precision |" not in results, "a table within a list"
    assert "gifts.csv</span>" in prompts, "a file to make has no name"
    assert "```" not in results + prompts
    assert ">Scores: a number for every edge at once</a>" in (site / "index.html").read_text(), "named by its file"


def test_links_out_of_docs_are_found_in_the_site() -> None:
    page = "results.md"
    assert site_pages.in_site(page, "../results/README.md") == "repository/results/README.md"
    assert site_pages.in_site("repository/pahq/data/models/README.md", "../../../docs/graph.md") == "graph.md"
    assert site_pages.outside(page, "[a](graph.md) ![b](../CHANGELOG.md) [c](https://a.b)") == [
        "repository/CHANGELOG.md"
    ]


def test_the_search_index_has_words_of_the_pages(site: Path) -> None:
    text = (site / "search" / "search_index.js").read_text()
    entries = json.loads(text.removeprefix("var __index = "))["docs"]
    there = {entry["location"].split("#")[0]: "" for entry in entries}
    for entry in entries:
        there[entry["location"].split("#")[0]] += entry["text"]
    assert "Edges that differ from ACDC" in there["choosing.html"]
    assert "resample" in there["running.html"]
    assert "Raises PahqError" in there["api.html"]


def test_every_public_name_is_on_the_page_of_python(site: Path) -> None:
    places = Page((site / "api.html").read_text()).places
    assert {f"pahq.{name}" for name in pahq.__all__ if name != "__version__"} <= places


@pytest.mark.skipif(photograph.FOUND is None, reason="there is no Chromium here, so the site was not opened")
def test_the_search_works_from_disk(site: Path, tmp_path: Path) -> None:
    with photograph.Browser(tmp_path, dark=True) as browser:
        browser.open(site / "index.html")
        found = browser.tell("""new Promise(done => {
            document.querySelector("#__search").click()
            const field = document.querySelector(".md-search__input")
            const look = () => {
                field.focus()
                field.value = "threshold"
                field.dispatchEvent(new Event("keyup", { bubbles: true }))
                const items = document.querySelectorAll(".md-search-result__item").length
                items ? done(items) : setTimeout(look, 100)
            }
            look()
            setTimeout(() => done(0), 20000)
        })""")
        assert found > 0
        assert browser.errors == []
        assert all(address.startswith(("file:", "data:", "blob:", "about:")) for address in browser.requests)
        assert browser.tell("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"


def test_the_page_of_python_says_a_sentence_of_each_name_where_the_repository_shows_no_docstring() -> None:
    shown = re.findall(
        r"^- `(\S+)`: (.*)\n<!-- docstring: (\S+) -->$", (ROOT / "docs/api.md").read_text(), re.MULTILINE
    )
    assert len(shown) > 25
    for name, sentence, of in shown:
        *home, last = name.split(".")
        docstring = getattr(importlib.import_module(".".join(home)), last).__doc__
        assert name == of
        assert sentence == " ".join(docstring.strip().split("\n\n")[0].split()).replace("``", "`")
