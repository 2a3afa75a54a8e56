"""The commands about what is claimed of a circuit: verify, and bundle, which writes a claim for others to verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pahq.commandline.options import Cell, Device, Dtype, Engine, Json
from pahq.commandline.output import check_file, document, line
from pahq.errors import PahqError


def verify(
    what: Annotated[
        Path,
        typer.Argument(metavar="DIR|FILE.zip", help="A recorded run, recorded scores, a finished cell, or a bundle."),
    ],
    engine: Annotated[Engine | None, typer.Option(help="Without it the cell's own; of a recorded run suffix.")] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Without it the cell's own; of a recorded run float32, of recorded scores float64."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(metavar="N", help="Of a bundle: so many tests, drawn at random, in place of all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Which ones: of the sample; 0 if not said.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of a bundle: the folder or name of its model, if not where the cell had it."
        ),
    ] = None,
    device: Device = "cpu",
    json: Json = False,
) -> int:
    """Run a search or a cell again, and compare; or check a bundle.

    It compares test by test, and scores edge by edge. A cell's files are checked first: a damaged one is named, and
    nothing is run again. A bundle (pahq bundle) is decided again by the reference engine in float64. Exit status 1 on
    any disagreement.
    """
    if what.is_file() or what.suffix.lower() == ".zip":
        return _claim(what, {"--engine": engine, "--dtype": dtype}, sample, seed, model, device, json=json)
    for name, value in (("--sample", sample), ("--seed", seed), ("--model", model)):
        if value is not None:
            raise PahqError(f"pahq verify: {name} is for a bundle (FILE.zip), and {what} is none; leave it out")
    from pahq.verify.command import verify as replayed

    found = replayed(what, engine=engine, dtype=dtype, device=device)
    if json:
        document([_compared(asdict(one)) for one in found])
    for one in () if json else found:
        line(str(one))
    return int(any(one.first for one in found))


def _claim(
    path: Path,
    others: Mapping[str, object],
    sample: int | None,
    seed: int | None,
    model: str | None,
    device: str,
    *,
    json: bool,
) -> int:
    """A bundle's claim, in one line; ``others``: options that say nothing to it."""
    for name, value in others.items():
        if value is not None:
            raise PahqError(f"pahq verify: a bundle is decided by the reference engine in float64: leave {name} out")
    if sample is not None and sample < 1:
        raise PahqError(f"pahq verify: --sample is a number of tests from 1 on, not {sample}")
    if seed is not None and sample is None:
        raise PahqError("pahq verify: --seed draws a sample: say --sample N too")
    from pahq.verify.claim import verify_bundle

    found = verify_bundle(path, sample=sample, seed=seed or 0, model=model, device=device)
    if json:
        document([found.to_json()])
    else:
        line(str(found))
    return int(not found.holds)


def bundle(
    cell: Cell,
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The file to write.")],
    json: Json = False,
) -> None:
    """Write a finished cell as one file that anyone can check.

    It holds the circuit, every decision (or score), the settings, the prompts in token ids, and the model where this
    package has it. Of another model it holds the sha256 of the weights.

    \b
    pahq bundle results/cells/nano-ioi/acdc-float32-t0.1-* --out circuit.zip
    pahq verify circuit.zip
    """
    if out.suffix.lower() != ".zip":
        raise PahqError(f"--out {out}: a bundle is a ZIP file; end the name in .zip")
    check_file(out)
    from pahq.verify.bundle import bundle as bundled

    found = bundled(cell, out)
    if json:
        document(found.to_json())
    else:
        line(str(found))


def _compared(values: dict[str, Any]) -> dict[str, Any]:
    kind = "search" if "tests" in values else "scores"
    return {"name": values["name"], "kind": kind, "agrees": values["first"] is None} | values
