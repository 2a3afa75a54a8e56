"""What an experiment found, in a few sentences: each is made from the evaluated cells, and left out where they lack."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pahq.analysis.evaluate import PUBLISHED
from pahq.analysis.methods import method_rows
from pahq.analysis.names import FIGURES, METHODS
from pahq.analysis.summary import Evaluation, in_words

FAITHFUL = 0.8  # a circuit that does at least so much of what the model does, as the documentation's targets say


def findings(found: Evaluation) -> list[str]:
    """The sentences; an evaluation has at least one finished cell."""
    sentences = (_searched(found.cells), _agreement(found), _audits(found), _faithful(found.cells))
    return [
        sentence for sentence in (*sentences, _stability(found), _methods(found), _seconds(found.cells)) if sentence
    ]


def figure_names(found: Evaluation) -> list[str]:
    """The figures that show something of this experiment, the one to begin with first."""
    has = {
        "roc": bool((found.roc["reference"] == PUBLISHED).any()),
        "methods": bool(found.cells["scores"].any()),
        "pairs": not found.pairs.empty,
        "bits": found.cells["bits"].nunique() > 1,
        "agreement": not found.agreement.empty,
        "errors": not found.errors.empty,
        "faithfulness": not found.faithfulness.empty,
        "stability": not found.stability.empty,
        "inclusion": not found.inclusion.empty,
    }
    names = [name for name in FIGURES if has.get(name, True)]
    return sorted(names, key=lambda name: name != ("methods" if "methods" in names else "edges_kl"))


def _searched(cells: pd.DataFrame) -> str:
    methods = [_name(name) for name, _ in _by_method(cells)]
    formats = list(dict.fromkeys(cells.sort_values("bits")["precision"]))
    tasks = sorted(set(cells["task"]))
    return (
        f"{len(cells)} circuits of {_listed(methods)} were judged, on the "
        f"{'task' if len(tasks) == 1 else 'tasks'} {_listed(tasks)}; weights of attention in {_listed(formats)}."
    )


def _agreement(found: Evaluation) -> str:
    """Edges that differ from full-precision ACDC's, and how many ACDC kept: searches of plain series, by method."""
    cells = found.cells.set_index("id")
    searched = cells.index[~cells["scores"] & ~cells["full_precision"] & (cells["audit"] != "band")]
    plain = found.agreement[(found.agreement["variant"] == "") & found.agreement["differing"].notna()]
    plain = plain[plain["id"].isin(searched)]
    if plain.empty:
        return ""
    told = []
    for method, rows in _by_method(plain):
        widths = [(name, of) for (_, name), of in rows.groupby(["bits", "precision"], sort=True)]
        counts = [f"{int(of['differing'].sum())} at {precision}" for precision, of in widths]
        kept = sorted({int(cells["kept"].reindex(of["reference"]).sum()) for _, of in widths})
        told.append(
            f"{_name(method)} {_listed(counts)} (of {' to '.join(map(str, dict.fromkeys((kept[0], kept[-1]))))})"
        )
    return (
        "Edges in which circuits differ from those of full-precision ACDC, without an audit, and how many ACDC "
        f"keeps: {'; '.join(told)}."
    )


def _audits(found: Evaluation) -> str:
    audited = found.cells[found.cells["audit"] == "band"]
    differing = found.agreement.set_index("id")["differing"].reindex(audited["id"]).to_numpy()
    audited = audited.assign(differing=differing).dropna(subset=["differing", "audited_share"])
    if audited.empty:
        return ""
    told = []
    for method, rows in _by_method(audited):
        counts = [
            f"{int(of['differing'].sum())} at {precision} "
            f"({_percent(of['audited_share'].min())} to {_percent(of['audited_share'].max())} of the tests)"
            for (_, precision), of in rows.groupby(["bits", "precision"], sort=True)
        ]
        told.append(f"{_name(method)} {_listed(counts)}")
    return f"With an audit (`audit=band`), and how many tests it decides again: {'; '.join(told)}."


def _faithful(cells: pd.DataFrame) -> str:
    acdc = cells[(cells["method"] == "acdc") & cells["faithfulness"].notna()]
    if acdc.empty:
        return ""
    good = acdc[acdc["faithfulness"] >= FAITHFUL]
    on = f", on {_listed(sorted(set(good['task'])))}" if len(good) else ""
    reach = "reaches" if len(good) == 1 else "reach"
    return f"Of ACDC's {len(acdc)} circuits {len(good)} {reach} a faithfulness of {FAITHFUL} on fresh prompts{on}."


def _stability(found: Evaluation) -> str:
    rows = found.stability[found.stability["method"].isin(["acdc", "pahq"]) & (found.stability["variant"] == "")]
    rows = rows[rows["jaccard_pairs"].notna()]
    if rows.empty:
        return ""
    low, high = rows["jaccard_pairs"].min(), rows["jaccard_pairs"].max()
    return (
        f"Searches on resampled prompts share {low:.2f} to {high:.2f} of their edges with each other (Jaccard): "
        "differences between methods that are smaller than that are smaller than what the choice of prompts decides."
    )


def _methods(found: Evaluation) -> str:
    if not found.cells["scores"].any():
        return ""
    rows = method_rows(found.cells, found.faithfulness).dropna(subset=["kl_at_5"])
    if rows.empty:
        return ""
    best = rows.loc[rows.groupby("task")["kl_at_5"].idxmin()]
    told = [
        f"{_name(row['method'])}"
        f"{' (' + in_words(row['variant']) + ')' if row.get('variant') else ''} on {row['task']} ({row['kl_at_5']:.2g})"
        for row in best.to_dict("records")
    ]
    return f"Of circuits with 5% of the edges the lowest KL to the model, in nats, is that of {_listed(told)}."


def _seconds(cells: pd.DataFrame) -> str:
    acdc = cells[cells["method"] == "acdc"]
    low = cells[~cells["full_precision"] & (cells["variant"] == "") & ~cells["scores"]]
    same = ["pair", "engine", "dtype", "device", "threads", "threshold"]
    both = low.merge(acdc.drop_duplicates(same), on=same, suffixes=("", "_acdc"))
    both = both[both["seconds_acdc"] > 0]
    if both.empty:
        return ""
    ratios = both.assign(ratio=both["seconds"] / both["seconds_acdc"])
    told = [f"{_name(name)} {rows['ratio'].median():.2g}" for name, rows in _by_method(ratios)]
    devices = _listed(sorted(set(both["device"])))
    return f"Seconds of a search over those of full-precision ACDC ({devices}, median): {_listed(told)}."


def _by_method(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Its rows by method, in the order in which tables and legends have methods."""
    order = {name: i for i, name in enumerate(METHODS)}
    return sorted(((str(name), rows) for name, rows in frame.groupby("method")), key=lambda of: order.get(of[0], 99))


def _name(method: object) -> str:
    """As a sentence says it: PAHQ (changes), not PAHQ, changes."""
    first, *more = METHODS.get(str(method), str(method)).split(", ")
    return f"{first} ({', '.join(more)})" if more else first


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
