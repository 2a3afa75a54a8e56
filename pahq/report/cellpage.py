"""The page of one cell: its circuit drawn, its search as a curve, and everything that its files say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pahq.cell.journal import read_journal
from pahq.cell.result import BandAudit, Rescored, Result
from pahq.cell.story import check_cell
from pahq.circuits.circuit import Circuit
from pahq.circuits.picture import draw
from pahq.circuits.shown import Shown
from pahq.circuits.svg import to_svg
from pahq.files.sealed import read_sealed
from pahq.report.cells import shown_of
from pahq.report.curve import curve
from pahq.report.html import drawing, render
from pahq.report.sweep import name_of

Facts = list[tuple[str, str]]
UNSAID = ("schema", "id", "circuit", "model", "files", "each")  # of files beside the result: names, and single searches
EDGES = 400  # rows of the list of edges: the strongest


@dataclass(frozen=True)
class Near:
    """A cell of the same sweep: its folder, its threshold or size, and where its page lies."""

    folder: Path
    label: str
    link: str


def cell_page(folder: Path, experiment: str, back: str, sweep: Sequence[Near] = ()) -> str:
    """The whole page. ``back``: where the experiment's page lies; ``sweep``: the cells of its sweep, itself too.

    PahqError for an unfinished or damaged cell.
    """
    result, circuit = check_cell(folder), Circuit.read(folder / "circuit.json")
    shown = shown_of(folder, result.config)
    edges = sorted(circuit.indices, key=lambda edge: -abs(shown.effect(edge) or 0.0))
    searched = result.search is not None
    return render(
        "cell.html",
        {
            "title": shown.title,
            "id": result.id,
            "experiment": experiment,
            "back": back,
            "summary": _summary(result),
            "circuit": drawing(to_svg(draw(shown))),
            "explore": shlex.join(["pahq", "show", str(folder), "--out", "circuit.html"]),
            "sweep": _sweep(folder, result, sweep),
            "curve": drawing(curve(read_journal(folder / "decisions.jsonl"), result)) if searched else None,
            "search": _search(result),
            "certainty": _certainty(result),
            "audit": _audit(result.band) or _rescored(result.rescored),
            "stability": _read(folder / "stability.json"),
            "faithfulness": _read(folder / "faithfulness.json"),
            "ability": _ability(result),
            "edges_note": _edges_note(len(edges), shown),
            "edge_heads": (
                "edge",
                shown.measure,
                "distance from the threshold",
                "decided in",
                "test" if searched else "rank",
            ),
            "edges": [_edge(shown, edge) for edge in edges[:EDGES]],
            "provenance": _provenance(folder, result),
            "config": json.dumps(result.config.model_dump(mode="json"), indent=1),
        },
    )


def _sweep(folder: Path, result: Result, sweep: Sequence[Near]) -> dict[str, Any] | None:
    if len(sweep) < 2:
        return None
    shown = ["pahq", "show", *(str(one.folder) for one in sweep), "--out", "sweep.html"]
    cells = [{"label": one.label, "link": "" if one.folder == folder else one.link} for one in sweep]
    return {"name": name_of(result.config), "cells": cells, "command": shlex.join(shown)}


def _summary(result: Result) -> Facts:
    fresh = result.fresh
    cleaned = f", {result.kept_cleaned:,} of them on a path to the output"
    rows = [
        ("edges kept", f"{result.kept:,} of {result.edges_addition + result.edges_direct:,}{cleaned}"),
        (fresh.metric, f"{fresh.value:.4g} (whole model {fresh.clean:.4g}, empty circuit {fresh.corrupted:.4g})"),
    ]
    if fresh.metric != "mse":  # outputs that are no logits have no KL
        rows.insert(1, ("KL to the full model, fresh prompts", f"{fresh.kl:.4g} nats"))
    if fresh.faithfulness is not None:
        rows.append(("faithfulness", f"{fresh.faithfulness:.3g}"))
    return [
        *rows,
        ("seconds", f"{result.seconds:.4g} ({result.tests:,} {'tests' if result.search else 'edges scored'})"),
    ]


def _search(result: Result) -> Facts:
    search = result.search
    if search is None:
        return []
    return [
        ("loss before any test", f"{search.start:.4g}"),
        ("loss of the circuit", f"{search.final:.4g}"),
        ("smallest |effect - threshold|", f"{search.smallest_margin:.3g}"),
    ]


def _certainty(result: Result) -> Facts:
    found = result.certainty
    if found is None:
        return []
    settled = f"{found.settled:,} ({100 * found.settled_share:.3g}% of the tests), {found.overturned:,} overturned"
    rows = [
        ("bound of any effect's float error", f"{found.noise:.3g}"),
        ("tests that float64 decided", settled),
        ("tests that could fall either way", f"{found.at_risk:,}"),
    ]
    return rows if found.drift is None else [*rows, ("largest drift of a carried loss", f"{found.drift:.3g}")]


def _audit(band: BandAudit | None) -> Facts:
    if band is None:
        return []
    hopeless = f"from test {band.hopeless_at} on" if band.hopeless else "no"
    return [
        ("tests that full precision decided", f"{band.tests:,} ({100 * band.share:.3g}%)"),
        ("of these overturned", f"{band.overturned:,}"),
        ("the band at the end", "endless" if band.band is None else f"{band.band:.3g} of |effect| + threshold"),
        ("unaudited tests expected to differ, at most", f"{band.could_differ:.3g} ({band.confidence:.0%} confidence)"),
        ("given up as hopeless", hopeless),
    ]


def _rescored(found: Rescored | None) -> Facts:
    if found is None:
        return []
    return [
        ("edges that full precision scored", f"{found.rescored:,} ({100 * found.share:.3g}%)"),
        ("edges that came into the circuit's size by it", f"{found.changed:,}"),
        ("the band at the end", f"{found.band:.3g} of |score| + the score at the cut"),
        ("edges that err by more than any of the sample, at most", f"{100 * found.beyond:.3g}% (95% confidence)"),
    ]


def _ability(result: Result) -> dict[str, Any] | None:
    check = result.task_check
    if check is None:
        return None
    sentence = f"Of {check.items:,} items it does {check.done:.0%}: {check.means}."
    sentence += f" {check.warning}" if check.warning else ""
    return {"sentence": sentence, "examples": [example.model_dump() for example in check.examples]}


def _edges_note(count: int, shown: Shown) -> str:
    most = f"The {EDGES:,} strongest of {count:,} edges" if count > EDGES else f"All {count:,} edges"
    return f"{most} that the circuit keeps, by |{shown.measure}|."


def _edge(shown: Shown, edge: int) -> tuple[str, ...]:
    fact = shown.facts.get(edge)
    name = str(shown.circuit.graph.edges[edge])
    if fact is None:
        return name, "", "", "", ""
    margin = "" if fact.margin is None else f"{fact.margin:.4g}"
    return name, f"{fact.effect:.4g}", margin, fact.precision or "", "" if fact.order is None else str(fact.order)


def _provenance(folder: Path, result: Result) -> Facts:
    versions = result.versions
    rows = [
        ("model's weights (sha256)", result.model_digest),
        ("calibrated levels (sha256)", result.levels or ""),
        ("computed by", f"pahq {versions.pahq}, torch {versions.torch}, Python {versions.python}"),
        ("on", f"{result.device}, {result.threads} thread{'s' if result.threads > 1 else ''}"),
        ("peak memory", f"{result.peak_bytes / 2**20:,.0f} MiB"),
        ("gone on with after a stop", "yes" if result.resumed else "no"),
        ("files", str(folder)),
    ]
    return [row for row in rows if row[1]]


def _read(path: Path) -> Facts:
    """What a file beside the result says, one line a number, but for ``UNSAID``; nothing where there is none."""
    return list(_flat(read_sealed(path))) if path.exists() else []


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if key in UNSAID or value is None:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif isinstance(value, list):
            yield name, f"{len(value):,} values" if len(value) > 12 else ", ".join(map(_text, value))
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
