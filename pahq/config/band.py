"""The settings of ``audit=band``, and what is usual."""

from __future__ import annotations

from pydantic import Field

from pahq.config.frozen import Frozen


class BandConfig(Frozen):
    """``audit=band``: what is measured in both precisions, and how the band follows from it. ``BANDS``: what is usual.

    ``least`` and ``near`` are parts of |effect| + threshold; with ``method.arithmetic=changes``, where errors are in
    proportion to effects, they are multiples of the error that the format makes of a weight.

    The band is ``safety`` times the largest difference of all tests measured in both, and at least ``least``; in each
    layer anew it is at least ``near`` until ``enough`` tests so near have been measured there. The ``first`` tests, and
    a random ``share`` of all, are measured in both as well. A format is given up when the tests so far say,
    with ``confidence`` at each look, that more than ``hopeless`` of them lie in the band.
    """

    share: float = Field(default=0.01, ge=0, le=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    safety: float = Field(default=2.5, ge=1)
    near: float = Field(default=0.2, gt=0)
    enough: int = Field(default=4, ge=0)
    least: float = Field(default=0.05, ge=0)
    first: int = Field(default=1, ge=0)
    hopeless: float = Field(default=0.5, gt=0, le=1)


BANDS = {  # by method.arithmetic
    "network": BandConfig(),
    "changes": BandConfig(share=0.0025, safety=1.5, near=3.0, enough=0, least=3.0),
}
