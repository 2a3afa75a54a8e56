"""``pahq run``, which need not be said: cells from Hydra's words, one or with ``-m`` a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pahq.commandline.completion import words_of_a_cell
from pahq.commandline.hydrarun import check_looks, run_in_hydra
from pahq.commandline.launching import LAUNCHER, SUBMITIT, check_installed, estimated, launcher_of, lost
from pahq.commandline.options import Json
from pahq.commandline.output import document, line
from pahq.errors import PahqError, nearest

if TYPE_CHECKING:
    from pahq.cell.files import SearchResult
    from pahq.config.cell import CellConfig, RunConfig
    from pahq.experiments.progress import Progress

_PLACES = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_LOOKS = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--hydra-help")
_FLAGS = (*_PLACES, *_LOOKS, "--run", "-r", "--shell-completion", "-sc")
_OPTIONS = ("-m", "--multirun", "--json", "-h", "--help", *_FLAGS)
Tell = Callable[["CellConfig", "SearchResult"], None]


def run(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="What is searched, and how.", autocompletion=words_of_a_cell),
    ] = None,
    multirun: Annotated[
        bool,
        typer.Option(
            "-m",
            "--multirun",
            help="A sweep: every combination of comma-separated values, all checked before one runs.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Run one cell, or with -m a sweep over lists of values.

    The word "run" may be left out: "pahq task=nano-ioi method=pahq" is the same.
    """
    typed = list(words or ())
    assert ctx.parent is not None
    commands = ctx.parent.command.list_commands(ctx.parent)  # type: ignore[attr-defined]
    told: list[dict[str, Any]] = []
    tell: Tell = (lambda cell, found: told.append(facts(found))) if json else in_words
    if "--version" in typed:
        raise PahqError("--version stands alone, as in pahq --version")
    if _for_hydra(typed):
        typed.sort(key=lambda word: word.startswith("-") or not ("=" in word or word.startswith("~")))
        check_looks([*(["-m"] if multirun else []), *typed])
        if json:
            _check_json(typed)
        if launcher_of(typed) in SUBMITIT and not multirun and not any(word.split("=")[0] in _LOOKS for word in typed):
            raise PahqError(f"{LAUNCHER}={launcher_of(typed)} runs a sweep's cells as jobs, and this is none; add -m")
        runs = _checked_by_us(typed, sweep=multirun)
        if multirun and launcher_of(typed) in SUBMITIT:
            _launch(runs, typed, tell)
        else:
            words = [*(["-m"] if multirun else []), *typed]
            run_in_hydra(words, lambda cell, where: run_all([(cell, where)], tell), sweep=multirun)
    else:
        from pahq.experiments.compose import compose_runs

        for word in sorted(typed, key=lambda word: word not in commands):
            if not _of_a_cell(word):
                raise _unknown(word, commands)
        run_all(compose_runs(typed, sweep=multirun), tell)
    if json:
        document(told)


def _unknown(word: str, commands: Sequence[str]) -> PahqError:
    if word in commands:
        return PahqError(f"{word!r} is a command: it comes first and its options after it, as in pahq {word} --help")
    if word.startswith("-"):
        near = nearest(word.split("=")[0], _OPTIONS)
        return PahqError(f"unknown option {word!r}; known: {', '.join(_OPTIONS)}{near}")
    known = ", ".join(commands)
    near = nearest(word, commands)
    return PahqError(f"unknown command {word!r}; commands: {known}; cells are typed as KEY=VALUE{near}")


def _checked_by_us(words: Sequence[str], *, sweep: bool) -> list[tuple[CellConfig, RunConfig]]:
    """The cells, checked before Hydra starts; none with other folders and sweepers, where only Hydra can tell them."""
    from pahq.experiments.compose import compose_runs

    if any(word.split("=")[0] in (*_PLACES, "hydra/sweeper") for word in words):
        return []
    runs = compose_runs([word for word in words if _of_a_cell(word)], sweep=sweep)
    _check_sizes(runs)
    return runs


def _launch(runs: Sequence[tuple[CellConfig, RunConfig]], words: Sequence[str], tell: Tell) -> None:
    """Have submitit run a sweep's cells as jobs, then tell of each here; PahqError for the first that failed."""
    if not runs:
        raise PahqError(f"{LAUNCHER}={launcher_of(words)} cannot be used with other folders or sweepers of Hydra's")
    check_installed(launcher_of(words))
    everything = ["-m", *words, *estimated(runs, words)]
    try:
        run_in_hydra(everything, lambda cell, where: run_all([(cell, where)], lambda *told: None), sweep=True)
    except RuntimeError as error:
        if (told := lost(error, runs[0][1].root, words)) is None:
            raise
        raise told from None
    from pahq.api import run_cell
    from pahq.cell.files import cell_folder, is_done

    for cell, where in runs:
        if not is_done(cell_folder(where.root, cell.id)):
            raise PahqError(f"{cell.id} is not finished, though its job says so; the same command goes on")
        tell(cell, run_cell(cell, where))  # read, not computed


def _check_json(words: Sequence[str]) -> None:
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key in _LOOKS:
            raise PahqError(f"--json tells of cells that ran, and {key} has Hydra print something else; leave one out")
        if key == "hydra/launcher" and value != "basic":
            raise PahqError(
                f"--json tells of cells that this process ran, and {word} runs them in others; leave one out"
            )


def run_all(runs: Iterable[tuple[CellConfig, RunConfig]], tell: Tell) -> None:
    """Run cells one after the other and tell of each that is finished; of several, how many are left too."""
    from pahq.api import run_cell
    from pahq.experiments.progress import Telling

    runs = list(runs)
    _check_sizes(runs)
    progress = _progress(runs)
    telling = None if progress is None else Telling(progress)
    for i, (cell, where) in enumerate(runs):
        tell(cell, run_cell(cell, where))
        if telling is not None and (said := telling.sentence(last=i == len(runs) - 1)) is not None:
            sys.stderr.write(f"{said}\n")


def _check_sizes(runs: Sequence[tuple[CellConfig, RunConfig]]) -> None:
    """Refuse a sweep with a size that its graph has not, before its first cell; a single cell says it itself."""
    from pahq.cell.files import cell_folder, is_done
    from pahq.cell.scored import check_sizes

    if len(runs) > 1:
        check_sizes(cell for cell, where in runs if not is_done(cell_folder(where.root, cell.id)))


def in_words(cell: CellConfig, found: SearchResult) -> None:
    """One line for a finished cell."""
    result = found.result
    what = "edges scored" if cell.method.scores else "tests"
    doubts = ""
    if result.certainty is not None:
        counts = (result.certainty.settled, "decided in float64"), (result.certainty.at_risk, "at risk")
        doubts = "".join(f", {count} {what}" for count, what in counts if count)
    numbers = f"{result.tests} {what}, {result.kept} kept, {result.seconds:.1f} s{doubts}"
    line(f"{result.id}: {numbers}, {found.folder}")


def facts(found: SearchResult) -> dict[str, Any]:
    """The same, and more, for JSON. ``loss``: what the last test left, None of scores; ``fresh``: on fresh prompts."""
    result = found.result
    return {
        "id": result.id,
        "folder": found.folder,
        "kind": "scores" if result.config.method.scores else "search",
        "tests": result.tests,
        "edges": result.edges,
        "kept": result.kept,
        "kept_cleaned": result.kept_cleaned,
        "seconds": result.seconds,
        "loss": None if result.search is None else result.search.final,
        "loss_of_all_edges": None if result.search is None else result.search.start,
        "settled": None if result.certainty is None else result.certainty.settled,
        "at_risk": None if result.certainty is None else result.certainty.at_risk,
        "fresh": result.fresh.model_dump(mode="json"),
    }


def _progress(runs: Sequence[tuple[CellConfig, RunConfig]]) -> Progress | None:
    """How far the run is that these cells are part of, or all of; None of a single cell."""
    from pahq.experiments.progress import Progress

    for _, where in runs:
        if where.plan is not None:
            return Progress.planned(where.plan, where.root)
    return Progress.begun(runs) if len(runs) > 1 else None


def _of_a_cell(word: str) -> bool:
    """Whether a word is an override of a cell's configuration: no option, no setting of Hydra's own."""
    if word.startswith("-") or not ("=" in word or word.startswith("~")):
        return False
    return not word.lstrip("+~").startswith(("hydra.", "hydra/"))


def _for_hydra(words: Sequence[str]) -> bool:
    """Whether the words ask for something of Hydra's own: a launcher, another folder, a look."""
    return any(word.split("=")[0] in _FLAGS or word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in words)
