"""The explorer's page: the data that stand in it, and what a browser that has it open shows."""

from __future__ import annotations

import json
import re
from typing import Any

from photograph import Browser


def held(text: str) -> Any:
    """The data that stand in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found.group(1))


def shows(browser: Browser) -> list[str]:
    """Names of the lines that are to be seen."""
    return sorted(
        browser.tell("explorer.edges().filter((e) => e.style('display') !== 'none').map((e) => e.data('name'))")
    )


def enter(browser: Browser, field: str, value: str | int) -> None:
    """Type into a field, or move a slider."""
    found = f"document.getElementById({field!r})"
    browser.tell(f"(() => {{ const f = {found}; f.value = {value!r}; f.dispatchEvent(new Event('input')); }})()")
