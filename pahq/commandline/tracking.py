"""``pahq wandb``: an experiment's tables, or a dashboard of all runs, in Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from pahq.commandline.experiments import check_known
from pahq.commandline.options import Experiment, Json, Root
from pahq.commandline.output import check_file, document, line
from pahq.errors import PahqError

OF_TABLES = {"experiment": "EXPERIMENT", "root": "--root", "mode": "--mode"}
OF_DASHBOARD = {"entity": "--entity", "project": "--project", "out": "--out"}


def wandb(
    ctx: typer.Context,
    what: Annotated[
        Literal["tables", "circuits", "dashboard"],
        typer.Argument(
            metavar="tables|circuits|dashboard",
            help="An experiment's tables, its circuits with their pages, or a view of all runs.",
        ),
    ],
    experiment: Experiment = "default",
    root: Root = Path("results"),
    mode: Annotated[
        Literal["auto", "online", "offline"],
        typer.Option("--mode", help="How these are logged; auto is online where there is a key."),
    ] = "auto",
    entity: Annotated[
        str | None, typer.Option("--entity", metavar="NAME", help="Whose project has the dashboard: your own.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Which project has the dashboard: pahq.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the dashboard's specification, and ask no server."),
    ] = None,
    json: Json = False,
) -> None:
    """Log tables or circuits to W&B, or put a dashboard there.

    Tables are logged as a run that reads the circuits of the experiment's cells. Circuits are logged anew, with the
    page to explore that runs lack which nobody asked for. The dashboard is put into a project.
    """
    for name, word in (OF_TABLES if what == "dashboard" else OF_DASHBOARD).items():
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            other = "tables" if what == "dashboard" else "dashboard"
            raise PahqError(f"pahq wandb {what} takes no {word}, which is for pahq wandb {other}; leave it out")
    if out is not None:
        check_file(out)
    if what == "dashboard":
        told = _dashboard(entity, project, out)
    else:
        told = (_tables if what == "tables" else _circuits)(root, experiment, mode)
    if json:
        document({key: value for key, value in told.items() if key != "text"})
    else:
        line(told["text"])


def _tables(root: Path, experiment: str, mode: str) -> dict[str, str]:
    check_known(experiment, root)
    from pahq.report.dashboard import SYNC, log_tables

    logged = _logged(log_tables(root, experiment, mode))
    later = f"; {SYNC.format(root=root)} sends it" if logged == "offline" else ""
    return {"what": "tables", "where": logged, "text": f"{experiment}: tables logged {logged}{later}"}


def _circuits(root: Path, experiment: str, mode: str) -> dict[str, str]:
    check_known(experiment, root)
    from pahq.report.dashboard import SYNC, log_circuits
    from pahq.report.library import explorer

    counts = log_circuits(root, experiment, mode, explorer)
    lost = counts.get("disabled", 0)
    if 0 < lost < sum(counts.values()):
        raise PahqError(f"W&B: {lost} of {sum(counts.values())} circuits were not logged, since it no longer worked")
    where = _logged("disabled" if lost else "offline" if "offline" in counts else "online")
    later = f"; {SYNC.format(root=root)} sends them" if where == "offline" else ""
    told = " and ".join(f"{count} circuits logged {mode}" for mode, count in counts.items())
    return {"what": "circuits", "where": where, "text": f"{experiment}: {told}{later}"}


def _logged(mode: str) -> str:
    """The mode; PahqError where nothing was logged."""
    if mode == "disabled":
        raise PahqError("W&B: nothing was logged, since it is disabled (WANDB_MODE, WANDB_DISABLED) or did not work")
    return mode


def _dashboard(entity: str | None, project: str | None, out: Path | None) -> dict[str, str]:
    from pahq.cell.tracking import project as usual
    from pahq.files.text import write_json
    from pahq.report.dashboard import apply, specification

    entity, into = entity or os.environ.get("WANDB_ENTITY"), project or usual()
    if out is None:
        where = apply(entity, into)
    else:
        write_json(out, specification(entity or "entity", into))
        where = str(out)
    return {"what": "dashboard", "where": where, "text": where}
