"""Words into tokens: one token a word for word-level models, ordinary text for models with a tokenizer.

Tasks are written in words. A word-level model looks each of them up. For a model that reads text they are first written
as a person would write them (``written``), so the same sentence serves both kinds of models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.weights import Reader

Words = Sequence[str] | str  # a string is text as it stands

_OPENING = "("  # nothing between this and what follows
_CLOSING = (",", ".", ":", "(", ")")  # nothing between these and what came before
_LINES = ('"""', ":param")  # these begin a line of a docstring
_INDENT = "\n    "
SPACES = "\u0120\u2581"  # a space at the beginning of a token, as byte-level BPE and SentencePiece have it
CONTEXTS = ("\n", ".", "a", ",")


def written(words: Words) -> str:
    """Words as text: no space before a comma, a number in pieces as one number, docstring lines on lines of their own.

    ``Then , Agnes`` is ``Then, Agnes``; ``year 17 05`` is ``year 1705``. Text stays as it is.
    """
    if isinstance(words, str):
        return words
    text, before = "", ""
    for word in words:
        if word in _LINES:
            text += _INDENT
        elif before and not (word in _CLOSING or before == _OPENING or (word.isdigit() and before.isdigit())):
            text += " "
        text, before = text + word, word
    return text


class Encoder(Protocol):
    """What tasks ask of a model's tokens."""

    @property
    def reads_text(self) -> bool:
        """Whether prompts are written as text; else every word is a token."""
        ...

    @property
    def size(self) -> int:
        """How many tokens the model's output tells apart."""
        ...

    @property
    def own_bos(self) -> str | None:
        """The token that the tokenizer itself begins every text with, if it does."""
        ...

    def begins(self, words: Words) -> bool:
        """Whether a prompt begins with the token ``bos`` as it stands, so that none is put before it."""
        ...

    def ids(self, words: Words, place: str) -> list[int]:
        """Token ids of one prompt; PahqError, naming ``place``, where the model lacks a word."""
        ...

    def token(self, word: str, what: str, *, inside: bool = False) -> int:
        """The one token that a word is in a sentence, after a space or, ``inside``, right after what came before."""
        ...

    def batch(self, prompts: Sequence[Words], what: str) -> Int[Tensor, "batch pos"]:
        """Prompts that align; PahqError naming the first one whose length differs from the first prompt's."""
        ...

    def check_length(self, length: int, what: str) -> None:
        """Raise PahqError if prompts of ``length`` tokens do not fit into the model's context or window."""
        ...

    def shown(self, ids: Sequence[int]) -> str:
        """Tokens as a reader tells them apart."""
        ...


def encoder_of(model: Reader, what: str, *, bos: str | None = None) -> Encoder:
    """The encoder of a model's prompts, ``bos`` (a token's text) before each that does not begin with it already.

    Raises PahqError for a model that has neither words nor a tokenizer, and for one that has no token ``bos``.
    """
    if model.tokenizer is not None:
        return TextEncoder(model, bos)
    if model.vocabulary is None:
        raise PahqError(
            f"{what} prompts are made of words; model {model.config.name!r} has no word-level vocabulary "
            "and no tokenizer (tokenizer.json in its folder)"
        )
    return WordEncoder(model, bos)


@dataclass(frozen=True)
class _Base:
    model: Reader = field(repr=False)
    bos: str | None = None

    @property
    def size(self) -> int:
        return self.model.config.d_vocab_out

    @property
    def own_bos(self) -> str | None:
        return None

    def batch(self, prompts: Sequence[Words], what: str) -> Int[Tensor, "batch pos"]:
        rows = [self.ids(prompt, f"{what} prompt {i}") for i, prompt in enumerate(prompts)]
        for i, row in enumerate(rows):
            if len(row) != len(rows[0]):
                raise PahqError(
                    f"{what} prompt {i} has {len(row)} tokens where prompt 0 has {len(rows[0])} "
                    f"({self.shown(row)} and {self.shown(rows[0])})"
                )
        self.check_length(len(rows[0]) if rows else 0, f"{what} prompts")
        return torch.tensor(rows, dtype=torch.long)

    def check_length(self, length: int, what: str) -> None:
        self.model.config.check_length(length, what)

    def ids(self, words: Words, place: str) -> list[int]:
        raise NotImplementedError

    def shown(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class WordEncoder(_Base):
    """One token a word; the table is the model's vocabulary."""

    reads_text = False
    table: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        words = self.model.vocabulary or ()
        object.__setattr__(self, "table", {word: i for i, word in enumerate(words)})
        if self.bos is not None and self.bos not in self.table:
            raise _no_bos(self.model, self.bos)

    def ids(self, words: Words, place: str) -> list[int]:
        plain = words.split() if isinstance(words, str) else list(words)
        for word in plain:
            if word not in self.table:
                raise PahqError(
                    f"{place} ({' '.join(plain)}) has the word {word!r}, which the vocabulary of model "
                    f"{self.model.config.name!r} lacks"
                )
        first = [] if self.bos is None or plain[:1] == [self.bos] else [self.table[self.bos]]
        return first + [self.table[word] for word in plain]

    def begins(self, words: Words) -> bool:
        plain = words.split() if isinstance(words, str) else list(words)
        return self.bos is not None and plain[:1] == [self.bos]

    def token(self, word: str, what: str, *, inside: bool = False) -> int:
        if word.strip() not in self.table:
            raise PahqError(f"{what} {word!r} is no word in the vocabulary of model {self.model.config.name!r}")
        return self.table[word.strip()]

    def shown(self, ids: Sequence[int]) -> str:
        words = self.model.vocabulary or ()
        return " ".join(words[i] for i in ids)


@dataclass(frozen=True)
class TextEncoder(_Base):
    """Text through the model's tokenizer.json, no special token added but ``bos``."""

    reads_text = True
    tokenizer: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        object.__setattr__(self, "tokenizer", Tokenizer.from_str(self.model.tokenizer or ""))
        if self.bos is not None and self.tokenizer.token_to_id(self.bos) is None:
            raise _no_bos(self.model, self.bos)

    @cached_property
    def _marks(self) -> bool:
        """Whether the tokenizer puts a space's mark before every text, as SentencePiece does: no word stands alone."""
        return any(token[:1] in tuple(SPACES) for token in self._encode("a").tokens[:1])

    @cached_property
    def own_bos(self) -> str | None:
        plain, whole = self._encode("a").ids, self.tokenizer.encode("a", add_special_tokens=True).ids
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        return str(self.tokenizer.id_to_token(whole[0])) if at else None

    def ids(self, words: Words, place: str) -> list[int]:
        text = written(words)
        if self.bos is not None and self.begins(text):
            text = text.removeprefix(self.bos)
        first = [] if self.bos is None else [self.tokenizer.token_to_id(self.bos)]
        ids = first + self._ids(text)
        self._check_ids(ids, place)
        return ids

    def begins(self, words: Words) -> bool:
        return self.bos is not None and self.tokenizer.token_to_id(self.bos) in self._ids(words)[:1]

    def token(self, word: str, what: str, *, inside: bool = False) -> int:
        text = word if inside or word[:1].isspace() else f" {word}"
        ids = self._after(text) if self._marks else self._ids(text)
        if len(ids) != 1:
            raise PahqError(
                f"{what} {text!r} is {len(ids)} tokens of model {self.model.config.name!r} ({self.shown(ids)}); "
                "one was expected"
            )
        self._check_ids(ids, what)
        return int(ids[0])

    def _encode(self, text: str) -> Any:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _ids(self, words: Words) -> list[int]:
        text = written(words)
        return list(self._encode(text).ids) if text else []

    def _after(self, text: str) -> list[int]:
        """The tokens of a text that goes on after another one, whichever leaves its own tokens as they were."""
        for before in CONTEXTS:
            first, both = self._ids(before), self._ids(before + text)
            if both[: len(first)] == first:
                return both[len(first) :]
        return self._ids(text)

    def words(self) -> list[int]:
        """Ids of all tokens that are a space and three or more small letters, in order."""
        size = self.model.config.d_vocab
        fits = re.compile(f"[{SPACES}][a-z]{{3,}}").fullmatch
        return sorted(i for token, i in self.tokenizer.get_vocab().items() if i < size and fits(token))

    def shown(self, ids: Sequence[int]) -> str:
        return "|".join(self._piece(i) for i in ids)

    def _piece(self, token: int) -> str:
        piece = str(self.tokenizer.id_to_token(token) or "")
        if SPACES[1] in piece:  # whose decoder would take a first space away
            return piece.replace(SPACES[1], " ")
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def _check_ids(self, ids: Sequence[int], place: str) -> None:
        size = self.model.config.d_vocab
        if ids and max(ids) >= size:
            raise PahqError(
                f"{place} has token {max(ids)}; model {self.model.config.name!r} has {size}: its tokenizer.json is "
                "another model's"
            )


def _no_bos(model: Reader, bos: str) -> PahqError:
    return PahqError(f"model {model.config.name!r} has no token {bos!r} to begin its prompts with (task.bos)")
