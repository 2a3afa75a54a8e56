"""Whether a model does a task at all: its clean logits are looked at before any search for a circuit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.forward import final_stream, unembed
from pahq.model.memory import frugal
from pahq.model.sources.modelfile import ModelFile
from pahq.model.weights import Model, Reader
from pahq.tasks.encoder import Encoder, encoder_of
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts

_log = logging.getLogger(__name__)
PROMPTS, LOGITS = 64, 1 << 22  # of so many prompts logits are looked at, and so many logits: a share needs no more
TOP = 10  # tokens that count as likely
SHOWN = 3  # items, and tokens of each, that a record shows


@dataclass(frozen=True)
class Example:
    """An item of prompt ``prompt``: the answer, and the model's likeliest tokens, as text where there are words."""

    prompt: int
    answer: str | None
    top: tuple[str, ...]


@dataclass(frozen=True)
class TaskCheck:
    """``done``: the share of items on which the model does the task, in the sense of ``means``.

    ``among_top``: the share on which the answer is among the ten likeliest tokens; None where no single token answers.
    ``warning``: a sentence to be logged, or None.
    """

    items: int
    done: float
    means: str
    among_top: float | None
    examples: tuple[Example, ...]
    warning: str | None = None


def warned_check(model: Model | ModelFile, prompts: Prompts, place: str = "") -> dict[str, Any] | None:
    """``check_task`` by one clean forward of the first 64 prompts, as result.json has it; its warning is logged.

    None where the prompts have no answers. ``place`` stands before the warning.
    """
    part = _first(prompts, model.config.d_vocab_out)
    if part is None or not {"answer", "sign"} & set(part.targets):
        return None
    network = model.network() if isinstance(model, ModelFile) else model
    with torch.no_grad(), frugal():
        logits = unembed(network, gather_items(final_stream(network, part.clean), part.items))
    found = check_task(model, part, logits)
    if found.warning:
        _log.warning("%s%s", place, found.warning)
    return asdict(found)


def check_task(model: Reader, prompts: Prompts, logits: Float[Tensor, "item vocab"]) -> TaskCheck:
    """Whether the model does the task, by its clean logits at the items of prompts that have answers."""
    logits = logits.float().cpu()
    targets = {name: value.cpu() for name, value in prompts.targets.items()}
    done, means = _done(logits, targets)
    answer, top = targets.get("answer"), logits.topk(min(TOP, logits.shape[1])).indices
    among = None if answer is None else _share((top == answer[:, None]).any(1))
    share = _share(done)
    encoder = _encoder(model)
    examples = []
    for item in range(min(SHOWN, len(logits))):
        shown = tuple(_shown(encoder, int(token)) for token in top[item, :SHOWN])
        own = None if answer is None else _shown(encoder, int(answer[item]))
        examples.append(Example(int(prompts.items[item, 0]), own, shown))
    warning = None
    if share < 0.5 or (among is not None and among < 0.5):
        warning = f"the model does the task on {share:.0%} of {len(logits)} items ({means})"
        if among is not None:
            first = examples[0]
            likely = ", ".join(map(repr, first.top))
            warning += f", and the answer is among its {top.shape[1]} likeliest tokens on {among:.0%}: after prompt "
            warning += f"{first.prompt} it expects {likely}, not {first.answer!r}"
            warning += _space(encoder, prompts, logits, answer)
    return TaskCheck(len(logits), share, means, among, tuple(examples), warning)


def _share(true: Tensor) -> float:
    return int(true.sum()) / len(true)


def _done(logits: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, str]:
    """Item by item whether the task is done, and what that means."""
    if "sign" in targets:
        return (logits.softmax(-1) * targets["sign"]).sum(-1) > 0, "right tokens more probable than wrong ones"
    answer = logits.gather(1, targets["answer"][:, None])[:, 0]
    if "choices" in targets:
        return answer > logits.gather(1, targets["choices"]).amax(1), "the answer before all other choices"
    if "wrong" in targets:
        return answer > logits.gather(1, targets["wrong"][:, None])[:, 0], "the answer before the wrong one"
    return answer >= logits.amax(1), "the answer before all other tokens"


def _space(encoder: Encoder | None, prompts: Prompts, logits: Tensor, answer: Tensor | None) -> str:
    """What to do about a space that is missing, or one too many, where that is the likely cause; else nothing."""
    if encoder is None or not encoder.reads_text or answer is None:
        return ""
    last = encoder.shown(prompts.clean[0, -1:].tolist())
    if prompts.last_only and last[-1:].isspace():
        return (
            f"; the prompts end in a space ({last!r}), which belongs to the next token: leave it out, and begin "
            "answers with it"
        )
    likelier, other = 0, ""
    for item, token in enumerate(answer.tolist()):
        text = encoder.shown([token])
        toggled = text[1:] if text[:1] == " " else f" {text}"
        try:
            twin = encoder.token(toggled, "answer", inside=True)
        except PahqError:  # no token of this model
            continue
        if logits[item, twin] > logits[item, token]:
            likelier, other = likelier + 1, other or toggled
    if 2 * likelier <= len(logits):
        return ""
    which = "with a space before it" if other[:1] == " " else "without the space before it"
    return f"; {which} ({other!r}) the answer is likelier: answers are taken as they stand, space included"


def _encoder(model: Reader) -> Encoder | None:
    """The model's own reading of tokens; None where it has no names for them."""
    whole = model.vocabulary is not None and len(model.vocabulary) >= model.config.d_vocab_out
    return encoder_of(model, "prompts") if whole or model.tokenizer is not None else None


def _shown(encoder: Encoder | None, token: int) -> str:
    return str(token) if encoder is None else encoder.shown([token])


def _first(prompts: Prompts, vocabulary: int) -> Prompts | None:
    """The first prompts with their items and targets."""
    chosen = prompts.items[:, 0] < PROMPTS
    chosen &= chosen.cumsum(0) <= max(PROMPTS, LOGITS // vocabulary)
    if not chosen.any():
        return None
    targets = {
        name: value[chosen.to(value.device)] for name, value in prompts.targets.items() if len(value) == len(chosen)
    }
    return Prompts(prompts.clean[:PROMPTS], prompts.corrupted[:PROMPTS], prompts.items[chosen], targets)
