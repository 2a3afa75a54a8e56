"""Colours of figures: seen on both themes' backgrounds, and told apart by readers who do not see all colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from support.colours import KINDS, in_dark, seen

from pahq.analysis.colours import GUIDE, PALETTE, RANDOM, WORDS, colour_of, contrast, shade, words_in
from pahq.analysis.drawing import GREY
from pahq.analysis.stabilityfigures import LAST
from pahq.config.presets import options, preset

NAMED = [(name, preset("precision", name)["format"]) for name in options("precision") if name != "auto"]
DRAWN = {*PALETTE, RANDOM, GUIDE, GREY, *(colour_of(*pair) for pair in NAMED), *(shade(one, LAST) for one in PALETTE)}
LINES = 3.0  # least contrast of what is drawn
APART = 14.0  # in CIELAB; 2.3 is a difference that one just sees


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == contrast("#ffffff", "#777777") == pytest.approx(4.478, abs=0.001)
    assert in_dark("#ffffff") == pytest.approx((0.09, 0.09, 0.09))
    assert contrast(in_dark("#F0E442"), in_dark("white")) < LINES  # the yellow that could hardly be seen


@pytest.mark.parametrize("colour", sorted(DRAWN))
def test_a_colour_is_seen_on_both_backgrounds(colour: str) -> None:
    for least, one in ((LINES, colour), (WORDS, words_in(colour))):
        assert contrast(one, "white") >= least
        assert contrast(in_dark(one), in_dark("white")) >= least


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_two_colours_look_alike(kind: str | None, dark: bool) -> None:
    looks = [seen(in_dark(one) if dark else one, kind) for one in (*PALETTE, RANDOM)]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(looks, 2)) > APART
