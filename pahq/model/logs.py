"""Log-probabilities of final streams, rounded once and last."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.model.attention import capped
from pahq.model.weights import Ends

LOG_BYTES = 64 << 20  # of float64 columns of the unembedding at a time


def clean_log_probabilities(ends: Ends, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Log-probabilities of normed final streams (float64), in the model's dtype.

    Taken in float64 and rounded last: float32 logits of -300 would be off by 3e-5, and so would what follows from them.
    """
    vocabulary, width = ends.W_U.shape[1], max(1, LOG_BYTES // (8 * len(ends.W_U)))
    out = normed.new_empty(len(normed), vocabulary, dtype=ends.W_U.dtype)

    def logits(part: slice) -> Tensor:
        return capped(normed @ ends.W_U[:, part].double() + ends.b_U[part].double(), ends.config.logit_cap)

    parts = [slice(start, start + width) for start in range(0, vocabulary, width)]
    total = torch.full_like(normed[:, 0], float("-inf"))
    for part in parts:
        total = torch.logaddexp(total, logits(part).logsumexp(-1))
    for part in parts:
        out[:, part] = logits(part) - total[:, None]
    return out
