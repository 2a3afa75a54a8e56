"""``pahq wandb``: an experiment's tables in Weights & Biases, and the dashboard that shows what is there, as code.

A dashboard is a saved view of a project's runs. Cells log their own numbers (``pahq.cell.tracking``); what needs many
cells, areas, agreement and stability by bits, is logged with an experiment's tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pahq.analysis.evaluate import BY_CONSTRUCTION
from pahq.analysis.summary import Evaluation, summarise
from pahq.analysis.tables import tables
from pahq.cell.files import cell_folder, read_result
from pahq.cell.tracking import Page, Tables, has_key, log_cell, log_experiment, unreachable
from pahq.config.cell import RunConfig
from pahq.errors import PahqError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "PAHQ: circuits"
SYNC = "wandb sync {root}/wandb/offline-run-*"  # sends what was logged offline
CURVES = {"auc_steps": "auc", "mean_jaccard": "jaccard"}  # column of a series: how its line over the bits is called


def log_tables(root: Path, experiment: str, mode: str = "auto") -> str:
    """Log an evaluated experiment's tables as one run that reads its circuits; online, offline or disabled.

    Raises PahqError if the experiment was not evaluated, or its tables were not written.
    """
    found = Evaluation.read(root, experiment)
    files = sorted((found.folder / "tables").glob("*.csv"))
    if not files:
        raise PahqError(f"{found.folder / 'tables'} holds no tables; write them first (pahq tables {experiment})")
    folders = [cell_folder(root, str(cell_id)) for cell_id in found.cells["id"]]
    logged = Tables(
        experiment=experiment,
        tables={part.name: _plain(part.frame) for part in tables(found) if len(part.frame)},
        files=files,
        circuits=[(read_result(folder).config, folder) for folder in folders],
        curves=list(curves(found)),
    )
    return log_experiment(logged, RunConfig.model_validate({"root": str(root), "wandb": mode}))


def log_circuits(root: Path, experiment: str, mode: str, page: Page) -> dict[str, int]:
    """Log an evaluated experiment's cells anew, each with its page; how many online, offline and, at last, not at all.

    A run that is there is gone on with, or replaced where it lies offline: so a page comes to a run that was logged
    without one. Raises PahqError if the experiment was not evaluated.
    """
    found = Evaluation.read(root, experiment)
    run = RunConfig.model_validate({"root": str(root), "experiment": experiment, "wandb": mode})
    folders = [cell_folder(root, str(cell_id)) for cell_id in found.cells["id"]]
    return Counter(log_cell(read_result(folder).config, run, folder, page, paged=True) for folder in folders)


def curves(found: Evaluation) -> Iterator[dict[str, float]]:
    """By bits of a format, each method's means over tasks and the formats of so many bits.

    ``auc/METHOD``: against published circuits. ``jaccard/METHOD``: to ACDC's circuit at the same threshold.
    ``stability/METHOD``: of pairs of searches on resampled prompts. Series without audit or other settings alone.
    """
    series, stability = summarise(found), found.stability
    series = series[(series["variant"] == "") & ~series["note"].str.contains(BY_CONSTRUCTION, regex=False)]
    stability = stability[stability["variant"] == ""]
    parts = [(series, column, name) for column, name in CURVES.items()] + [(stability, "jaccard_pairs", "stability")]
    points: dict[float, dict[str, float]] = {}
    for frame, column, name in parts:
        known = frame[frame[column].notna()]
        for bits, rows in known.groupby("bits"):
            means = rows.groupby("method")[column].mean()
            points.setdefault(float(str(bits)), {}).update(
                {f"{name}/{method}": float(x) for method, x in means.items()}
            )
    for width in sorted(points):
        yield {"bits": width} | points[width]


def workspace(entity: str, project: str) -> Workspace:
    """The dashboard of a project. Needs no network: ``save()`` puts it there."""
    from wandb_workspaces.reports.v2 import interface as panels
    from wandb_workspaces.workspaces import Section, Workspace

    def by_bits(name: str, title: str) -> panels.LinePlot:
        bits = "bits of attention weights"
        return panels.LinePlot(title=title, x="bits", metric_regex=f"^{name}/.*", title_x=bits, title_y=name)

    def of_methods(metric: str, title: str) -> panels.BarPlot:
        label = panels.Metric("JobType")  # a cell's method
        return panels.BarPlot(
            title=title, metrics=[metric], groupby=label, groupby_aggfunc="mean", groupby_rangefunc="minmax"
        )

    def of_circuits(x: str, y: str, title: str) -> panels.ScatterPlot:
        across, up = panels.SummaryMetric(x), panels.SummaryMetric(y)
        return panels.ScatterPlot(title=title, x=across, y=up, log_x=True, log_y=True)

    sections: dict[str, list[panels.PanelTypes]] = {
        "AUC by bits": [
            by_bits("auc", "AUC against published circuits, mean over tasks"),
            by_bits("jaccard", "Jaccard index to ACDC's circuits, mean over tasks"),
        ],
        "KL against edges": [of_circuits("kept", "kl", "KL on fresh prompts (nats) against edges kept")],
        "Seconds and memory": [
            of_methods("seconds", "Seconds of a search: mean, least and most"),
            of_methods("peak_bytes", "Peak memory in bytes: mean, least and most"),
            of_circuits("peak_bytes", "seconds", "Seconds against peak memory in bytes"),
        ],
        "Stability": [
            by_bits("stability", "Jaccard index of pairs of searches on resampled prompts, mean over circuits"),
            panels.WeavePanelSummaryTable(table_name="tables/stability"),
        ],
        "Circuits": [panels.MediaBrowser(title="Circuits to explore", media_keys=["circuit"])],
    }
    shown = [Section(name=name, panels=made, is_open=True) for name, made in sections.items()]
    return Workspace(entity=entity, project=project, name=NAME, sections=shown)


def specification(entity: str, project: str) -> dict[str, Any]:
    """The dashboard as what W&B's server is sent of it."""
    found: dict[str, Any] = workspace(entity, project)._spec
    return found


def apply(entity: str | None, project: str) -> str:
    """Put the dashboard into a project, and say where it is. PahqError without a key, or a way to the server."""
    missing = "no key is configured (wandb login, or WANDB_API_KEY)" if not has_key() else unreachable()
    if missing is not None:
        raise PahqError(f"W&B: {missing}, so the dashboard cannot be put there; --out FILE writes its specification")
    try:
        import wandb

        made = workspace(entity or str(wandb.Api().default_entity), project)
        made.save()  # type: ignore[no-untyped-call]
        return str(made.url)
    except Exception as error:  # W&B raises a dozen kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PahqError(f"W&B: the dashboard was not put into the project {project!r} ({reason})") from None


def _plain(frame: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows as W&B's tables take them: of a column numbers or texts, never both."""
    columns: Mapping[str, list[Any]] = {
        str(name): [None if pd.isna(value) else value for value in column.tolist()]
        if pd.api.types.is_numeric_dtype(column)
        else ["" if pd.isna(value) else str(value) for value in column.tolist()]
        for name, column in frame.items()
    }
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]
