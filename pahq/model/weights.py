"""A model's numbers: its configuration and its weights by head.

Tensor names and shapes follow TransformerLens (``blocks.0.attn.W_Q`` is [head, d_model, d_head]), since that
is what recorded runs, compiled Tracr programs and the field's notebooks use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, Protocol

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from pahq.circuits.graph import ModelShape
from pahq.errors import PahqError
from pahq.model.block import Part, mlp_reads_heads, parts_of
from pahq.model.layers import PLACES, PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.rotary import RotaryScaling

Activation = Literal["relu", "gelu", "gelu_new", "silu"]


class ModelConfig(BaseModel):
    """The facts that fix a model's computation; ``config.json`` of our model folders.

    ``d_mlp`` 0 means attention only. ``positions`` learned: added to the embedding; rotary: RoPE on q and k;
    shortformer (Press et al. 2020, arXiv 2012.15832): a learned table added to the normalised q and k inputs alone,
    never to the residual stream. ``rotary_dim``: how many of a head's first numbers turn (None: all); how fast, say
    ``rotary_base`` and ``rotary_scaling`` (``pahq.model.rotary``). ``window``: how many positions back, its own
    counted, a query sees; prompts must be no longer, and then it changes nothing. ``block`` is how a layer is put
    together (``pahq.model.block``). ``family`` is where the weights come from, in words, and part of no computation.

    Gemma and OLMo 2: ``local_layers`` turn by ``local_base``, unscaled. ``embed_scale`` multiplies the token embedding,
    ``attention_scale`` the attention scores (None: d_head ** -0.5). ``score_cap`` and ``logit_cap`` bend scores and
    logits by cap * tanh(x / cap). ``post_norms``: what a layer's heads send together, and what its MLP sends, is normed
    before it is added to the stream; ``pre_norms``: what they read is. ``qk_joint``: the norm of queries (or keys) is
    over all heads' numbers together. ``sum_bias``: a bias is added to what a layer's heads send together, in front of
    the norm behind them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "custom"
    family: str | None = None
    layers: Annotated[PositiveInt, Field(le=10_000)]
    heads: Annotated[PositiveInt, Field(le=10_000)]  # or a file that speaks of many would fill the memory with names
    kv_heads: PositiveInt
    d_model: PositiveInt
    d_head: PositiveInt
    d_mlp: NonNegativeInt
    d_vocab: PositiveInt
    d_vocab_out: PositiveInt
    context: PositiveInt
    norm: Literal["layer", "rms", "none"]
    eps: PositiveFloat = 1e-5
    activation: Activation = "gelu_new"
    gated: bool = False
    positions: Literal["learned", "rotary", "shortformer"] = "learned"
    rotary_base: PositiveFloat = 10000.0
    rotary_dim: PositiveInt | None = None
    rotary_scaling: RotaryScaling | None = None
    window: PositiveInt | None = None
    causal: bool = True
    tied_embedding: bool = False
    qk_norm: bool = False
    qk_joint: bool = False
    local_layers: tuple[NonNegativeInt, ...] = ()
    local_base: PositiveFloat = 10000.0
    embed_scale: PositiveFloat = 1.0
    attention_scale: PositiveFloat | None = None
    score_cap: PositiveFloat | None = None
    logit_cap: PositiveFloat | None = None
    pre_norms: bool = True
    post_norms: bool = False
    sum_bias: bool = False
    block: Literal["serial", "parallel"] = "serial"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of a layer in the order of computation, each with the stream that it reads."""
        return parts_of(self.block, mlp=self.d_mlp > 0)

    def count(self, letter: str) -> int:
        """Heads of a letter: q, k, v, or o for the output."""
        return self.kv_heads if letter in "kv" else self.heads

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        self._check_rotary()
        if self.tied_embedding and self.d_vocab != self.d_vocab_out:
            raise ValueError(f"a tied embedding has one vocabulary, not {self.d_vocab} in and {self.d_vocab_out} out")
        if self.block != "serial" and not self.d_mlp:
            raise ValueError(f"a {self.block} block has an MLP, and d_mlp is 0")
        if (self.post_norms or not self.pre_norms) and (self.norm != "rms" or self.block != "serial"):
            raise ValueError(
                "norms behind attention and MLP, or none in front, go with norm rms and serial blocks alone"
            )
        if self.qk_joint and not (self.qk_norm and self.post_norms):
            raise ValueError("qk_joint goes with qk_norm and post_norms alone")
        if self.sum_bias and not self.post_norms:
            raise ValueError("sum_bias goes with post_norms alone")
        return self

    def _check_rotary(self) -> None:
        if self.positions != "rotary":
            if self.rotary_dim is not None or self.rotary_scaling is not None or self.local_layers:
                raise ValueError(
                    f"rotary_dim, rotary_scaling and local_layers belong to rotary positions, not to {self.positions}"
                )
            return
        if self.rotary_dim is None and self.d_head % 2:
            raise ValueError("rotary positions need an even d_head")
        if self.rotary_dim is not None and (self.rotary_dim % 2 or self.rotary_dim > self.d_head):
            raise ValueError(f"rotary_dim must be even and at most d_head {self.d_head}, not {self.rotary_dim}")
        if self.rotary_scaling is not None and self.rotary_scaling.kind == "yarn" and self.rotary_base <= 1:
            raise ValueError(f"rope scaling yarn needs a rotary base above 1, not {self.rotary_base}")

    @property
    def reach(self) -> int:
        """Tokens of the longest prompt."""
        return min(self.context, self.window or self.context)

    def check_length(self, length: int, what: str = "prompts") -> None:
        """Raise PahqError for prompts that are longer than the model's context or its attention window."""
        if length > self.context:
            raise PahqError(f"{what} have {length} tokens; model {self.name!r} has {self.context} positions")
        if self.window is not None and length > self.window:
            raise PahqError(
                f"{what} have {length} tokens; model {self.name!r} attends within a sliding window of {self.window}, "
                f"and prompts must lie within it: at most {self.window} tokens were expected"
            )

    def shape(self, *, split_embed: bool = False) -> ModelShape:
        """The graph's view of this model; ``split_embed`` needs learned positions."""
        if split_embed and self.positions != "learned":
            raise PahqError(f"model {self.name!r} has no position embedding to split from the token embedding")
        parallel = self.d_mlp > 0 and not mlp_reads_heads(self.parts)
        return ModelShape(
            self.layers, self.heads, self.kv_heads, self.d_mlp > 0, split_embed, parallel, coupled=self.post_norms
        )


class Reader(Protocol):
    """What tasks need of a model: how it reads words, not its weights."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def vocabulary(self) -> tuple[str, ...] | None: ...

    @property
    def tokenizer(self) -> str | None: ...


class Embedding(Protocol):
    """What a token's row is looked up in: a tensor [d_vocab, d_model], or a file of which only those rows are read."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, tokens: Any, /) -> Tensor: ...


class Ends(Protocol):
    """What stands before the first and behind the last layer: a Model has it, and so has whoever streams layers."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def W_E(self) -> Embedding: ...

    @property
    def W_pos(self) -> Float[Tensor, "context d_model"] | None: ...

    @property
    def ln_final_w(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln_final_b(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]: ...

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]: ...


class Network(Ends, Protocol):
    """What a forward pass walks through once; the layers may come into being one by one."""

    @property
    def layers(self) -> Iterable[LayerWeights]: ...


@dataclass(frozen=True, repr=False)
class Model:
    """Configuration, embedding, layers, unembedding; ``vocabulary`` names the tokens of word-level models.

    ``tokenizer`` is the text of a tokenizer.json (the library tokenizers), for models that read text.
    ``W_pos`` is the table of learned positions, added to the embedding or (shortformer) by every layer.
    """

    config: ModelConfig
    W_E: Float[Tensor, "d_vocab d_model"]
    W_pos: Float[Tensor, "context d_model"] | None
    layers: tuple[PlainLayer, ...]
    ln_final_w: Float[Tensor, " d_model"] | None
    ln_final_b: Float[Tensor, " d_model"] | None
    W_U: Float[Tensor, "d_model d_vocab_out"]
    b_U: Float[Tensor, " d_vocab_out"]
    vocabulary: tuple[str, ...] | None = None
    tokenizer: str | None = None
    digest: str = ""  # sha256 of the weights' file, where they came from one

    def __repr__(self) -> str:
        config, dtype = self.config, str(self.W_E.dtype).removeprefix("torch.")
        size = f"{config.layers} layers of {config.heads} heads, d_model {config.d_model}, {config.d_vocab:,} tokens"
        return f"Model {config.name!r}: {size}, {dtype} on {self.W_E.device}"

    def to(self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Model:
        """The same model in another dtype or on another device."""
        return self.map(lambda tensor: tensor.to(dtype=dtype, device=device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Model:
        """The same model with ``change`` applied to every tensor; a tied unembedding stays tied."""
        changed = _mapped(self, change)
        positions = changed["W_pos"] if self.config.positions == "shortformer" else None
        changed["layers"] = tuple(
            type(layer)(**_mapped(replace(layer, W_pos=None), change) | {"W_pos": positions}) for layer in self.layers
        )
        if self.config.tied_embedding:
            changed["W_U"] = changed["W_E"].T
        return replace(self, **changed)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its canonical name, as a model folder stores them (a tied W_U is left out)."""
        named: dict[str, Tensor | None] = {
            "embed.W_E": self.W_E,
            "pos_embed.W_pos": self.W_pos,
            "ln_final.w": self.ln_final_w,
            "ln_final.b": self.ln_final_b,
            "unembed.W_U": None if self.config.tied_embedding else self.W_U,
            "unembed.b_U": self.b_U,
        }
        for i, layer in enumerate(self.layers):
            for name, place in PLACES.items():
                named[f"blocks.{i}.{place}"] = getattr(layer, name)
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def _mapped(values: Any, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    pairs = ((field.name, getattr(values, field.name)) for field in fields(values))
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in pairs}
