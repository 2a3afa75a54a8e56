"""Networks whose residual stream is the same numbers in float32 and float64: what a loss makes of them is then all that
differs.

Embeddings are whole multiples of 2^-20 below 4, and heads and MLPs put out nothing. Tokens come in pairs, t and t + 8,
which lie ``apart``: with a small distance the circuit's KL is small.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pahq.model.weights import Model
from pahq.tasks.task import Prompts, last_items
from support.small_models import random_model

PAIRS = 8


def quiet_model(family: str, seed: int, *, apart: float, stretch: float = 1.0, offset: float = 0.0) -> Model:
    """One layer; logits are stretched and offset as asked."""
    model = random_model(
        family, seed, layers=1, d_model=16, d_vocab=2 * PAIRS, d_vocab_out=2 * PAIRS, tied_embedding=False
    )
    generator = torch.Generator().manual_seed(seed)
    token = torch.randint(-(2**12), 2**12, (PAIRS, 16), generator=generator) / 2.0**11
    change = torch.randn((PAIRS, 16), generator=generator, dtype=torch.float64) * apart
    table = torch.cat([token, token + (change.clamp(-1, 1) * 2**20).round() / 2**20]).double()
    places = None
    if model.W_pos is not None:
        places = torch.randint(-(2**12), 2**12, model.W_pos.shape, generator=generator).double() / 2**12
    silent = {
        name: 0 * getattr(model.layers[0], name)
        for name in ("W_O", "b_O", "W_out", "b_out")
        if getattr(model.layers[0], name) is not None
    }
    return replace(
        model,
        W_E=table,
        W_pos=places,
        layers=(replace(model.layers[0], **silent),),
        W_U=(stretch * model.W_U).float().double(),
        b_U=(stretch * model.b_U + offset).float().double(),
    )


def quiet_prompts(seed: int, batch: int = 4, length: int = 3) -> Prompts:
    """Corrupted prompts are the twins of the clean ones."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(PAIRS, (batch, length), generator=generator)
    answer, wrong = torch.randint(2 * PAIRS, (2, batch), generator=generator)
    sign = torch.randint(-1, 2, (batch, 2 * PAIRS), generator=generator).float()
    choices = torch.randint(2 * PAIRS, (batch, 3), generator=generator)
    targets = {"answer": answer, "wrong": wrong, "sign": sign, "choices": choices, "columns": torch.tensor([0, 2])}
    return Prompts(clean, clean + PAIRS, last_items(batch, length), targets)
