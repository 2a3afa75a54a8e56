"""Seeded models of GPT-2's and Llama's shapes whose searches end in circuits of chosen sparsity, and prompts for them.

Trained weights of that size are not to be had everywhere; what an engine's speed depends on is the shape, the share of
edges kept and how the kept ones hang together. Heads and MLPs differ in strength by a heavy-tailed factor, as trained
ones do, so that a threshold separates a connected core from the rest; MLPs are strong enough that about a third of the
kept edges touch one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig
from pahq.tasks.task import Prompts, last_items


@dataclass(frozen=True)
class Shape:
    """Sizes of one benchmark model."""

    layers: int = 12
    heads: int = 12
    d_model: int = 768
    d_head: int = 64
    vocabulary: int = 5003
    positions: int = 15
    tied: bool = False  # the unembedding is the embedding, as GPT-2's is
    kv_heads: int | None = None  # as many as heads
    d_mlp: int | None = None  # four times d_model
    llama: bool = False  # gated MLPs, rotary positions, norms by the root mean square, no biases


GPT2_XL = Shape(layers=48, heads=25, d_model=1600, vocabulary=50257, tied=True)
LLAMA_3_8B = Shape(
    layers=32, heads=32, kv_heads=8, d_model=4096, d_head=128, d_mlp=14336, vocabulary=128256, llama=True
)


def make_model(
    shape: Shape, *, seed: int = 0, spread: float = 1.2, mlp: float = 2.0, device: str | torch.device = "cpu"
) -> Model:
    """A model; ``spread`` is the standard deviation of heads' log-strength, ``mlp`` the MLPs' strength.

    Weights are drawn on ``device``, whose random numbers are its own.
    """
    hidden = shape.d_mlp or 4 * shape.d_model
    kind = {"norm": "rms", "activation": "silu", "gated": True, "positions": "rotary", "rotary_base": 500000.0}
    config = ModelConfig(
        name="synthetic",
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads or shape.heads,
        d_model=shape.d_model,
        d_head=shape.d_head,
        d_mlp=hidden,
        d_vocab=shape.vocabulary,
        d_vocab_out=shape.vocabulary,
        context=shape.positions,
        tied_embedding=shape.tied,
        **(kind if shape.llama else {"norm": "layer"}),
    )
    generator = torch.Generator(device=device).manual_seed(seed)
    tensors = {}
    for name, size in tensor_shapes(config).items():
        values = torch.randn(size, generator=generator, device=device)
        if name.endswith((".w",)):
            tensors[name] = torch.ones_like(values)
        elif ".b" in name and shape.llama:
            tensors[name] = torch.zeros_like(values)
        elif ".b" in name:
            tensors[name] = 0.02 * values
        elif name.endswith(("W_Q", "W_K")):
            tensors[name] = values * 2.0 * shape.d_model**-0.5
        elif name.endswith("W_O"):
            strength = (spread * torch.randn((shape.heads, 1, 1), generator=generator, device=device)).exp()
            tensors[name] = values * 0.3 * strength * shape.d_head**-0.5
        elif name.endswith("W_out"):
            strength = (0.7 * torch.randn((), generator=generator, device=device)).exp()
            tensors[name] = values * mlp * strength * hidden**-0.5
        elif name in ("embed.W_E", "pos_embed.W_pos"):
            tensors[name] = values
        else:
            tensors[name] = values * shape.d_model**-0.5
    if shape.tied:  # logits of the size that an unembedding of its own would give
        tensors["ln_final.w"] *= shape.d_model**-0.5
    return model_from_tensors(config, tensors)


def make_prompts(shape: Shape, count: int, *, seed: int = 1) -> Prompts:
    """Random prompts; the corrupted ones differ in three positions, as names do in the IOI task."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, shape.vocabulary, (count, shape.positions), generator=generator)
    corrupted = clean.clone()
    for position in (2, shape.positions // 2, shape.positions - 5):
        corrupted[:, position] = torch.randint(0, shape.vocabulary, (count,), generator=generator)
    answers = torch.randint(0, shape.vocabulary, (2, count), generator=generator)
    targets = {"answer": answers[0], "wrong": answers[1]}
    return Prompts(clean, corrupted, last_items(count, shape.positions), targets)
