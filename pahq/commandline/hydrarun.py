"""Cells that Hydra itself composes and runs: with its launchers and sweepers, and whatever else of it is asked for.

What it would tell over many lines, or in a traceback, is told in a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from pahq.errors import PahqError

if TYPE_CHECKING:
    from pahq.config.cell import CellConfig, RunConfig

_ONE_OF = ("cfg", "info", "run", "shell_completion", "multirun")  # Hydra's parser calls them so
RunOne = Callable[["CellConfig", "RunConfig"], object]


def check_looks(words: Sequence[str]) -> None:
    """In a sentence what Hydra itself would tell over many lines, or in a traceback. Its parser wants options last."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        told = _choices_quoted(message.removeprefix("argument "))
        raise PahqError(f"{told}; --hydra-help lists Hydra's own options")

    with _help_unread():
        parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    asked = vars(parser.parse_args(words))
    several = [f"--{name.replace('_', '-')}" for name in _ONE_OF if asked[name] not in (None, False)]
    if len(several) > 1:
        both = "all" if len(several) > 2 else "both"
        raise PahqError(f"{', '.join(several[:-1])} and {several[-1]} cannot {both} be given; leave one out")
    if asked["resolve"] and asked["cfg"] is None:
        raise PahqError("--resolve is for --cfg, as in --cfg job --resolve")


def _choices_quoted(message: str) -> str:
    """A message of argparse's as before Python 3.12.8 and 3.13, which no longer put the known words in quotes."""
    begin, choose, names = message.partition("(choose from ")
    quoted = ", ".join(repr(name.strip("'")) for name in names.removesuffix(")").split(", "))
    return f"{begin}{choose}{quoted})" if choose else message


@contextmanager
def _help_unread() -> Iterator[None]:
    """Python 3.14 reads an option's help as soon as it is added, and Hydra 1.3 has one whose help is no text."""
    from argparse import ArgumentParser

    if not hasattr(ArgumentParser, "_check_help"):  # an earlier Python, which reads it when it is asked for
        yield
        return
    own = vars(ArgumentParser).get("_check_help")
    ArgumentParser._check_help = lambda self, action: None
    try:
        yield
    finally:
        if own is None:
            del ArgumentParser._check_help  # that of its base class is there again
        else:
            ArgumentParser._check_help = own


@contextmanager
def _pipes_told() -> Iterator[None]:
    """Hydra logs what ``--info`` shows: where nobody reads on (``| head``) logging would print a traceback a line.

    Raised instead, the error ends the command as it does where words are printed.
    """
    import logging

    def told(handler: logging.Handler, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        logging.Handler.handleError(handler, record)

    logging.StreamHandler.handleError = told  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del logging.StreamHandler.handleError  # that of its base class is there again


def run_in_hydra(words: Sequence[str], run_one: RunOne, *, sweep: bool) -> None:
    """Have Hydra compose the cells that words ask for, and run each, here or where its launcher does.

    Raises PahqError for the first fault of a cell once all have been tried, and for what Hydra cannot compose.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from pahq.config.cell import parse_config
    from pahq.experiments.compose import configuration_folder, hydra_sentence
    from pahq.experiments.typed import as_typed

    typed = {word.partition("=")[0].lstrip("+") for word in words}
    faults: list[PahqError] = []
    here = os.getpid()

    def composed(config: DictConfig) -> None:
        found: Any = OmegaConf.to_container(config, resolve=True)
        try:
            run_one(*parse_config(found, typed))
        except PahqError as error:
            if os.getpid() != here:  # a launcher's job, from which nothing comes back but what is raised
                raise
            faults.append(error)  # kept from Hydra, which would add lines of its own

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print over many lines
    sys.argv = ["pahq", *(as_typed(word, sweep=sweep) for word in words)]
    decorate = hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name="config")
    try:
        with _help_unread(), _pipes_told():
            decorate(composed)()
    except (HydraException, OmegaConfBaseException) as error:
        raise PahqError(hydra_sentence(error)) from None
    if faults:
        raise faults[0]
