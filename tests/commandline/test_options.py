"""What commands are declared to take is what the rooms that do the work know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
from typer.core import TyperOption

from pahq.cell.exchange import FORMATS
from pahq.circuits.shown import LIMIT
from pahq.commandline.application import PANELS, application
from pahq.commandline.options import Dtype, Engine, Format
from pahq.config.cell import EngineConfig, RunConfig
from pahq.experiments.jobs import RESAMPLES
from pahq.model.command import WORST
from pahq.report.terminal import TOP
from pahq.resamples.variants import SEEDS
from pahq.search.start import ENGINES

COMMANDS: dict[str, Callable[..., Any]] = {name: one for names in PANELS.values() for name, one in names.items()}


def helped(command: str, option: str) -> str:
    [found] = [one for one in application().commands[command].params if option in one.opts]
    assert isinstance(found, TyperOption)
    return found.help or ""


def default(command: str, name: str) -> Any:
    return inspect.signature(COMMANDS[command]).parameters[name].default


def test_choices_are_those_of_their_rooms() -> None:
    assert set(get_args(Engine)) == set(ENGINES)
    assert get_args(Format) == FORMATS
    assert get_args(Dtype) == get_args(EngineConfig.model_fields["dtype"].annotation)


def test_defaults_are_those_of_their_rooms() -> None:
    assert (default("show", "top"), default("show", "limit")) == (TOP, LIMIT)
    assert f"Without it {RESAMPLES}," in helped("stability", "--n")
    assert f"Without it {SEEDS}," in helped("stability", "--seeds")
    assert f"beyond {WORST:.4f}." in helped("models", "--check")


@pytest.mark.parametrize("command", COMMANDS)
def test_where_and_how_loudly_is_the_same_everywhere(command: str) -> None:
    usual = RunConfig()
    for name, parameter in inspect.signature(COMMANDS[command]).parameters.items():
        if name in ("root", "device", "threads", "memory_gb"):
            assert str(parameter.default) == str(getattr(usual, name)), name
        if name in ("json", "no_lock", "no_progress"):
            assert parameter.default is False
    assert "json" in inspect.signature(COMMANDS[command]).parameters


def test_words_behind_cells_are_taken_up_to_the_next_option() -> None:
    command = application().commands["faithfulness"]
    for words in (["--cells", "t/a", "t/b", "--root", "x"], ["--cells", "t/a", "--root", "x", "--cells", "t/b"]):
        with command.make_context("faithfulness", ["smoke", *words]) as context:
            assert context.params["cells"] == ["t/a", "t/b"]
            assert (context.params["what"], str(context.params["root"])) == (["smoke"], "x")
