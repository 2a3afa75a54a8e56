"""What it costs to leave out the norm behind a layer's heads: edges into the logits of random models like Gemma 2.

    python benchmarks/behind.py --json FILE

For every head of 20 random models (4 layers of 4 heads, KL, 8 prompts, random weights) the loss without its edge to
the logits is taken twice, given the clean run's stream: with the head's share of the normed sum, which is what the
stream really loses, and with what the head sends before the norm (z W_O, ``hook_result`` of TransformerLens).
``ranks``: Spearman's correlation of the two over a model's 16 heads. ``times``: by how much the latter's loss is too
large, the median over heads.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from output import publish
from torch import Tensor

from pahq.engine.losses import losses_for, rows_of
from pahq.engine.problem import Problem, build_problem
from pahq.model.attention import attend
from pahq.model.forward import project
from pahq.model.run import Run, run_senders, sender_outputs, streams
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig
from pahq.tasks.metrics import gather_items
from pahq.tasks.task import Prompts, last_items

MODELS, PROMPTS, LENGTH, WORDS = 20, 8, 6, 50


def random_problem(seed: int) -> Problem:
    """Every weight, norm and token random."""
    config = ModelConfig(
        **{"layers": 4, "heads": 4, "kv_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 64, "context": LENGTH},
        **{"d_vocab": WORDS, "d_vocab_out": WORDS, "norm": "rms", "post_norms": True, "embed_scale": 32**0.5},
        **{"positions": "rotary", "activation": "gelu_new", "gated": True},
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith(".w"):
            tensors[name] = 1 + 0.3 * drawn
        else:
            tensors[name] = drawn * (shape[-2] if len(shape) > 1 else 1) ** -0.5 * (0 if ".b_" in name else 1)
    model = model_from_tensors(config, tensors)
    clean, corrupted = torch.randint(WORDS, (2, PROMPTS, LENGTH), generator=generator)
    return build_problem(model, Prompts(clean, corrupted, last_items(PROMPTS, LENGTH), {}), metric="kl")


def before_norm(model: Model, run: Run) -> Tensor:
    """What every head sends before the norm behind it, [layer * head, batch, pos, d_model]."""
    sent = []
    for layer, read in zip(model.layers, streams(model, run)[0], strict=True):
        q, k, v = (project(model.config, layer, letter, read[None]) for letter in "qkv")
        sent.append(torch.einsum("hbpe,hed->hbpd", attend(model.config, q, k, v), layer.W_O))
    return torch.cat(sent)


def both_losses(problem: Problem) -> tuple[Tensor, Tensor]:
    """By head the loss without its edge to the logits: by its share, and by what it sends before the norm."""
    model, losses, rows = problem.store.network(), losses_for(problem), rows_of(problem)[0]
    assert isinstance(model, Model)
    clean = run_senders(model, problem.clean)
    heads = [place for place, node in enumerate(problem.graph.senders) if node.kind == "head"]
    shares = (sender_outputs(model, clean) - sender_outputs(model, problem.corrupted))[heads]
    raw = before_norm(model, clean) - before_norm(model, problem.corrupted)
    one, other = (losses(gather_items(clean.final - gone, rows)) for gone in (shares, raw))
    return one, other


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    with torch.no_grad():
        pairs = [both_losses(random_problem(seed)) for seed in range(MODELS)]
    ranks = [spearman(share, raw) for share, raw in pairs]
    times = [float((raw / share).median()) for share, raw in pairs]
    report = {
        "models": MODELS,
        "ranks": {"median": statistics.median(ranks), "lowest": min(ranks), "highest": max(ranks)},
        "times": {"median": statistics.median(times), "lowest": min(times), "highest": max(times)},
    }
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
