"""Numbers that the papers print, each with its source and the row it belongs to; none is measured by us.

ACDC paper: Conmy et al. 2023, arXiv 2304.14997. PAHQ paper: arXiv 2510.23264. What a paper does not print,
or what could not be read, is ``NOT_PUBLISHED``: never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_PUBLISHED = "not published here"

RUNTIME = ("up to 80% less than ACDC", "PAHQ paper, headline; no absolute number is printed")
MEMORY = ("up to 30% less than ACDC", "PAHQ paper, headline; no absolute number is printed")


_LOW = {4: ("int4",), 16: ("bf16", "fp16")}  # formats of a width; the PAHQ paper names the width alone


@dataclass(frozen=True)
class PaperArea:
    """An area under an edge ROC curve (steps, corrupted activations) against the published circuit.

    ``formats``: of the heads out of focus.
    """

    kind: str
    metric: str
    method: str
    formats: tuple[str, ...]
    value: str
    model: str
    source: str

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has this task kind, search metric, method and format, and corrupted activations."""
        same = (row["kind"], row["search_metric"], row["method"]) == (self.kind, self.metric, self.method)
        return bool(same and row["ablation"] == "corrupted" and row["format"] in self.formats)


def _acdc(kind: str, metric: str, value: str, model: str, detail: str = "") -> PaperArea:
    return PaperArea(kind, metric, "acdc", ("float32",), value, model, f"ACDC paper{detail}")


AREAS: tuple[PaperArea, ...] = (
    _acdc("docstring", "kl", "0.982", "attn-only-4l"),
    _acdc("docstring", "margin", "0.972", "attn-only-4l"),
    _acdc("greaterthan", "kl", "0.853", "gpt2"),
    _acdc("greaterthan", "prob_diff", "0.461", "gpt2"),
    _acdc("ioi", "kl", "0.869", "gpt2"),
    _acdc("ioi", "logit_diff", "0.589", "gpt2"),
    _acdc("tracr-reverse", "mse", "0.2", "tracr-reverse", ", 3 of 15 edges"),
    _acdc("tracr-proportion", "mse", "0.6", "tracr-proportion", ", 6 of 10 edges"),
    PaperArea("docstring", "kl", "rtn-q", ("fp8",), "0.534", "attn-only-4l", "PAHQ paper"),
    PaperArea("docstring", "kl", "pahq", _LOW[4], "0.61", "attn-only-4l", "PAHQ paper, by a secondary source"),
    PaperArea("docstring", "kl", "pahq", _LOW[16], "0.96", "attn-only-4l", "PAHQ paper, by a secondary source"),
)


def paper_area(row: Mapping[str, Any]) -> tuple[str, str]:
    """The printed area to put beside a row, and its source; (``NOT_PUBLISHED``, "") where there is none."""
    for area in AREAS:
        if area.fits(row):
            other = "" if row["model"] == area.model else f" (on {area.model}, another model)"
            return area.value, area.source + other
    return NOT_PUBLISHED, ""
