"""What an experiment found, in a few sentences: each is made from the evaluated cells, and left out where they lack."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pahq.analysis.audits import audit_rows
from pahq.analysis.methods import method_rows
from pahq.analysis.names import FIGURES, METHODS
from pahq.analysis.summary import Evaluation, in_words, summarise

FAITHFUL = (0.8, 1.25)  # of what the model does, a circuit that does its task


def findings(found: Evaluation) -> list[str]:
    """The sentences; an evaluation has at least one finished cell."""
    sentences = (_searched(found.cells, len(found.serial)), _agreement(found), _audits(found), _faithful(found.cells))
    return [
        sentence for sentence in (*sentences, _stability(found), _methods(found), _seconds(found.cells)) if sentence
    ]


def figure_names(found: Evaluation) -> list[str]:
    """The figures that show something of this experiment, the one to begin with first."""
    has = {
        "roc": not found.roc.empty,
        "methods": bool(found.cells["scores"].any()),
        "cost": bool(found.cells["scores"].any()) and not found.faithfulness.empty,
        "pairs": not found.pairs.empty,
        "bits": _several_compared(found),
        "agreement": not found.agreement.empty,
        "errors": not found.errors.empty,
        "faithfulness": not found.faithfulness.empty,
        "stability": not found.stability.empty,
        "inclusion": not found.inclusion.empty,
    }
    names = [name for name in FIGURES if has.get(name, True)]
    return sorted(names, key=lambda name: name != ("methods" if "methods" in names else "edges_kl"))


def _several_compared(found: Evaluation) -> bool:
    """Whether some task has two series or more, of whatever formats, with an area or an agreement with ACDC's circuits.

    So many points it takes for the figure *bits* to compare anything.
    """
    series = summarise(found)
    compared = series[series["auc_steps"].notna() | series["mean_jaccard"].notna()]
    return bool(len(compared) > 0 and compared.groupby("task").size().max() > 1)


def _searched(cells: pd.DataFrame, serial: int) -> str:
    methods = [_name(name) for name, _ in _by_method(cells)]
    formats = list(dict.fromkeys(cells.sort_values("bits")["precision"]))
    tasks = sorted(set(cells["task"]))
    again = f" (cells on the serial schedule, which give the same: {serial})" if serial else ""
    return (
        f"{len(cells)} circuits of {_listed(methods)} were judged, on the "
        f"{'task' if len(tasks) == 1 else 'tasks'} {_listed(tasks)}; weights of attention in {_listed(formats)}{again}."
    )


def _agreement(found: Evaluation) -> str:
    """Edges that differ from full-precision ACDC's of the same task and threshold, and how many ACDC kept, by method.

    Every search in low precision that was compared counts, but for audited, calibrated and other rounded products.
    """
    cells = found.cells.set_index("id")
    plain = ~cells["scores"] & ~cells["full_precision"] & (cells["audit"] != "band")
    plain &= ~cells["variant"].str.contains("precision.", regex=False)
    compared = found.agreement[found.agreement["differing"].notna() & found.agreement["id"].isin(cells.index[plain])]
    if compared.empty:
        return ""
    told = []
    for method, rows in _by_method(compared):
        counts = []
        for (_, precision), of in rows.groupby(["bits", "precision"], sort=True):
            kept = int(cells["kept"].reindex(of["reference"]).sum())
            counts.append(
                f"{int(of['differing'].sum())} of {kept:,} at {precision} ({len(of)} {_plural(len(of), 'search')})"
            )
        told.append(f"{_name(method)} {_listed(counts)}")
    return (
        "Edges in which circuits differ from those of full-precision ACDC, without an audit, of so many that ACDC "
        f"keeps: {'; '.join(told)}."
    )


def _audits(found: Evaluation) -> str:
    """What the usual audit leaves, beside the same searches without it where these were run."""
    cells = found.cells[(found.cells["audit"] != "band") | found.cells["usual_band"]]
    audited = audit_rows(cells, found.agreement).dropna(subset=["differing", "audited_share"])
    audited = audited.merge(cells[["precision", "bits"]].drop_duplicates(), on="precision")
    if audited.empty:
        return ""
    told = []
    for method, rows in _by_method(audited):
        counts = []
        for (_, precision), of in rows.groupby(["bits", "precision"], sort=True):
            low, high = _percent(of["audited_share"].min()), _percent(of["audited_share"].max())
            share = f"{low} of the tests" if low == high else f"{low} to {high} of the tests"
            before = (
                "" if of["differing_unaudited"].isna().any() else f"without it {of['differing_unaudited'].sum():.0f}; "
            )
            counts.append(f"{of['differing'].sum():.0f} at {precision} ({before}{share})")
        told.append(f"{_name(method)} {_listed(counts)}")
    return f"With the usual audit (`audit=band`), and how many tests it decides again: {'; '.join(told)}."


def _faithful(cells: pd.DataFrame) -> str:
    acdc = cells[(cells["method"] == "acdc") & cells["faithfulness"].notna()]
    if acdc.empty:
        return ""
    good = acdc[acdc["faithfulness"].between(*FAITHFUL)]
    on = f", on {_listed(sorted(set(good['task'])))}" if len(good) else ""
    have, (least, most) = "has" if len(good) == 1 else "have", FAITHFUL
    return (
        f"Of ACDC's {len(acdc)} circuits {len(good)} {have} a faithfulness of {least} to {most} on fresh prompts{on}."
    )


def _stability(found: Evaluation) -> str:
    rows = found.stability[found.stability["method"].isin(["acdc", "pahq"]) & (found.stability["variant"] == "")]
    rows = rows[rows["jaccard_pairs"].notna()]
    if rows.empty:
        return ""
    low, high = rows["jaccard_pairs"].min(), rows["jaccard_pairs"].max()
    return (
        f"Searches on resampled prompts share {low:.2f} to {high:.2f} of their edges with each other (Jaccard): two "
        "methods whose circuits share more than that differ by less than the choice of prompts decides."
    )


def _methods(found: Evaluation) -> str:
    """Whose circuits of 5% are best, where several methods have some that large, of one ablation and graph."""
    cells = found.cells
    if not cells["scores"].any():
        return ""
    grounds = cells.groupby("task")[["ablation", "edges"]].nunique().max(axis=1)
    rows = method_rows(cells, found.faithfulness).dropna(subset=["kl_at_5"])
    rows = rows[rows["task"].map(grounds) == 1]
    rows = rows[rows.groupby("task")["method"].transform("nunique") > 1]
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
    low = cells[~cells["full_precision"] & (cells["audit"] != "band") & ~cells["scores"]]
    same = ["pair", "engine", "dtype", "device", "threads", "threshold"]
    both = low.merge(acdc.drop_duplicates(same), on=same, suffixes=("", "_acdc"))
    both = both[both["seconds_acdc"] > 0]
    if both.empty:
        return ""
    ratios, told = both.assign(ratio=both["seconds"] / both["seconds_acdc"]), []
    for device, here in ratios.groupby("device"):
        listed = [f"{_name(name)} {rows['ratio'].median():.2g}" for name, rows in _by_method(here)]
        told.append(f"{_listed(listed)} ({device})")
    return f"Seconds of a search over those of full-precision ACDC, without an audit, median: {'; '.join(told)}."


def _by_method(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Its rows by method, in the order in which tables and legends have methods."""
    order = {name: i for i, name in enumerate(METHODS)}
    return sorted(((str(name), rows) for name, rows in frame.groupby("method")), key=lambda of: order.get(of[0], 99))


def _name(method: object) -> str:
    """As a sentence says it: PAHQ (changes), not PAHQ, changes."""
    first, *more = METHODS.get(str(method), str(method)).split(", ")
    return f"{first} ({', '.join(more)})" if more else first


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}es"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
