"""What the parts of a network compute: norm, projection, head, MLP, unembedding. [batch, pos, width] arrays in float64.

Weights are a dictionary of arrays by TransformerLens' names (``blocks.0.attn.W_Q`` is [head, d_model, d_head]). Rotary
positions: Su et al. 2021; shortformer's: Press et al. 2020; grouped queries: Ainslie et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from support.numpy_oracle.graph import Shape

Weights = Mapping[str, np.ndarray]
Projected = dict[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class Facts(Shape):
    """A graph's shape, and how the parts of the network compute."""

    norm: str  # layer, rms or none
    eps: float
    activation: str
    gated: bool
    positions: str  # learned, rotary or shortformer
    speeds: tuple[float, ...]  # of rotary pairs, in radians from one position to the next
    growth: float  # of rotary pairs
    causal: bool
    qk_norm: bool
    near: tuple[int, ...] = ()  # layers whose pairs turn by ``near_speeds``
    near_speeds: tuple[float, ...] = ()
    embed_scale: float = 1.0
    score_scale: float | None = None
    score_cap: float = math.inf
    logit_cap: float = math.inf
    pre_norms: bool = True
    joint: bool = False  # one norm over the queries, or keys, of all heads


def embeddings(facts: Facts, w: Weights, tokens: np.ndarray, order: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The embedding senders of some prompts; ``order`` permutes the rows of the position table."""
    token = w["embed.W_E"][tokens] * facts.embed_scale
    if facts.positions != "learned":
        return {"embed": token}
    rows = np.arange(tokens.shape[1]) if order is None else order
    position = np.broadcast_to(w["pos_embed.W_pos"][rows], token.shape)
    return {"embed": token, "pos": position} if facts.split else {"embed": token + position}


def rms(x: np.ndarray, eps: float, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def norm(facts: Facts, w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    if facts.norm == "none" or (name != "ln_final" and not facts.pre_norms):
        return x
    if facts.norm == "rms":
        return rms(x, facts.eps, w[name + ".w"])
    centred = x - np.mean(x, axis=-1, keepdims=True)
    spread = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + facts.eps)
    return centred / spread * w[name + ".w"] + w[name + ".b"]


def projection(facts: Facts, w: Weights, layer: int, letter: str, index: int, x: np.ndarray) -> np.ndarray:
    """q, k or v of one head from the residual stream that this input of it reads."""
    at = f"blocks.{layer}."
    normed = norm(facts, w, at + "ln1", x)
    if facts.positions == "shortformer" and letter != "v":
        normed = normed + w["pos_embed.W_pos"][: x.shape[1]]
    name = letter.upper()
    y = normed @ w[f"{at}attn.W_{name}"][index] + w[f"{at}attn.b_{name}"][index]
    if letter == "v" or facts.joint:
        return y
    return placed(facts, w, layer, letter, y)


def joined(facts: Facts, w: Weights, layer: int, of: Projected) -> Projected:
    """Projections of a layer's heads by letter and number, behind a norm that is over all of a letter, if there is
    one."""
    if not facts.joint:
        return of
    out = dict(of)
    for letter in "qk":
        every = [of[letter, i] for i in range(facts.count(letter))]
        scale = np.sqrt(sum(np.mean(y * y, axis=-1, keepdims=True) for y in every) / len(every) + facts.eps)
        for i, y in enumerate(every):
            weight = w[f"blocks.{layer}.attn.{letter}_norm.w"][i]
            out[letter, i] = placed(facts, w, layer, letter, y / scale * weight)
    return out


def placed(facts: Facts, w: Weights, layer: int, letter: str, y: np.ndarray) -> np.ndarray:
    """A query or key with its own norm and its rotation."""
    if facts.qk_norm and not facts.joint:
        y = rms(y, facts.eps, w[f"blocks.{layer}.attn.{letter}_norm.w"])
    if facts.positions == "rotary":
        local = layer in facts.near
        half, growth = len(facts.speeds), 1.0 if local else facts.growth
        pairs = growth * (y[..., :half] + 1j * y[..., half : 2 * half])
        turned = pairs * np.exp(1j * np.outer(np.arange(y.shape[1]), facts.near_speeds if local else facts.speeds))
        y = np.concatenate([turned.real, turned.imag, y[..., 2 * half :]], axis=-1)
    return y


def head(facts: Facts, w: Weights, layer: int, index: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """One head's output from its query, key and value; b_O belongs to no head, and no norm behind heads is in it.

    A bias in front of that norm is in equal parts the heads'.
    """
    scores = q @ np.swapaxes(k, -1, -2) * (facts.score_scale or 1 / math.sqrt(q.shape[-1]))
    scores = bent(scores, facts.score_cap)
    if facts.causal:
        scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    pattern = weights / weights.sum(axis=-1, keepdims=True)
    part = w.get(f"blocks.{layer}.attn.b_sum", 0.0) / facts.heads
    return pattern @ v @ w[f"blocks.{layer}.attn.W_O"][index] + part


def bent(x: np.ndarray, cap: float) -> np.ndarray:
    return x if math.isinf(cap) else cap * np.tanh(x / cap)


def shares(facts: Facts, w: Weights, layer: int, outputs: list[np.ndarray]) -> list[np.ndarray]:
    """What a layer's heads send: their shares of the normed sum, where a norm stands behind them."""
    if not facts.coupled:
        return outputs
    total = sum(outputs)
    scale = np.sqrt(np.mean(total * total, axis=-1, keepdims=True) + facts.eps)
    return [output / scale * w[f"blocks.{layer}.ln1_post.w"] for output in outputs]


def activated(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "relu":
        return np.where(x > 0, x, 0.0)
    if kind == "silu":
        return x / (1 + np.exp(-x))
    if kind == "gelu":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    assert kind == "gelu_new", kind
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def mlp(facts: Facts, w: Weights, layer: int, x: np.ndarray) -> np.ndarray:
    """An MLP's output from the residual stream that it reads; its output bias is part of it."""
    at = f"blocks.{layer}."
    normed = norm(facts, w, at + "ln2", x)
    into = normed @ w[at + "mlp.W_in"] + w[at + "mlp.b_in"]
    hidden = activated(facts.activation, normed @ w[at + "mlp.W_gate"]) * into if facts.gated else None
    if hidden is None:
        hidden = activated(facts.activation, into)
    out = hidden @ w[at + "mlp.W_out"] + w[at + "mlp.b_out"]
    return rms(out, facts.eps, w[at + "ln2_post.w"]) if facts.coupled else out


def logits(facts: Facts, w: Weights, x: np.ndarray) -> np.ndarray:
    """From the final residual stream; a tied unembedding is the embedding."""
    unembedding = w["unembed.W_U"] if "unembed.W_U" in w else w["embed.W_E"].T
    return bent(norm(facts, w, "ln_final", x) @ unembedding + w["unembed.b_U"], facts.logit_cap)
