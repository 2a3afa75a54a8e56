"""Draws the figures of a committed report anew, from its tables alone: after a change in how figures look.

    python tools/redraw.py compare-real

The cells of a long experiment need not be at hand for that. What its tables do not hold stays as it was drawn: the
curves of roc, faithfulness and inclusion, the single tests of errors, agreement by threshold, and the seconds of single
circuits where a series has several. The command says which figures it drew, and which it left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from reference import OUT, small

from pahq.analysis.agreementfigures import bits_figure
from pahq.analysis.drawing import SHARP
from pahq.analysis.figures import edges_figure, pareto_figure
from pahq.analysis.methodsfigure import cost_figure, methods_figure
from pahq.analysis.names import NAMED
from pahq.analysis.pairsfigure import pairs_figure
from pahq.analysis.stabilityfigures import stability_figure
from pahq.config.method import SCORING
from pahq.config.precision import BITS
from pahq.errors import PahqError
from pahq.files.frames import replacing

ONE = 1e-9  # two sums of seconds that differ by less are of the same circuits
_ORDER = ["task", "method", "precision", "variant", "threshold", "kept"]


def redraw(folder: Path) -> tuple[list[str], list[str]]:
    """Draw what the tables of a committed report hold into its ``figures``; names of figures drawn, and of those left.

    Raises PahqError where there is no such report.
    """
    if not (folder / "tables" / "circuits.csv").is_file():
        raise PahqError(f"{folder} is no committed report: it has no tables/circuits.csv")
    known, there = _figures(folder / "tables"), sorted(path.stem for path in folder.glob("figures/*.png"))
    drawn = [name for name in there if name in known]
    for name in drawn:
        path = folder / "figures" / f"{name}.png"
        with replacing(path) as temporary:
            known[name]().savefig(temporary, dpi=SHARP, format="png")
            small(temporary, temporary)
    return drawn, [name for name in there if name not in known]


def _figures(tables: Path) -> dict[str, Callable[[], Figure]]:
    """What draws each figure of which the tables hold all."""
    cells = _cells(tables)
    found: dict[str, Callable[[], Figure]] = {
        "edges_kl": partial(edges_figure, cells),
        "methods": partial(methods_figure, cells),
        "cost": partial(cost_figure, _read(tables, "methods")),
        "pairs": partial(pairs_figure, _read(tables, "pairs")),
        "bits": partial(bits_figure, _with_format(_read(tables, "bits"), tables)),
        "stability": partial(stability_figure, _with_format(_read(tables, "stability"), tables)),
    }
    if cells["seconds"].notna().all():
        found["pareto"] = partial(pareto_figure, cells)
    return found


def _read(tables: Path, name: str) -> pd.DataFrame:
    frame = pd.read_csv(tables / f"{name}.csv")
    words = [column for column in frame.columns if column == "variant" or column.endswith("_variant")]
    return frame.assign(**{column: frame[column].astype(object).fillna("").astype(str) for column in words})


def _with_format(frame: pd.DataFrame, tables: Path) -> pd.DataFrame:
    """The frame with what a figure asks of a row beside its names: its series, its format and this one's bits."""
    formats = _read(tables, "models").drop_duplicates("precision").set_index("precision")["format"]
    series = frame[list(NAMED)].astype(str).agg(" ".join, axis=1) if len(frame) else ""
    found = frame.assign(series=series, format=frame["precision"].map(formats))
    return found.assign(bits=found["format"].map(BITS))


def _cells(tables: Path) -> pd.DataFrame:
    """One row a circuit, as ``pahq evaluate`` has them; its seconds where they follow from those of its series."""
    cells = _with_format(_read(tables, "circuits"), tables)
    cells = cells.sort_values(_ORDER, kind="stable", ignore_index=True)
    cells["scores"] = cells["method"].isin(SCORING)
    cells["full_precision"] = cells["format"] == "float32"
    costs = _with_format(_read(tables, "cost"), tables).set_index("series")
    for name in ("engine", "device", "threads"):
        cells[name] = cells["series"].map(costs[name])
    total = cells["series"].map(costs["seconds"])
    scored = _read(tables, "methods")
    scored["series"] = scored["task"] + " " + scored["method"] + " float32 " + scored["variant"]
    mean = cells["series"].map(scored.set_index("series")["seconds"])
    alone = cells.groupby("series")["series"].transform("size") == 1
    cells["seconds"] = total.where(alone | ((total - mean).abs() < ONE * total))
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """``EXPERIMENT [--out results/reference]``: draw, and say what. 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(prog="redraw.py", description="draw a committed report's figures from its tables")
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--out", type=Path, default=OUT, help="default: results/reference of this repository")
    given = parser.parse_args(argv)
    try:
        drawn, left = redraw(given.out / given.experiment)
    except PahqError as error:
        sys.stderr.write(f"redraw.py: error: {error}\n")
        return 2
    sys.stdout.write(f"drawn: {', '.join(drawn) or 'none'}; left as they were: {', '.join(left) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
