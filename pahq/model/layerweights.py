"""What a forward asks of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from pahq.model.codes import Coded
from pahq.model.fused import Fused


class LayerWeights(Protocol):
    """A layer's weights under a focus: what a forward asks for.

    Where its numbers lie and in how many bits, a forward never learns: a store's layer may make a matrix when it is
    read, so whoever needs some heads asks for their ``rows``. What the fields mean: ``pahq.model.layers.PlainLayer``.
    """

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]: ...

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]: ...

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]: ...

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]: ...

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]: ...

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"]: ...

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"]: ...

    @property
    def b_O(self) -> Float[Tensor, " d_model"]: ...

    @property
    def b_sum(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln1_w(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln1_b(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln2_w(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln2_b(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln1_post(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def ln2_post(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def q_norm(self) -> Float[Tensor, "*head d_head"] | None: ...

    @property
    def k_norm(self) -> Float[Tensor, "*head d_head"] | None: ...

    @property
    def local(self) -> bool: ...

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"] | None: ...

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"] | None: ...

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"] | None: ...

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"] | None: ...

    @property
    def b_out(self) -> Float[Tensor, " d_model"] | None: ...

    @property
    def W_pos(self) -> Float[Tensor, "context d_model"] | None: ...

    @property
    def products(self) -> str:
        """How q, k and v projections multiply out of focus (``pahq.model.products``); MLPs as ``mlp_products`` says."""

    @property
    def exact(self) -> frozenset[int]:
        """Key-value groups that are in focus: their products are in full precision."""

    def are_exact(self, letter: str, heads: Iterable[int]) -> list[bool]:
        """Whether each of these heads is in focus; letter o means the output."""

    def weight(self, letter: str) -> Float[Tensor, "letter_head d_model d_head"]:
        """The weights of a letter: q, k or v."""

    def bias(self, letter: str) -> Float[Tensor, "letter_head d_head"]: ...

    def sending(self, heads: Sequence[int] | None = None) -> Float[Tensor, "chosen in d_model"]:
        """What z is multiplied with: W_O of all heads or of these, with their parts of ``b_sum`` where it is there."""

    def output(self, head: int) -> Float[Tensor, "in d_model"]:
        """``sending`` of one head, times the weights of the norm behind the heads, where there is one."""

    def behind(self, outputs: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Outputs of heads, or rows of W_O, times the weights of the norm behind the heads."""

    def rows(self, letter: str, heads: Sequence[int]) -> Float[Tensor, "chosen in out"]:
        """The weights of some heads; letter o means the output. Layers held packed unpack these and no others."""

    @property
    def by_codes(self) -> bool:
        """Whether q, k and v weights out of focus are multiplied as ``coded`` gives them, in any kind of products."""

    def coded(self, letter: str, heads: Sequence[int] | None) -> Coded | Fused:
        """Codes of q, k or v weights (``heads``: these alone), focus or not; for layers that go ``by_codes``."""
