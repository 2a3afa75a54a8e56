"""Your own prompts from a file as a task, with the checks that the built-in ones go through.

Prompts are read at their last position. Those searched on are equally long, and so are the fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from pahq.config.cell import TaskConfig
from pahq.config.promptfile import Pair, cut, read_pairs
from pahq.errors import PahqError
from pahq.model.weights import Reader
from pahq.tasks.bos import begun_note
from pahq.tasks.encoder import Encoder, encoder_of
from pahq.tasks.task import Prompts, Task, last_items


def build(config: TaskConfig, model: Reader, seed: int) -> Task:
    """The pairs of ``config.prompts``; ``seed`` changes nothing. PahqError naming row and column of what is wrong."""
    assert config.prompts is not None  # what TaskConfig sees to
    path = Path(config.prompts)
    search, fresh = cut(read_pairs(path, sha256=config.sha256), config.examples)
    return build_from(path, search, fresh, model, name=config.name, bos=config.bos)


def read_prompts(model: Reader, path: str | Path, *, examples: int | None = None, bos: str | None = None) -> Task:
    """A file of prompts (CSV or JSONL: clean, corrupted, answer, perhaps wrong and split) as a task.

    Text is taken as it stands, so for models with a tokenizer an answer has its space: `` Mary``. The first half is
    searched on (or the first ``examples`` rows) and the rest is fresh, or as a column ``split`` (search, fresh) says.
    ``bos`` is the text of a token before every prompt. Without ``wrong`` the metrics are kl and nll, with it logit_diff
    too. Raises PahqError in one sentence, naming row and column: prompts that do not align, an answer of several
    tokens, a word that the model lacks.
    """
    if not isinstance(path, str | Path):
        raise PahqError(f"prompts are read from a file; its path was expected, not {type(path).__name__}")
    if examples is not None and (type(examples) is not int or examples < 1):
        raise PahqError(f"examples: a whole number of at least 1 was expected (got {examples!r})")
    if bos is not None and not isinstance(bos, str):
        raise PahqError(f"bos: a token's text was expected, not {type(bos).__name__}")
    path = Path(path)
    search, fresh = cut(read_pairs(path), examples)
    return build_from(path, search, fresh, model, name=path.stem, bos=bos)


def build_from(
    path: Path, search: Sequence[Pair], fresh: Sequence[Pair], model: Reader, *, name: str, bos: str | None
) -> Task:
    """A task of these pairs; ``path`` is named where one is faulty."""
    encoder = encoder_of(model, str(path), bos=bos)
    metric = "nll" if search[0].wrong is None else "logit_diff"
    first, second = (_prompts(path, pairs, encoder) for pairs in (search, fresh))
    if repeated := {tuple(row) for row in first.clean.tolist()} & {tuple(row) for row in second.clean.tolist()}:
        shown = encoder.shown(min(repeated))
        raise PahqError(f"{path}: the clean prompt {shown} is searched on and judged by; fresh prompts must be others")
    texts = [text for pair in (*search, *fresh) for text in (pair.clean, pair.corrupted)]
    return Task(name, first, second, metric, notes=begun_note(encoder, texts, bos))


def _prompts(path: Path, pairs: Sequence[Pair], encoder: Encoder) -> Prompts:
    clean: list[list[int]] = []
    corrupted: list[list[int]] = []
    for pair in pairs:
        for rows, column in ((clean, "clean"), (corrupted, "corrupted")):
            place = f"{path}, row {pair.row}, column {column}"
            row = encoder.ids(getattr(pair, column), place)
            first = clean[0] if clean else row
            if len(row) != len(first):
                raise PahqError(
                    f"{place}: {len(row)} tokens ({encoder.shown(row)}) where row {pairs[0].row}, column clean has "
                    f"{len(first)} ({encoder.shown(first)}); prompts must align token by token"
                )
            rows.append(row)
        if clean[-1] == corrupted[-1]:
            raise PahqError(f"{path}, row {pair.row}, column corrupted: the same tokens as in column clean")
    encoder.check_length(len(clean[0]), f"{path}: prompts")
    targets = {"answer": _tokens(path, pairs, "answer", encoder)}
    if pairs[0].wrong is not None:
        targets["wrong"] = _tokens(path, pairs, "wrong", encoder)
        for pair, answer, wrong in zip(pairs, targets["answer"].tolist(), targets["wrong"].tolist(), strict=True):
            if answer == wrong:
                raise PahqError(f"{path}, row {pair.row}, column wrong: the same token as in column answer")
    tokens = torch.tensor(clean), torch.tensor(corrupted)
    return Prompts(*tokens, last_items(*tokens[0].shape), targets)


def _tokens(path: Path, pairs: Sequence[Pair], column: str, encoder: Encoder) -> Int[Tensor, " item"]:
    return torch.tensor(
        [
            encoder.token(getattr(pair, column), f"{path}, row {pair.row}, column {column}:", inside=True)
            for pair in pairs
        ]
    )
