"""The colours of figures: each at least 3:1 against the background, and formats' told apart by colour-blind readers.

That holds for the palette and for random scores. The shades of a format's other precisions (``int8-head``) can come
near other colours, so figures have names and markers too. Pages invert figures in the dark theme; the colours have that
contrast there too. Words in the colour of what they name are darker, for they need 4.5:1 (Web Content Accessibility
Guidelines 2.2).
"""

from __future__ import annotations

from matplotlib.colors import to_hex, to_rgb

from pahq.config.precision import FORMATS

WORDS = 4.5  # least contrast of words
GUIDE = "0.55"  # lines that help to read the others
RANDOM = "#585858"  # scores drawn at random: what the others are measured against
# Black, blue, red and pink are Okabe and Ito's; the others take the places of theirs that are too pale on white.
BLACK, BLUE, VIOLET, BROWN, GREEN, RED, PINK, SLATE = PALETTE = (
    *("#000000", "#0072B2", "#8473FF", "#804000"),
    *("#269960", "#D55E00", "#CC79A7", "#284159"),
)
COLOURS = dict(zip(FORMATS, PALETTE, strict=True))


def colour_of(precision: str, form: str) -> str:
    """A precision's colour: its format's, or another shade of it if it has another name than that."""
    return COLOURS[form] if precision == form else shade(COLOURS[form], 0.5)


def shade(colour: str, share: float) -> str:
    """The colour, so much of the way to black; black itself becomes grey, but no paler than lines may be."""
    if luminance(colour) < 0.02:
        return to_hex(mixed(colour, "white", 0.5 * share))
    return to_hex(mixed(colour, "black", share))


def words_in(colour: str) -> str:
    """The colour as words have it: as dark as it takes to read them on white."""
    share = next(step for step in range(101) if contrast(mixed(colour, "black", step / 100), "white") >= WORDS)
    return to_hex(mixed(colour, "black", share / 100))


def contrast(one: str | tuple[float, float, float], other: str | tuple[float, float, float]) -> float:
    """The contrast of two colours, from 1 to 21, as the Web Content Accessibility Guidelines define it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str | tuple[float, float, float]) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1."""
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour))
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def mixed(colour: str | tuple[float, float, float], other: str, share: float) -> tuple[float, float, float]:
    """So much of the way from one colour to the other."""
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(to_rgb(colour), to_rgb(other), strict=True))
    return red, green, blue
