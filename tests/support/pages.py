"""The fenced blocks of a documentation page, and what a comment before a block says about running it.

A comment on the line before a fence marks a block that does not run as it stands, and gives the reason:

    <!-- not run: REASON -->               nothing of it runs
    <!-- checked with make -n: REASON -->  make says what it would do
    <!-- settings checked: REASON -->      Snakemake's settings are read
    <!-- numbers may differ: REASON -->    of shown output digits are not compared
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^:\n]+): (?P<reason>[^\n]+) -->\n)?^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S
)
RUN = ("sh", "python")


@dataclass(frozen=True)
class Block:
    """``info`` is what stands behind the opening fence; ``follows``: this block comes right after the last one."""

    info: str
    text: str
    note: str | None
    reason: str
    follows: bool

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]

    @property
    def file(self) -> str | None:
        """The file that a reader is asked to make of the block: ``file=NAME`` behind the language."""
        found = re.search(r"file=(\S+)", self.info)
        return found[1] if found else None

    @property
    def lines(self) -> list[str]:
        """Commands without comments and empty lines."""
        plain = (re.sub(r"\s+#.*", "", line) for line in self.text.splitlines())
        return [line for line in plain if line.strip()]


def blocks(page: Path) -> list[Block]:
    text, found, end = page.read_text(), [], 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()]
        found.append(Block(match["info"], match["text"], match["note"], match["reason"] or "", not between.strip()))
        end = match.end()
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def shows(shown: str, printed: str, *, digits: bool = True) -> bool:
    """Whether a page's output is what was printed: ``...`` stands for anything, and the lines shown are the first ones.

    Seconds always differ; without ``digits`` all numbers may.
    """
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("..."))
    pattern = re.sub(r"\d+\\\.\d(?=\\ s\b)", r"\\d+\\.\\d", pattern)
    if not digits:
        pattern = re.sub(r"(?<!\\)\d+", r"\\d+", pattern)
    return re.match(rf"{pattern}(\n|$)", printed.strip()) is not None
