"""Notes about the token that prompts begin with, so that neither a second one nor a missing one goes unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from pahq.model.weights import Reader
from pahq.tasks.encoder import Encoder, Words, encoder_of


def begun_note(encoder: Encoder, prompts: Sequence[Words], bos: str | None) -> tuple[str, ...]:
    """A sentence where some of the prompts, as they stand, begin with the token that was to be put before them."""
    count = sum(encoder.begins(prompt) for prompt in prompts) if bos is not None else 0
    if not count:
        return ()
    which = "the prompts begin" if count == len(prompts) else f"{count} of {len(prompts)} prompts begin"
    return (f"{which} with {bos!r} as they stand, so bos puts no second one before them",)


def missing_note(model: Reader, clean: Int[Tensor, "batch pos"]) -> tuple[str, ...]:
    """A sentence where the model's tokenizer begins every text with a token, and these prompts begin with another."""
    if model.tokenizer is None:
        return ()
    encoder = encoder_of(model, "prompts")
    own = encoder.own_bos
    if own is None or encoder.shown(clean[0, :1].tolist()) == own:
        return ()
    return (
        f"the tokenizer of model {model.config.name!r} begins every text with {own!r}, and these prompts have none: "
        "task.bos (bos= in Python) puts it before them",
    )
