"""A hook of MkDocs (mkdocs.yml): the pages of docs/ as they stand in the repository become pages of the site.

Pages link to each other and to files of the repository by their paths in it, so that the links work there. In the site
what lies outside docs/ and is linked to is found below ``repository/``: Markdown files as pages, others as files.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PLACE = "repository"
LINK = re.compile(r"(\]\()(?!https?://|#)([^)#\s]+)")
NAMED = re.compile(r"\[[\w/-]+\.md\](?=\(([^)#\s]+))")  # a link whose words are the page's file
FENCE = re.compile(r"^```(\w+) file=(\S+)$", re.MULTILINE)
BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
DEEPER = re.compile(r"^  (?=\S)", re.MULTILINE)
DOCSTRING = re.compile(r"^- `\S+`: .*\n<!-- docstring: (\S+) -->$", re.MULTILINE)  # in place of a sentence of it


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that a page links to, and those that they link to."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in outside(page, (ROOT / in_repository(page)).read_text()):
            if target in seen:
                continue
            seen.add(target)
            files.append(File.generated(config, target, abs_src_path=str(ROOT / in_repository(target))))
            waiting += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to where the site has their targets; of what only GitHub reads, what Python-Markdown reads."""
    source = page.file.src_uri
    folder = str(PurePosixPath(source).parent)
    prose_and_blocks = BLOCK.split(markdown)
    for i in range(0, len(prose_and_blocks), 2):
        prose = NAMED.sub(lambda found: f"[{title(in_site(source, found[1]))}]", prose_and_blocks[i])
        prose = LINK.sub(lambda found: found[1] + relpath(in_site(source, found[2]), folder), prose)
        prose = DEEPER.sub("    ", prose)  # what belongs to an entry of a list stands four spaces in
        prose_and_blocks[i] = DOCSTRING.sub(r"::: \1\n", prose)
    return FENCE.sub(r'```\1 title="\2"', "".join(prose_and_blocks))  # a file that the reader is to make


def outside(page: str, text: str) -> list[str]:
    """The files outside docs/ that the text of a page links to, by their places in the site."""
    targets = {in_site(page, found[2]) for found in LINK.finditer(text)}
    return sorted(name for name in targets if name.startswith(f"{PLACE}/") and (ROOT / in_repository(name)).is_file())


def title(page: str) -> str:
    """What a page calls itself."""
    text = (ROOT / in_repository(page)).read_text()
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))


def in_repository(page: str) -> str:
    """The path in the repository of a page of the site."""
    return page.removeprefix(f"{PLACE}/") if page.startswith(f"{PLACE}/") else f"docs/{page}"


def in_site(page: str, link: str) -> str:
    """The place in the site of what a page links to."""
    target = normpath(str(PurePosixPath(in_repository(page)).parent / link))
    return target.removeprefix("docs/") if target.startswith("docs/") else f"{PLACE}/{target}"
