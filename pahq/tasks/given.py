"""Prompts and answers as Python gives them: text, lists of words, or token ids in any kind of array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.weights import Reader
from pahq.tasks.bos import begun_note, missing_note
from pahq.tasks.encoder import encoder_of
from pahq.tasks.task import stack_rows

_ROWS = "a list of texts, of lists of words, or rows of token ids (lists, tensors or arrays of whole numbers)"
_VALUES = "a list of token texts or token ids"


def token_rows(
    model: Reader, given: object, what: str, bos: str | None = None
) -> tuple[Int[Tensor, "batch pos"], tuple[str, ...]]:
    """Prompts as token ids, and notes about them. Ids are taken as they are, all else through the model's own words.

    ``bos``, a token's text, goes before prompts that are no ids. Raises PahqError naming the first prompt that is
    neither text, words nor ids, that is empty, that has another length or an id that the model lacks.
    """
    rows = _list(given, what, _ROWS)
    if not rows:
        raise PahqError(f"{what}: no prompts were given; {_ROWS} was expected")
    kinds = [_kind(row, f"{what} prompt {i}") for i, row in enumerate(rows)]
    for i, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise PahqError(f"{what} prompt {i} is {kind} where prompt 0 is {kinds[0]}; all must be the same")
        if not rows[i]:
            raise PahqError(f"{what} prompt {i} is empty")
    if kinds[0] != "token ids":
        encoder = encoder_of(model, what, bos=bos)
        tokens = encoder.batch(rows, what)
        return tokens, begun_note(encoder, rows, bos) or missing_note(model, tokens)
    for i, row in enumerate(rows):
        check_ids(row, model.config.d_vocab, f"{what} prompt {i}", model)
    return stack_rows(rows, what), ()


def single_tokens(model: Reader, given: object, what: str, count: int) -> Int[Tensor, " item"]:
    """One token for each of ``count`` prompts, from text or ids; PahqError naming the prompt whose value is none."""
    values = [_one(value, what, i) for i, value in enumerate(_list(given, what, _VALUES))]
    if len(values) != count:
        raise PahqError(f"{len(values)} values of {what} for {count} prompts; one word or token id each was expected")
    kinds = [_kind([value], f"{what} of prompt {i}") for i, value in enumerate(values)]
    if len(set(kinds)) > 1:
        raise PahqError(f"{what} mixes words and token ids; all must be the same")
    if kinds[0] == "words":
        encoder = encoder_of(model, what)
        return torch.tensor(
            [encoder.token(word, f"{what} of prompt {i}:", inside=True) for i, word in enumerate(values)]
        )
    for i, value in enumerate(values):
        check_ids([value], model.config.d_vocab_out, f"{what} of prompt {i}", model)
    return torch.tensor(values)


def check_ids(ids: Iterable[int], size: int, place: str, model: Reader) -> None:
    """Raise PahqError naming ``place`` unless all ids are among the first ``size`` tokens."""
    for token in ids:
        if not 0 <= token < size:
            raise PahqError(f"{place} has token {token}; model {model.config.name!r} has tokens 0 to {size - 1}")


def _one(value: Any, what: str, index: int) -> Any:
    """A value without the list of one in which it may come."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise PahqError(f"{what} of prompt {index} is {len(value)} tokens ({value}); one was expected")
    return value[0]


def _kind(row: Any, place: str) -> str:
    """What a prompt in plain values is: text, words or token ids."""
    if isinstance(row, str):
        return "text"
    if not isinstance(row, list):
        raise PahqError(f"{place} is {_named(row)}; text, words or token ids were expected")
    kinds = {type(value) for value in row}
    if kinds <= {int}:
        return "token ids"
    if kinds <= {str}:
        return "words"
    strange = [value for value in row if type(value) not in (int, str)]
    if not strange:
        raise PahqError(f"{place} mixes words and token ids; all must be the same")
    raise PahqError(f"{place} has {_named(strange[0])}; words or token ids (whole numbers) were expected")


def _list(given: object, what: str, expected: str) -> list[Any]:
    """Values in plain lists, whatever array they came in; PahqError for what is no list at all."""
    plain = _plain(given, what)
    if not isinstance(plain, list):
        raise PahqError(f"{what}: {expected} was expected, not {_named(plain)}")
    return plain


def _plain(value: Any, what: str) -> Any:
    """Lists, texts and numbers of Python's own, from tensors, arrays and other containers in order."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        found = value.tolist()
        if _number(found) not in (None, int):  # an array of floats or truth values is told by its type
            raise PahqError(f"{what}: token ids are whole numbers, not {value.dtype} of a {type(value).__name__}")
        return found
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        return value
    return [_plain(part, what) for part in value]


def _number(found: Any) -> type | None:
    """The type of the first number of nested lists; None where there is none."""
    while isinstance(found, list):
        if not found:
            return None
        found = found[0]
    return type(found) if isinstance(found, bool | int | float | complex) else None


def _named(value: object) -> str:
    shown = repr(value)
    return f"{type(value).__name__} ({shown})" if len(shown) <= 40 else type(value).__name__
