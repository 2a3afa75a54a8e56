"""A layer's tensors in memory, and what every kind of layer has in common.

``pahq.model.layerweights.LayerWeights`` says what a forward asks of a layer. ``PlainLayer`` holds all of it. Layers of
other kinds make their tensors as they are read (``pahq.precision.packedlayer``, ``pahq.precision.wide``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.codes import Coded
from pahq.model.fused import Fused
from pahq.model.rows import take

if TYPE_CHECKING:
    from pahq.model.layerweights import LayerWeights


class ByLetter:
    """What any layer knows from its tensors: those of a letter (q, k, v), and which heads are in focus."""

    def weight(self: LayerWeights, letter: str) -> Float[Tensor, "letter_head d_model d_head"]:
        weight: Tensor = getattr(self, f"W_{letter.upper()}")  # the others stay unread: that may take unpacking
        return weight

    def bias(self: LayerWeights, letter: str) -> Float[Tensor, "letter_head d_head"]:
        return {"q": self.b_Q, "k": self.b_K, "v": self.b_V}[letter]

    def sending(self: LayerWeights, heads: Sequence[int] | None = None) -> Float[Tensor, "chosen in d_model"]:
        """What z is multiplied with: W_O of all heads, or of these.

        A bias that the sum of a layer's heads has in front of the norm behind them is in equal parts the heads': each
        has its part as one more row.
        """
        weight = self.W_O if heads is None else self.rows("o", heads)
        if self.b_sum is None:
            return weight
        part = (self.b_sum / self.b_Q.shape[0]).expand(len(weight), 1, -1)
        return torch.cat((weight, part), dim=1)

    def output(self: LayerWeights, head: int) -> Float[Tensor, "in d_model"]:
        """``sending`` of one head, times the weights of the norm behind the heads, where there is one."""
        return self.behind(self.sending((head,))[0])

    def behind(self: LayerWeights, outputs: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Outputs of heads, or rows of W_O, times the weights of the norm behind the heads."""
        return outputs if self.ln1_post is None else outputs * self.ln1_post

    def are_exact(self: LayerWeights, letter: str, heads: Iterable[int]) -> list[bool]:
        """Whether each of these heads is in focus; letter o means the output."""
        groups = self.b_K.shape[0]
        count = groups if letter in "kv" else self.b_Q.shape[0]
        return [head * groups // count in self.exact for head in heads]


@dataclass(frozen=True, kw_only=True)
class SmallWeights:
    """What of a layer no format touches. What a family lacks (norm biases, q/k norms) is None; absent biases are zeros.

    ``W_pos`` is the model's table of positions where they enter at q and k (shortformer): one tensor for all layers.
    ``ln1_post`` and ``ln2_post`` are the weights of the norms behind heads and MLP; ``b_sum`` is added to what the
    heads send together in front of that norm, ``b_O`` behind it. ``local``: whether positions turn by the model's local
    base.
    """

    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "kv_head d_head"]
    b_V: Float[Tensor, "kv_head d_head"]
    b_O: Float[Tensor, " d_model"]
    b_sum: Float[Tensor, " d_model"] | None = None
    ln1_w: Float[Tensor, " d_model"] | None = None
    ln1_b: Float[Tensor, " d_model"] | None = None
    ln2_w: Float[Tensor, " d_model"] | None = None
    ln2_b: Float[Tensor, " d_model"] | None = None
    ln1_post: Float[Tensor, " d_model"] | None = None
    ln2_post: Float[Tensor, " d_model"] | None = None
    q_norm: Float[Tensor, "*head d_head"] | None = None
    k_norm: Float[Tensor, "*head d_head"] | None = None
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_model"] | None = None
    W_pos: Float[Tensor, "context d_model"] | None = None
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class PlainLayer(SmallWeights, ByLetter):
    """A layer all of whose weights are tensors in memory. The MLP's are None in models without one; so is a gate."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    W_in: Float[Tensor, "d_model d_mlp"] | None = None
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    W_out: Float[Tensor, "d_mlp d_model"] | None = None

    @property
    def products(self) -> str:
        return "float32"

    @property
    def exact(self) -> frozenset[int]:
        return frozenset()

    @property
    def by_codes(self) -> bool:
        return False

    def rows(self, letter: str, heads: Sequence[int]) -> Float[Tensor, "chosen in out"]:
        return take(self.W_O if letter == "o" else self.weight(letter), heads)

    def coded(self, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        raise PahqError("these layers hold weights, and no codes of them")


def as_it_lies(layer: LayerWeights) -> TypeGuard[PlainLayer]:
    """Whether projections are products with tensors in memory, and nothing between norm and product."""
    return isinstance(layer, PlainLayer) and layer.products == "float32" and layer.W_pos is None


PLACES = {  # of PlainLayer's fields among a model folder's names, below ``blocks.<i>.``
    **{f"{kind}_{letter}": f"attn.{kind}_{letter}" for kind in "Wb" for letter in "QKVO"},
    **{f"ln{i}_{part}": f"ln{i}.{part}" for i in (1, 2) for part in "wb"},
    "b_sum": "attn.b_sum",
    **{f"ln{i}_post": f"ln{i}_post.w" for i in (1, 2)},
    **{name: f"attn.{name}.w" for name in ("q_norm", "k_norm")},
    **{name: f"mlp.{name}" for name in ("W_in", "W_gate", "W_out", "b_in", "b_out")},
}
