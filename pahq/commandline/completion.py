"""The words that a shell completes: keys of a cell with their values, experiments and models. No torch, no Hydra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import typer

from pahq.config.modelnames import PACKAGED, embedded_models
from pahq.config.presets import GROUPS, options

# At the first Tab of a shell zsh reads typer's file, which declares what completes, and completes nothing; ours does.
_DECLARED = "compdef %(complete_func)s %(prog_name)s\n"
_COMPLETED = _DECLARED + 'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then %(complete_func)s "$@"; fi\n'
ELSEWHERE = {"wandb": "run.wandb", "focus": "method.focus"}  # short keys, and what they stand for


def mend_zsh() -> None:
    """Have ``--install-completion`` and ``--show-completion`` give zsh lines that complete from the first Tab on."""
    from typer import _completion_shared as shared

    lines = shared._completion_scripts["zsh"]
    if _COMPLETED not in lines:
        shared._completion_scripts["zsh"] = lines.replace(_DECLARED, _COMPLETED)


def experiments(incomplete: str) -> list[str]:
    """Names of experiments."""
    return _fitting(options("experiment"), incomplete)


def models(incomplete: str) -> list[str]:
    """Names of models that come with this package or with another."""
    return _fitting((*embedded_models(), *PACKAGED), incomplete)


def words_of_a_cell(ctx: typer.Context, incomplete: str) -> list[str]:
    """``task=nan`` to ``task=nano-ioi``; ``tas`` to every task, so that one key alone is written out at once.

    bash takes a word with an equals sign for three: ``task``, ``=`` and what follows, which alone is completed then.
    """
    before = list(ctx.params.get("words") or ())
    if before[-1:] == ["="]:
        return _fitting(values_of(before[-2]) if len(before) > 1 else (), incomplete)
    if before and not incomplete and before[-1] in keys():
        return list(values_of(before[-1]))
    key, equals, value = incomplete.partition("=")
    name = key.lstrip("+~")
    if equals:
        return [f"{key}={one}" for one in _fitting(values_of(name), value)]
    known = _fitting((one for one in keys() if "." not in one), name) or _fitting(keys(), name)
    sign = key[: len(key) - len(name)]
    if len(known) == 1 and values_of(known[0]):
        return [f"{sign}{known[0]}={one}" for one in values_of(known[0])]
    return [f"{sign}{one}=" for one in known]


def _fitting(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def keys() -> tuple[str, ...]:
    """Groups and whatever has no dot first: settings with dots are offered once no other key fits."""
    return tuple(dict.fromkeys((*GROUPS, *ELSEWHERE, *_kinds())))


def values_of(key: str) -> tuple[str, ...]:
    """What a key can be, where that is one of a few words; empty for numbers and texts."""
    if key in GROUPS:
        return options(key)
    return tuple(_words(_kinds().get(ELSEWHERE.get(key, key))))


def _words(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from ("true", "false")
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    else:
        for one in get_args(kind):
            yield from _words(one)


def _kinds() -> dict[str, Any]:
    """Every single setting of a cell and of its run, with its type."""
    from pahq.config.cell import CellConfig, RunConfig

    return dict((*_below(CellConfig, ""), *_below(RunConfig, "run.")))


def _below(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if hasattr(kind, "model_fields")]
        if inner:
            yield from _below(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation
