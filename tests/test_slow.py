"""The list of slow tests names tests that are there."""

from __future__ import annotations

import re

import pytest
from support.places import ROOT

TEXT = (ROOT / "tests" / "conftest.py").read_text()
SLOW = re.findall(r'^    "(tests/.*)",$', TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", SLOW)
def test_what_is_named_slow_exists(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists()
    assert not test or re.search(rf"^(class|def) {test}", (ROOT / path).read_text(), re.MULTILINE)


def test_there_are_some() -> None:
    assert SLOW
