"""How far two methods agree: on the edges of circuits of one size, and on the order in which they rank all edges.

A method that scores edges ranks them by |score|. A search ranks them by the highest threshold at which it keeps them;
edges that it never keeps share the last rank, so that its correlation with anything is that of its kept edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pahq.analysis.collect import Collected
from pahq.analysis.names import METHODS
from pahq.cell.files import SCORES, cell_folder, read_result
from pahq.cell.scorefile import read_scores
from pahq.circuits.agreement import Agreement
from pahq.circuits.circuit import Circuit
from pahq.circuits.scores import Scores

SHARE = 0.05  # of all edges: the size at which circuits are compared, or as near to it as two methods have circuits
GROUND = ("ablation", "edges")  # what circuits of one task have in common that can be compared
NEAR = 1.5  # two circuits count as of one size if one has at most so many times as many edges as the other
NAMES = (
    *("task", "first", "first_variant", "second", "second_variant", "first_kept", "second_kept"),
    *("jaccard", "jaccard_by_chance", "rank_correlation"),
)


def compared(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that are compared: full precision, of tasks on which some method scored edges."""
    tasks = set(cells.loc[cells["scores"], "task"])
    plain = cells["full_precision"] & (cells["engine"] == "suffix") & cells["task"].isin(tasks)
    return cells[plain & cells["metric"].ne("mse")]


def pair_rows(root: str | Path, collected: Collected) -> pd.DataFrame:
    """Columns ``NAMES``; one row two methods of a task, where some method scores edges.

    Full precision, edges chosen by their scores alone (not grown from the logits). Of the circuits of about one size
    that both have, those nearest to 5% of the edges are compared (a search of a large model keeps far fewer); a Jaccard
    index is missing where there are none.
    """
    shown = compared(collected.cells)
    shown = shown[~shown["variant"].str.contains("select=greedy|select=threshold")]
    rows: list[dict[str, Any]] = []
    grounds = shown.groupby("task")[list(GROUND)].nunique().max(axis=1).to_dict()
    for (task, ablation, edges), cells in shown.groupby(["task", *GROUND], sort=False):
        name = f"{task} ({ablation} ablation, {edges:,} edges)" if grounds[task] > 1 else task
        order = [*METHODS, *sorted(set(cells["method"]) - set(METHODS))]
        sweeps = [sweep for _, sweep in cells.groupby("series", sort=False)]
        sweeps.sort(key=lambda sweep: order.index(sweep.iloc[0]["method"]))
        ranks = pd.DataFrame({i: _ranking(root, sweep, collected.circuits) for i, sweep in enumerate(sweeps)})
        agreed = ranks.corr(method="spearman")
        for one, other in combinations(range(len(sweeps)), 2):
            row: dict[str, Any] = {"task": name, "rank_correlation": agreed.loc[one, other]}
            for place, sweep in (("first", sweeps[one]), ("second", sweeps[other])):
                row |= {place: sweep.iloc[0]["method"], f"{place}_variant": sweep.iloc[0]["variant"]}
            rows.append(row | _overlap(sweeps[one], sweeps[other], collected.circuits))
    return pd.DataFrame(rows, columns=list(NAMES))


def _ranking(root: str | Path, sweep: pd.DataFrame, circuits: Mapping[str, Circuit]) -> np.ndarray[Any, Any]:
    """|score| of every edge; of a search the highest threshold at which the edge is kept.

    Where each size has scores of its own, those of the circuit nearest to 5% of the edges.
    """
    sized = sweep[sweep["kept_cleaned"] > 0].to_dict("records")
    first = min(sized, key=lambda cell: _away(cell["kept_cleaned"], cell), default=sweep.iloc[0].to_dict())
    if not first["scores"]:
        by_threshold = {row["threshold"]: circuits[str(row["id"])] for row in sweep.to_dict("records")}
        return np.abs(Scores.of_sweep(by_threshold).values)
    folder, graph = cell_folder(root, first["id"]), circuits[first["id"]].graph
    return np.abs(read_scores(folder / SCORES, graph, read_result(folder).config).values)


def _overlap(one: pd.DataFrame, other: pd.DataFrame, circuits: Mapping[str, Circuit]) -> dict[str, Any]:
    alike = list(_alike(one, other))
    if not alike:
        return {"first_kept": np.nan, "second_kept": np.nan, "jaccard": np.nan, "jaccard_by_chance": np.nan}
    cells = min(alike, key=lambda pair: _away(math.sqrt(pair[0]["kept_cleaned"] * pair[1]["kept_cleaned"]), pair[0]))
    mine, theirs = (frozenset(circuits[str(cell["id"])].cleaned(ablation=cell["ablation"]).edges) for cell in cells)
    found = Agreement.of(mine, theirs, int(cells[0]["edges"]))
    sizes = {"first_kept": float(len(mine)), "second_kept": float(len(theirs))}
    return sizes | {"jaccard": found.jaccard, "jaccard_by_chance": found.jaccard_by_chance}


def _alike(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Circuits of two series that are of about one size."""
    mine, theirs = (sweep[sweep["kept_cleaned"] > 0].to_dict("records") for sweep in (one, other))
    for cell, beside in product(mine, theirs):
        if abs(math.log(cell["kept_cleaned"] / beside["kept_cleaned"])) <= math.log(NEAR):
            yield cell, beside  # type: ignore[misc]


def _away(size: float, cell: Mapping[Any, Any]) -> float:
    """How far a size is from ``SHARE`` of the cell's edges."""
    return abs(math.log(size / (SHARE * cell["edges"])))
