"""All commands in one place: what they are called, how help shows them, and what is said of words that none takes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pahq.commandline import circuits, claims, experiments, here, tracking, trust
from pahq.commandline.completion import mend_zsh
from pahq.commandline.helping import Section, in_columns, sections
from pahq.commandline.output import on_terminal, sections_in_colours
from pahq.commandline.run import run
from pahq.errors import PahqError, unknown

PANELS: dict[str, dict[str, Callable[..., Any]]] = {  # what help calls them: its commands
    "Find circuits": {"run": run},
    "Look at them": {"show": circuits.show, "diff": circuits.diff},
    "How far to trust them": {
        "verify": claims.verify,
        "repair": trust.repair,
        "stability": trust.stability,
        "faithfulness": trust.faithfulness,
    },
    "Judge an experiment": {
        "evaluate": experiments.evaluate,
        "tables": experiments.tables,
        "figures": experiments.figures,
        "report": experiments.report,
    },
    "Exchange": {
        "bundle": claims.bundle,
        "export": circuits.export,
        "import": circuits.import_,
        "wandb": tracking.wandb,
    },
    "What is here": {"models": here.models, "doctor": here.doctor},
}
OF_CELLS: dict[str, Any] = {"context_settings": {"ignore_unknown_options": True}}  # they are Hydra's
COMPLETION = ("--install-completion", "--show-completion")
OWN = ("-h", "--help", "--version", *COMPLETION)


class Told:
    """What all commands share: help in colours on a terminal and plain where it is piped, and faults in a sentence."""

    def format_help(self: Any, ctx: Any, formatter: Any) -> None:
        if on_terminal():
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        for write in (self.format_usage, self.format_help_text, self.format_options, self.format_epilog):
            write(ctx, formatter)

    def parse_args(self: Any, ctx: Any, args: list[str]) -> list[str]:
        with in_one_sentence(ctx):
            return list(super().parse_args(ctx, args))  # type: ignore[misc]

    def get_params(self: Any, ctx: Any) -> list[Any]:
        """Help names what a word is, not Python's type of it."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in found:
            if one.param_type_name == "argument" or one.is_flag:
                one.display_type_rich = lambda ctx: None
        return found


class Command(Told, TyperCommand):
    """Any command but those below."""


class CellsCommand(Command):
    """The command that runs cells: its help says which words there are."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        _write(sections(), formatter)


class SpreadCommand(Command):
    """The command whose ``--cells`` takes all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args, "--cells")))


def _spread(words: list[str], option: str) -> Iterator[str]:
    """``--cells a b`` as ``--cells a --cells b``."""
    inside = False
    for i, word in enumerate(words):
        if word.startswith("-"):
            inside = word == option
        elif inside and words[i - 1] != option:
            yield option
        yield word


class Application(Told, TyperGroup):
    """``pahq``: what is no command's name is a cell's, as if ``run`` stood before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        ours = (first in self.commands and args[1:2] != ["="]) or first.split("=")[0] in OWN  # bash: wandb=x is three
        asked = bool(args) or not ctx.resilient_parsing  # a shell that completes the first word has none yet
        if asked and not ours:
            args = ["run", *args]
        if any(word.split("=")[0] in COMPLETION for word in args):
            mend_zsh()
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        _write(sections(), formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for panel, names in PANELS.items():
            with formatter.section(panel):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(70)) for name in names])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands, and the words that ``run`` takes, which need not be said."""
        found = super().shell_complete(ctx, incomplete)
        cells = self.commands["run"]
        with cells.make_context("run", [], parent=ctx, resilient_parsing=True) as inner:
            found += cells.shell_complete(inner, incomplete)
            if not incomplete.startswith("-"):
                found += [
                    item
                    for one in cells.params
                    if one.name == "words"
                    for item in one.shell_complete(inner, incomplete)
                ]
        return list({item.value: item for item in reversed(found)}.values())[::-1]


def _write(parts: list[Section], formatter: Any) -> None:
    if on_terminal():
        sections_in_colours(parts)
        return
    for title, rows in parts:
        formatter.write(f"\n{title}:\n")
        formatter.write(in_columns(rows, formatter.width))


def application() -> Application:
    """The whole command line."""
    app = typer.Typer(
        name="pahq",
        cls=Application,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
        subcommand_metavar="COMMAND [ARGUMENT]... | [-m] KEY=VALUE...",
        options_metavar="",
    )
    app.callback(help=_unwrapped(pahq))(pahq)
    kinds: dict[str, type[Command]] = {"run": CellsCommand, "faithfulness": SpreadCommand}
    for panel, commands in PANELS.items():
        for name, function in commands.items():
            settings = {
                "help": _unwrapped(function),
                "options_metavar": "[OPTION]...",
                **(OF_CELLS if name == "run" else {}),
            }
            app.command(name, cls=kinds.get(name, Command), rich_help_panel=panel, **settings)(function)
    found = get_command(app)
    assert isinstance(found, Application)
    return found


def _unwrapped(function: Callable[..., Any]) -> str:
    """What a command does, from its docstring: paragraphs in one line each, which help wraps, examples as they are."""
    parts = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else part.replace("\n", " ") for part in parts)


def _version(asked: bool) -> None:
    if asked:
        from pahq import __version__

        sys.stdout.write(f"pahq {__version__}\n")
        raise typer.Exit


def pahq(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Circuit search in transformers with per-head mixed precision.

    \b
    pahq task=nano-ioi method=pahq precision=int8 threshold=0.01
    pahq -m task=nano-ioi precision=int4,int8,fp8   a sweep
    pahq task=own task.prompts=FILE model=nano      prompts of your own
    pahq show CELL                                  the circuit that was found
    pahq COMMAND --help                             what a command takes

    Exit status: 0 done, 1 a disagreement or a fault was found, 2 bad input in one sentence, 130 interrupted.
    """


@contextmanager
def in_one_sentence(ctx: Any) -> Iterator[None]:
    """Raise PahqError for what the parser of words refuses; a shell that asks for words is told nothing."""
    try:
        yield
    except typer.TyperException as error:
        if ctx.resilient_parsing:
            raise
        raise PahqError(f"{ctx.command_path}: {_refused(error, ctx)}") from None


def _refused(error: Any, ctx: Any) -> str:
    """What was typed, what was expected, and what is known there; ``error`` is one of typer's exceptions."""
    parameter, tail = getattr(error, "param", None), "(--help lists what it takes)"
    what = parameter.get_error_hint().replace("'", "") if parameter else ""
    if hasattr(error, "possibilities"):  # an option that there is none of
        known = sorted(word for one in ctx.command.get_params(ctx) for word in one.opts if word[:1] == "-")
        return str(unknown("option", error.option_name, known))
    if hasattr(error, "param_type"):
        return f"{what} is missing {tail}"
    faults = getattr(error.__cause__, "errors", list[dict[str, Any]])()
    if faults and parameter and parameter.type_descriptor.choices:
        return str(unknown(what, faults[0]["input"], parameter.type_descriptor.choices))
    got = f" (got {faults[0]['input']!r})" if faults else ""
    said = error.message.rstrip(".")
    return f"{what + ': ' if what else ''}{said[:1].lower()}{said[1:]}{got} {tail}"
