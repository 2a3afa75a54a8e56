"""The forward pass as pure functions with an explicit head axis.

One set of functions serves GPT-2-like, attention-only, Tracr and Llama/Qwen-like models; ``ModelConfig``
decides. Every head reads an input of its own ([head, ..., d_model]), since an edge search patches heads one
by one. Here stands what the parts of a layer compute; what they read and where it is added, in ``pahq.model.block``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pahq.model.activations import ACTIVATIONS
from pahq.model.attention import attend, capped, shares
from pahq.model.block import Part, through
from pahq.model.layerweights import LayerWeights
from pahq.model.products import mlp_products, product
from pahq.model.rotary import rotate
from pahq.model.rows import put, take
from pahq.model.weights import Ends, ModelConfig, Network


def normalise(
    config: ModelConfig, x: Float[Tensor, "*batch d"], weight: Tensor | None, bias: Tensor | None
) -> Float[Tensor, "*batch d"]:
    """LayerNorm, RMSNorm or nothing, over the last axis."""
    if config.norm == "layer":
        return torch.layer_norm(x, x.shape[-1:], weight, bias, config.eps)
    if config.norm == "rms":
        return _rms(config, x, weight)
    return x


def read_through(
    config: ModelConfig, x: Float[Tensor, "*batch d"], weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """What heads or an MLP multiply, from the stream that they read: the norm in front, where the model has one."""
    return normalise(config, x, weight, bias) if config.pre_norms else x


def _rms(config: ModelConfig, x: Tensor, weight: Tensor | None) -> Tensor:
    scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.eps)
    return scaled if weight is None else scaled * weight


def project(
    config: ModelConfig,
    layer: LayerWeights,
    letter: str,
    x: Float[Tensor, "letter_head batch pos d_model"],
    *,
    first: int = 0,
    rows: Sequence[int] | None = None,
) -> Float[Tensor, "letter_head batch pos d_head"]:
    """A head's q, k or v from that head's own residual input: norm, positions (shortformer), product, bias, rotation.

    Where one norm is over the queries (or keys) of all heads together, that and the rotation are left to ``mix``.
    ``x`` may have 1 in place of the head axis where all heads read the same input. ``rows`` names the heads
    that ``x`` holds (default: all); ``first`` is the position of ``x[..., 0, :]``.
    """
    normed = read_through(config, x, layer.ln1_w, layer.ln1_b)
    if layer.W_pos is not None and letter != "v":
        normed = normed + layer.W_pos[first : first + normed.shape[-2]]
    out = multiply(config, layer, letter, normed, rows=rows)
    return out if config.qk_joint else finish_projection(config, layer, letter, out, first=first)


def multiply(
    config: ModelConfig,
    layer: LayerWeights,
    letter: str,
    normed: Float[Tensor, "letter_head batch pos d_model"],
    *,
    rows: Sequence[int] | None = None,
    bias: bool = True,
) -> Float[Tensor, "letter_head batch pos d_head"]:
    """Product (and bias) of a projection: what ``project`` does between norm and rotation.

    Without its ``bias`` it is linear, so that changes of a norm may pass through it too.
    """
    products, by_codes = layer.products, layer.by_codes
    if layer.exact and (by_codes or products != "float32"):
        heads = list(range(config.count(letter)) if rows is None else rows)
        exact = layer.are_exact(letter, heads)
        if any(exact) and not all(exact):
            return _apart(config, layer, letter, normed, heads, exact, bias)
        if all(exact):
            products, by_codes = "float32", False
    out = _multiplied(layer, letter, normed.flatten(1, -2), rows, products, by_codes, bias)
    return out.view(-1, *normed.shape[1:-1], config.d_head)


def _multiplied(
    layer: LayerWeights,
    letter: str,
    x: Float[Tensor, "letter_head row d_model"],
    rows: Sequence[int] | None,
    products: str,
    by_codes: bool,
    with_bias: bool,
) -> Float[Tensor, "letter_head row d_head"]:
    """Product and bias of a projection, all heads of ``x`` alike."""
    bias: Tensor | float = 0.0
    if with_bias:
        bias = (layer.bias(letter) if rows is None else take(layer.bias(letter), rows))[:, None]
    if by_codes:
        return layer.coded(letter, rows).multiply(x, products) + bias
    weight = layer.weight(letter) if rows is None else layer.rows(letter, rows)
    if x.shape[0] == 1 < weight.shape[0]:  # all heads read one input: one product for all of them
        together = product(x[0], weight.permute(1, 0, 2).flatten(1), products)
        return torch.movedim(together.view(x.shape[1], weight.shape[0], -1), -2, 0) + bias
    # One product per head over all its rows: broadcasting the weight over the batch would copy it.
    if products == "float32" and isinstance(bias, Tensor):
        return torch.baddbmm(bias, x, weight)
    return product(x, weight, products) + bias


def _apart(
    config: ModelConfig,
    layer: LayerWeights,
    letter: str,
    normed: Float[Tensor, "letter_head batch pos d_model"],
    heads: list[int],
    exact: list[bool],
    bias: bool,
) -> Float[Tensor, "letter_head batch pos d_head"]:
    """``multiply`` of heads of which some are in full precision (``exact``), others not."""
    out = normed.new_empty(len(heads), *normed.shape[1:-1], config.d_head)
    normed = normed.expand(len(heads), *normed.shape[1:])
    for kind in (True, False):
        at = [i for i, is_exact in enumerate(exact) if is_exact == kind]
        chosen = multiply(config, layer, letter, take(normed, at), rows=[heads[i] for i in at], bias=bias)
        put(out, at, chosen)
    return out


def finish_projection(
    config: ModelConfig,
    layer: LayerWeights,
    letter: str,
    out: Float[Tensor, "*batch pos d_head"],
    *,
    first: int = 0,
) -> Float[Tensor, "*batch pos d_head"]:
    """What follows the product and bias of a projection: q/k norm and rotation (v has neither)."""
    if letter == "v":
        return out
    if config.qk_norm:
        norm = _joint if config.qk_joint else _rms
        out = norm(config, out, layer.q_norm if letter == "q" else layer.k_norm)
    return rotate(config, out, first, local=layer.local) if config.positions == "rotary" else out


def _joint(config: ModelConfig, x: Float[Tensor, "head batch pos d_head"], weight: Tensor | None) -> Tensor:
    """The norm of queries or keys over the numbers of all heads together (OLMo 2)."""
    assert weight is not None
    assert weight.shape[0] == x.shape[0], "a norm over all heads was asked of some of them"
    return x * torch.rsqrt(x.square().mean((0, -1), keepdim=True) + config.eps) * weight[:, None, None]


def mix(
    config: ModelConfig,
    layer: LayerWeights,
    q: Float[Tensor, "head batch query d_head"],
    k: Float[Tensor, "kv_head batch pos d_head"],
    v: Float[Tensor, "kv_head batch pos d_head"],
) -> Float[Tensor, "head batch query d_head"]:
    """The z of all heads of a layer from what ``project`` gives of them; ``k`` and ``v`` from position 0 on.

    With what ties heads to each other in some models: a norm over all their queries or keys, and one behind them.
    """
    return shares(config, layer, attend(config, *joined(config, layer, q, k), v))


def joined(
    config: ModelConfig,
    layer: LayerWeights,
    q: Float[Tensor, "head batch query d_head"],
    k: Float[Tensor, "kv_head batch pos d_head"],
) -> tuple[Float[Tensor, "head batch query d_head"], Float[Tensor, "kv_head batch pos d_head"]]:
    """Queries and keys of all heads behind the norm that is over all of them together, where there is one."""
    if not config.qk_joint:
        return q, k
    first = k.shape[-2] - q.shape[-2]
    return finish_projection(config, layer, "q", q, first=first), finish_projection(config, layer, "k", k)


def head_outputs(
    layer: LayerWeights, z: Float[Tensor, "head batch pos d_head"], *, rows: Sequence[int] | None = None
) -> Float[Tensor, "head batch pos d_model"]:
    """Each head's contribution to the residual stream, without the shared bias b_O. ``rows``: the heads of ``z``."""
    weight = layer.sending(rows)
    return layer.behind(torch.bmm(z.flatten(1, -2), weight).view(*z.shape[:-1], weight.shape[-1]))


def mlp(
    config: ModelConfig, layer: LayerWeights, x: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Norm, MLP (gated or not), its output bias, and the norm behind it, where there is one."""
    assert layer.W_out is not None
    assert layer.b_out is not None
    hidden = activated(config, mlp_before(layer, read_through(config, x, layer.ln2_w, layer.ln2_b)))
    return mlp_sends(config, layer, product(hidden, layer.W_out, mlp_products(layer.products)) + layer.b_out)


def mlp_sends(
    config: ModelConfig, layer: LayerWeights, output: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """An MLP's output through the norm behind it, where there is one."""
    return _rms(config, output, layer.ln2_post) if config.post_norms else output


def mlp_before(
    layer: LayerWeights, normed: Float[Tensor, "*batch d_model"], *, bias: bool = True
) -> tuple[Float[Tensor, "*batch d_mlp"], ...]:
    """What an MLP computes of its normed input before its activation: one value, or (gated) the gate's as well.

    Without ``bias`` it is linear, so that changes of a norm may pass through it too.
    """
    assert layer.W_in is not None
    assert layer.b_in is not None
    products = mlp_products(layer.products)
    gate = () if layer.W_gate is None else (product(normed, layer.W_gate, products),)
    value = product(normed, layer.W_in, products)
    return (value + layer.b_in if bias else value, *gate)


def activated(config: ModelConfig, before: tuple[Float[Tensor, "*batch d_mlp"], ...]) -> Float[Tensor, "*batch d_mlp"]:
    """The hidden layer, from what ``mlp_before`` gives."""
    activation = ACTIVATIONS[config.activation]
    return activation(before[0]) if len(before) == 1 else activation(before[1]) * before[0]


def unembed(model: Ends, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
    """Final norm, unembedding and the soft cap of logits, where there is one."""
    out: Tensor = normalise(model.config, x, model.ln_final_w, model.ln_final_b) @ model.W_U + model.b_U
    return capped(out, model.config.logit_cap)


def embeddings(
    model: Ends, tokens: Int[Tensor, "batch pos"], *, split: bool
) -> list[Float[Tensor, "batch pos d_model"]]:
    """The senders below layer 0: token and learned position embedding, added up or (``split``) apart.

    Positions of other kinds enter in the attention heads, so there the token embedding is the only sender.

    Raises PahqError for prompts longer than the model's context or window, which rotary models would otherwise accept.
    """
    model.config.check_length(tokens.shape[1])
    tokens = tokens.to(model.W_E.device)
    token = model.W_E[tokens]
    if model.config.embed_scale != 1:
        token = token * model.config.embed_scale
    if model.W_pos is None or model.config.positions == "shortformer":
        return [token]
    position = model.W_pos[: tokens.shape[1]].expand_as(token)
    return [token, position] if split else [token + position]


def part_output(
    config: ModelConfig, layer: LayerWeights, part: Part, read: Float[Tensor, "batch pos d_model"]
) -> Tensor:
    """What a part of a layer sends, from the stream that it reads: the heads' z [head, batch, pos, d_head], or the
    MLP's output."""
    if part.kind == "mlp":
        return mlp(config, layer, read)
    at = {letter: project(config, layer, letter, read[None]) for letter in "qkv"}
    return mix(config, layer, at["q"], at["k"], at["v"])


def logits(model: Network, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The model's logits, nothing kept: the plain forward (differentiable, used in training too)."""
    return unembed(model, final_stream(model, tokens))


def final_stream(model: Network, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream before the final norm, nothing kept."""
    config = model.config

    def send(index: int, layer: LayerWeights, part: Part, read: Tensor) -> Tensor:
        return part_output(config, layer, part, read)

    return through(config.parts, model.layers, torch.stack(embeddings(model, tokens, split=False)).sum(0), send)
