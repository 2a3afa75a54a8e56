"""The command line, ``pahq`` or ``python -m pahq``: Hydra's overrides run cells, a few commands do the rest.

torch is imported only once everything that was typed has been checked.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pahq.cell.result import Certainty
from pahq.config.cell import CellConfig, RunConfig, parse_config
from pahq.errors import PahqError, nearest
from pahq.files.fulldisk import told_if_full

if TYPE_CHECKING:
    from pahq.experiments.progress import Progress

HELP = """usage: pahq [-m] [OVERRIDE ...]          run one cell, or with -m a sweep over lists of values
       pahq COMMAND [ARGUMENT ...]       do one of the things below (COMMAND --help tells more)

  pahq task=nano-ioi method=pahq precision=int8 threshold=0.01
  pahq -m task=nano-ioi precision=int4,int8,fp8
  pahq task=own task.prompts=FILE model=nano      prompts of your own, CSV or JSONL

commands
  show CELL         a circuit in the terminal; with --out FILE as svg, png, pdf, dot, or html, a page to explore;
                    several CELLs of one sweep make a page whose slider chooses the threshold or size
  diff A B          two circuits: the edges that left and came, and the first decision at which the searches part
  verify DIR        run a recorded search or a stored cell again and compare test by test
  repair NAME       check the files of finished cells and compute those that are damaged anew
  doctor            look whether everything that a search needs is there, and whether searches are exact
  models NAME       load a model and say what it is; --check compares logits with transformers' own
  stability NAME    search an experiment's marked cells, or one cell, again on resampled prompts
  evaluate          judge an experiment's finished cells
  faithfulness      how faithful their circuits are: intervals, curves over sizes, hypothesis tests
  tables            write an experiment's tables
  figures           draw an experiment's figures
  report            an experiment as pages to look at: findings, figures, sortable tables, a page for every circuit
  export CELL       a circuit and its scores in the format of EAP-IG, MIB or networkx, or as CSV
  import FILE       judge a circuit in EAP-IG's or MIB's format as ours are judged
  wandb WHAT        Weights & Biases: an experiment's tables, or a dashboard of all runs

groups (GROUP=NAME)
{groups}

keys (KEY=VALUE; single settings too, as task.examples=8)
  threshold, seed   of the search
  size, select      of methods that score edges: how many edges; the highest scores (top) or grown from the logits
                    (greedy); or with select=threshold all scores from a threshold on
  focus             of method=pahq: receiver, or with engine=reference sender or both
  method.arithmetic low precision for the network, or (method=pahq-changes) for the changes that tests make alone
  audit             none; float64: tests near float noise again; band: tests near the threshold in full precision
  wandb             auto, online, offline or disabled
  run.*             {run}

options
  -m, --multirun    a sweep: every combination of comma-separated values, all checked before one runs
  -h, --help        this text
  --version         the version
  --cfg job, --info, --config-dir, hydra/launcher=..., hydra.*: Hydra's own, handed to it

experiments (snakemake --config experiment=NAME): {experiments}
"""
_HYDRA_PLACES = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_HYDRA_LOOKS = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--hydra-help")
_HYDRA_FLAGS = (*_HYDRA_PLACES, *_HYDRA_LOOKS, "--run", "-r", "--shell-completion", "-sc")
_SWEEP = ("-m", "--multirun")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a disagreement (verify), 2 bad input in one sentence, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # a process of its own: the objects that imports make stay, and looking at each again takes time
        gc.set_threshold(200_000, 20, 20)
    logging.basicConfig(level=logging.WARNING, format="pahq: %(message)s")
    try:
        with told_if_full():
            return _dispatch(arguments)
    except PahqError as error:
        return _fail(str(error))
    except BrokenPipeError:  # whoever reads, `head` say, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write("pahq: interrupted; the same command goes on where this one stopped\n")
        return 130


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] in _COMMANDS:
        return _command(arguments[0])(arguments[1:])
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(help_text())
        return 0
    if arguments == ["--version"]:
        from pahq import __version__

        sys.stdout.write(f"pahq {__version__}\n")
        return 0
    from pahq.experiments.compose import compose_runs

    sweep = any(word in _SWEEP for word in arguments)
    if _for_hydra(arguments):
        # With other folders and sweepers only Hydra can tell the cells; all else is checked before it starts.
        elsewhere = (*_HYDRA_PLACES, "hydra/sweeper")
        if not any(word.split("=")[0] in elsewhere for word in arguments):
            compose_runs([word for word in arguments if _of_a_cell(word)], sweep=sweep)
        return _run_in_hydra(arguments)
    overrides = [word for word in arguments if word not in _SWEEP]
    for word in overrides:
        if not _of_a_cell(word):
            kind = "option" if word.startswith("-") else "command"
            known = ", ".join(_COMMANDS)
            near = nearest(word, _COMMANDS)
            raise PahqError(f"unknown {kind} {word!r}; commands: {known}; cells are typed as KEY=VALUE{near}")
    run_all(compose_runs(overrides, sweep=sweep))
    return 0


def run_all(runs: Iterable[tuple[CellConfig, RunConfig]]) -> None:
    """Run cells one after the other, one line for each that is finished; of several, how many are left too."""
    from pahq.api import run_cell

    runs = list(runs)
    progress = _progress(runs)
    for cell, run in runs:
        found = run_cell(cell, run)
        result = found.result
        what = "edges scored" if cell.method.scores else "tests"
        numbers = f"{result.tests} {what}, {result.kept} kept, {result.seconds:.1f} s{_doubts(result.certainty)}"
        sys.stdout.write(f"{result.id}: {numbers}, {found.folder}\n")
        sys.stdout.flush()
        if progress is not None:
            sys.stderr.write(f"{progress.sentence()}\n")


def _progress(runs: Sequence[tuple[CellConfig, RunConfig]]) -> Progress | None:
    """How far the run is that these cells are part of, or all of; None of a single cell."""
    from pahq.experiments.progress import Progress

    for _, run in runs:
        if run.plan is not None:
            return Progress.planned(run.plan, run.root)
    return Progress.begun(runs) if len(runs) > 1 else None


def _doubts(certainty: Certainty | None) -> str:
    """How many tests float64 decided, and how many float noise may have, where there are any."""
    if certainty is None:
        return ""
    counts = (certainty.settled, "decided in float64"), (certainty.at_risk, "at risk")
    return "".join(f", {count} {what}" for count, what in counts if count)


def help_text() -> str:
    """What ``pahq --help`` prints: commands, and the groups as they stand in the configuration folder."""
    from pahq.experiments.compose import GROUPS, options

    return HELP.format(
        groups="\n".join(f"  {group:<17} {', '.join(options(group))}" for group in GROUPS),
        run=", ".join(name for name in RunConfig.model_fields if name != "wandb"),
        experiments=", ".join(options("experiment")),
    )


def _of_a_cell(word: str) -> bool:
    """Whether a word is an override of a cell's configuration: no option, no setting of Hydra's own."""
    if word.startswith("-") or not ("=" in word or word.startswith("~")):
        return False
    return not word.lstrip("+~").startswith(("hydra.", "hydra/"))


def _for_hydra(arguments: list[str]) -> bool:
    """Whether the words ask for something of Hydra's own: a launcher, another folder, a look."""
    return any(
        word.split("=")[0] in _HYDRA_FLAGS or word.lstrip("+~").startswith(("hydra.", "hydra/")) for word in arguments
    )


def _run_in_hydra(arguments: list[str]) -> int:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from pahq.experiments.compose import configuration_folder, hydra_sentence
    from pahq.experiments.typed import as_typed

    sweep = any(word in _SWEEP for word in arguments)
    typed = {word.partition("=")[0].lstrip("+") for word in arguments}
    faults: list[PahqError] = []

    def run_one(config: DictConfig) -> None:
        composed: Any = OmegaConf.to_container(config, resolve=True)
        try:
            run_all([parse_config(composed, typed)])
        except PahqError as error:  # kept from Hydra, which would add lines of its own
            faults.append(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print over many lines
    sys.argv = ["pahq", *(as_typed(word, sweep=sweep) for word in arguments)]
    decorate = hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name="config")
    try:
        decorate(run_one)()
    except (HydraException, OmegaConfBaseException) as error:
        raise PahqError(hydra_sentence(error)) from None
    if faults:
        raise faults[0]
    return 0


def _repair(argv: Sequence[str]) -> int:
    from pahq.experiments.compose import cells
    from pahq.verify.repair import main as repair

    return repair(argv, lambda name: {cell_id: cell.config for cell_id, cell in cells(name).items()})


def _doctor(argv: Sequence[str]) -> int:
    from pahq.experiments.compose import compose_runs
    from pahq.verify.doctor import main as doctor

    return doctor(argv, compose_runs)


def _stability(argv: Sequence[str]) -> int:
    from pahq.experiments.compose import groups
    from pahq.experiments.jobs import stability_jobs
    from pahq.resamples.command import main as stability

    return stability(argv, lambda name: {i: job.asked for job in stability_jobs(groups(name)) for i in job.cells})


def _evaluate(argv: Sequence[str]) -> int:
    from pahq.analysis.evaluate import main as evaluate
    from pahq.experiments.compose import cells

    return evaluate(argv, lambda name: list(cells(name)))


def _faithfulness(argv: Sequence[str]) -> int:
    from pahq.experiments.compose import cells
    from pahq.faithfulness.command import main as faithfulness

    return faithfulness(argv, lambda name: list(cells(name)))


def _fail(sentence: str) -> int:
    sys.stderr.write(f"pahq: error: {sentence}\n")
    return 2


def _command(name: str) -> Callable[[Sequence[str]], int]:
    """A command by its name; its module is imported now, and no other one's."""
    place = _COMMANDS[name]
    if not isinstance(place, str):
        return place
    module, function = place.split(":")
    found: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return found


_COMMANDS: dict[str, str | Callable[[Sequence[str]], int]] = {  # a place, or a function that also needs Hydra's files
    "show": "pahq.report.command:main_show",
    "diff": "pahq.report.command:main_diff",
    "verify": "pahq.verify.command:main",
    "repair": _repair,
    "doctor": _doctor,
    "models": "pahq.model.command:main",
    "stability": _stability,
    "evaluate": _evaluate,
    "faithfulness": _faithfulness,
    "tables": "pahq.analysis.tables:main",
    "figures": "pahq.analysis.figures:main",
    "report": "pahq.report.experiment:main",
    "export": "pahq.cell.exchange:main_export",
    "import": "pahq.cell.exchange:main_import",
    "wandb": "pahq.report.dashboard:main",
}

if __name__ == "__main__":
    sys.exit(main())
