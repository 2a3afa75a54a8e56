"""What a search never changes: clean values upstream of every receiver, and what follows from them.

Receivers are visited from the output down, so every sender of the receiver under test still has its clean value, and
removing an edge is one subtraction: input(r) -= clean_s - corrupted_s.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.problem import Problem
from pahq.model.forward import attend, run_senders
from pahq.model.weights import ModelConfig


class CleanRun:
    """Clean values of the network under test (every head in its low format), and sender differences.

    ``difference[s]`` = clean - corrupted output of sender s, [sender, batch, pos, d_model]. ``mlp[l]``, ``z[l]`` and
    ``projections[l]`` are clean outputs; ``resid_pre``, ``resid_mid`` and ``final`` clean residual streams.
    """

    def __init__(self, problem: Problem) -> None:
        model, config = problem.store.low, problem.store.low.config
        run = run_senders(model, list(problem.clean), minus=problem.corrupted.senders)
        self.config = config
        self.difference = run.senders
        self.projections = run.projections
        self.z = [attend(config, at["q"], at["k"], at["v"]) for at in run.projections]
        self.resid_pre, self.resid_mid, self.final = run.resid_pre, run.resid_mid, run.final
        self.mlp = {
            node.layer: run.senders[i] + problem.corrupted.senders[i]
            for i, node in enumerate(problem.graph.senders)
            if node.kind == "mlp"
        }


def scale_of(config: ModelConfig, second_moment: Tensor) -> Tensor:
    """A norm's factor from the mean square of its (centred) input."""
    return torch.rsqrt(second_moment + config.eps)


def centred(config: ModelConfig, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """The linear part of the norm: LayerNorm subtracts the mean, RMSNorm nothing."""
    return x - x.mean(-1, keepdim=True) if config.norm == "layer" else x
