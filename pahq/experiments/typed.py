"""What is typed as KEY=VALUE, for Hydra: texts (paths, names, a BOS token) count as they stand. No torch.

Hydra has a grammar of its own for values, in which a comma sweeps, parentheses call and umlauts are none of the
letters. A text that Hydra would read as something else is put in Hydra's quotes here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from pydantic import BaseModel

from pahq.config.cell import CellConfig, RunConfig


def as_typed(word: str, *, sweep: bool = False) -> str:
    """A word of the command line as Hydra reads it: the same, but a text's value in quotes where that matters.

    Left to Hydra are other keys, ``null``, ``${...}`` and values that are in its quotes already. In a ``sweep`` commas
    part a list of texts, unless there is a file or folder of the whole name or the key says where results go
    (``run.*``).
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or name not in TEXTS or value == "null":
        return word
    parsed = read_word(word)
    if parsed is not None and _is_hydras(parsed, value, sweep=sweep):
        return word
    if sweep and "," in value and not name.startswith("run.") and not os.path.lexists(value):
        return f"{key}={','.join(part if part == 'null' else _quoted(part) for part in value.split(','))}"
    return f"{key}={_quoted(value)}"


def read_word(word: str) -> Override | None:
    """Hydra's own reading of a word; None where it has none."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _is_hydras(parsed: Override, value: str, *, sweep: bool) -> bool:
    """Whether Hydra reads the value as that text, or as something that was meant for Hydra."""
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if parsed.is_sweep_override():
        return sweep and (in_quotes or parsed.value_type != ValueType.SIMPLE_CHOICE_SWEEP)
    return in_quotes or parsed.value() == value


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _texts(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _texts(kind, f"{prefix}{name}.")
        elif kind is str or kind == (str | None):
            yield f"{prefix}{name}"


# Keys whose value is any text: task.prompts, task.bos, model.source, run.root and their like.
TEXTS = frozenset((*_texts(CellConfig, ""), *_texts(RunConfig, "run.")))
