"""The commands about what is here: models and doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pahq.commandline.options import Json, ModelName, Root
from pahq.commandline.output import check_file, document, growing_table, line, on_terminal, table


def models(
    name: ModelName,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write name, digest and shape there as JSON instead.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="COMMIT", help="Of a hub name.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare logits with transformers' own; exit status 1 beyond 0.0001.")
    ] = False,
    json: Json = False,
) -> int:
    """Load a model and say what it is.

    The last line estimates what an ACDC search on it takes in time and memory.
    """
    if out is not None:
        check_file(out)
    from pahq.experiments.resources import Shape, usual_search
    from pahq.files.text import write_json
    from pahq.model import load_model
    from pahq.model.command import compared, facts, numbers

    model = load_model(name, revision=revision)
    config = model.config.model_dump(mode="json")
    usual = usual_search(Shape.of(config), model.config.reach)
    found = compared(model, name, revision) if check else None
    if out is not None:
        write_json(out, {"name": name, "digest": model.digest, "config": config})
    if not json and out is None:
        rows = [*facts(model, name), ("search", str(usual))]
        if on_terminal():
            table(rows)
        for what, value in () if on_terminal() else rows:
            line(f"{what:<12} {value}")
    if json:
        told = {"name": name, "digest": model.digest, "config": config, **numbers(model), "estimate": asdict(usual)}
        document(told | {"check": None if found is None else {"agrees": found.agrees} | asdict(found), "path": out})
    elif found is not None:
        line(f"check        {found}")
    return int(found is not None and not found.agrees)


def doctor(root: Root = Path("results"), json: Json = False) -> int:
    """Whether all that a search needs is here, and exact.

    Each look says ok, note (something is absent that a search does without) or fault. Exit status 1 after a fault.
    """
    from pahq.experiments.compose import compose_runs
    from pahq.verify.doctor import looks

    found = []
    if on_terminal() and not json:
        with growing_table(("", "what", "how it is")) as add:
            for look in looks(root, compose_runs):
                found.append(look)
                add((look.state, look.what, look.sentence))
    else:
        for look in looks(root, compose_runs):
            found.append(look)
            if not json:
                line(f"{look.state:<6} {look.what:<10} {look.sentence}")
    if json:
        document([vars(look) for look in found])
    return int(any(look.state == "fault" for look in found))
