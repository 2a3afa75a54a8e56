"""Numbers that the papers print, each with its source and the row it belongs to; none is measured by us.

ACDC paper: Conmy et al. 2023, arXiv 2304.14997. PAHQ paper: arXiv 2510.23264. What a paper does not print,
or what could not be read, is ``NOT_PUBLISHED``: never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NOT_PUBLISHED = "not published here"

RUNTIME = ("up to 80% less than ACDC", "PAHQ paper, headline; no absolute number is printed")
MEMORY = ("up to 30% less than ACDC", "PAHQ paper, headline; no absolute number is printed")


_LOW = {4: ("int4",), 16: ("bf16", "fp16")}  # formats of a width; the PAHQ paper names the width alone


@dataclass(frozen=True)
class PaperArea:
    """An area under an edge ROC curve (steps, corrupted activations) against the published circuit.

    ``formats``: of the heads out of focus. ``grid``: its thresholds (a name in ``experiments/grids.py``).
    """

    kind: str
    metric: str
    method: str
    formats: tuple[str, ...]
    value: str
    model: str
    source: str
    grid: str

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has this task kind, search metric, method and format, and corrupted activations."""
        same = (row["kind"], row["search_metric"], row["method"]) == (self.kind, self.metric, self.method)
        return bool(same and row["ablation"] == "corrupted" and row["format"] in self.formats)


def _acdc(kind: str, metric: str, value: str, model: str, detail: str = "") -> PaperArea:
    return PaperArea(kind, metric, "acdc", ("float32",), value, model, f"ACDC paper{detail}", "ACDC's sweep")


def _pahq(method: str, formats: tuple[str, ...], value: str, detail: str = "") -> PaperArea:
    source = f"PAHQ paper{detail}"
    return PaperArea("docstring", "kl", method, formats, value, "attn-only-4l", source, "PAHQ's sweep")


def _baseline(kind: str, method: str, values: Mapping[str, str], model: str) -> tuple[PaperArea, ...]:
    """A baseline of the ACDC paper, by search metric; its sweep is over its own scores."""
    own = (kind, method, model)
    return tuple(
        PaperArea(own[0], metric, own[1], ("float32",), value, own[2], "ACDC paper", "its own")
        for metric, value in values.items()
    )


AREAS: tuple[PaperArea, ...] = (
    _acdc("docstring", "kl", "0.982", "attn-only-4l"),
    _acdc("docstring", "margin", "0.972", "attn-only-4l"),
    _acdc("greaterthan", "kl", "0.853", "gpt2"),
    _acdc("greaterthan", "prob_diff", "0.461", "gpt2"),
    _acdc("ioi", "kl", "0.869", "gpt2"),
    _acdc("ioi", "logit_diff", "0.589", "gpt2"),
    _acdc("tracr-reverse", "mse", "0.2", "tracr-reverse", ", 3 of 15 edges"),
    _acdc("tracr-proportion", "mse", "0.6", "tracr-proportion", ", 6 of 10 edges"),
    _pahq("acdc", ("float32",), "0.982"),
    _pahq("rtn-q", ("fp8",), "0.534"),
    _pahq("pahq", _LOW[4], "0.61", ", by a secondary source"),
    _pahq("pahq", _LOW[16], "0.96", ", by a secondary source"),
    *_baseline("docstring", "hisp", {"kl": "0.805", "margin": "0.821"}, "attn-only-4l"),
    *_baseline("docstring", "sp", {"kl": "0.937", "margin": "0.942"}, "attn-only-4l"),
    *_baseline("greaterthan", "hisp", {"kl": "0.693", "prob_diff": "0.706"}, "gpt2"),
    *_baseline("greaterthan", "sp", {"kl": "0.806", "prob_diff": "0.812"}, "gpt2"),
    *_baseline("ioi", "hisp", {"kl": "0.789", "logit_diff": "0.836"}, "gpt2"),
    *_baseline("ioi", "sp", {"kl": "0.823", "logit_diff": "0.707"}, "gpt2"),
)


def paper_area(row: Mapping[str, Any]) -> tuple[str, str]:
    """The printed area to put beside a row, and its source; (``NOT_PUBLISHED``, "") where there is none."""
    return _first_of(AREAS, row)


def grid_area(row: Mapping[str, Any], grid: str) -> tuple[str, str]:
    """The same for an area over one grid's thresholds."""
    return _first_of([area for area in AREAS if area.grid == grid], row)


def _first_of(areas: Iterable[PaperArea], row: Mapping[str, Any]) -> tuple[str, str]:
    for area in areas:
        if area.fits(row):
            other = "" if row["model"] == area.model else f" (on {area.model}, another model)"
            return area.value, area.source + other
    return NOT_PUBLISHED, ""


def printed_cost(row: Mapping[str, Any]) -> dict[str, str]:
    """The printed runtime and memory to put beside a method's row, and their source."""
    if row["method"] == "pahq" and row["format"] != "float32":
        return {"paper_runtime": RUNTIME[0], "paper_memory": MEMORY[0], "paper_source": RUNTIME[1]}
    return {"paper_runtime": NOT_PUBLISHED, "paper_memory": NOT_PUBLISHED, "paper_source": ""}


def pareto_point(row: Mapping[str, Any]) -> tuple[str, str]:
    """Printed KL and seconds of a method on IOI, and their source; one circuit each, at one size."""
    if (row["kind"], row["method"], row["model"]) == ("ioi", "acdc", "gpt2"):
        return "KL 0.92 in 18,783 s", "Bhaskar et al. 2024 (Edge Pruning), one H100, 200 prompts"
    return NOT_PUBLISHED, ""
