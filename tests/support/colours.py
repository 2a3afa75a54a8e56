"""What becomes of a colour: in the dark theme of our pages, and to readers who do not see all colours."""

from __future__ import annotations

import math
import re

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from support.places import ROOT

Colour = npt.NDArray[np.float64]
STYLE = (ROOT / "pahq" / "report" / "pages" / "report.css").read_text()
FILTER = re.search(r"\.drawn svg \{ filter: invert\(([\d.]+)\) hue-rotate\((\d+)deg\)", STYLE)

# Machado, Oliveira and Fernandes 2009, table 1, of linear RGB: none of one kind of cones.
KINDS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def in_dark(colour: str) -> tuple[float, float, float]:
    """A figure's colour as the filter of the dark theme shows it (W3C Filter Effects, 8: invert, hueRotate)."""
    assert FILTER is not None
    share, angle = float(FILTER.group(1)), math.radians(float(FILTER.group(2)))
    inverted = share + (1 - 2 * share) * np.array(to_rgb(colour))
    grey = np.array([0.213, 0.715, 0.072])
    turn = np.array([[-0.213, -0.715, 0.928], [0.143, 0.14, -0.283], [-0.787, 0.715, 0.072]])
    matrix = np.tile(grey, (3, 1)) + math.cos(angle) * (np.eye(3) - grey) + math.sin(angle) * turn
    red, green, blue = np.clip(matrix @ inverted, 0, 1)
    return float(red), float(green), float(blue)


def seen(colour: str | tuple[float, float, float], kind: str | None) -> Colour:
    """Lightness and hue (CIELAB) of a colour to a reader of a kind, None for one who sees all colours."""
    linear = np.array([x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)])
    if kind is not None:
        linear = np.clip(np.array(KINDS[kind]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        part ** (1 / 3) if part > 216 / 24389 else (24389 / 27 * part + 16) / 116
        for part in np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
