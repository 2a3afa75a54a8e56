"""``pahq models NAME``: load a model and say what it is; ``--check`` holds it against transformers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pahq.circuits.graph import build_graph
from pahq.config.arguments import Arguments
from pahq.errors import PahqError

if TYPE_CHECKING:
    from pahq.model.weights import Model, ModelConfig

WORST = 1e-4  # of a logit in float32


def main(argv: Sequence[str]) -> int:
    """``NAME [--out FILE] [--check]``. 0, or 1 if logits are not transformers' own; PahqError for bad input."""
    parser = Arguments(prog="pahq models", description="load a model; say what it is, or write it to a file")
    parser.add_argument("name", metavar="NAME", help="embedded model, folder, or hub name with --revision")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write name, digest and shape there as JSON instead")
    parser.add_argument("--revision", metavar="COMMIT", help="of a hub name")
    parser.add_argument(
        "--check", action="store_true", help=f"compare logits with transformers' own; exit 1 beyond {WORST:g}"
    )
    options = parser.parse_args(argv)
    from pahq.files.text import write_json
    from pahq.model import load_model

    model = load_model(options.name, revision=options.revision)
    if options.out is not None:
        config = model.config.model_dump(mode="json")
        write_json(options.out, {"name": options.name, "digest": model.digest, "config": config})
    else:
        sys.stdout.write("".join(f"{name:<12} {value}\n" for name, value in facts(model, options.name)))
    return _compared(model, options.name, options.revision) if options.check else 0


def facts(model: Model, name: str) -> Iterator[tuple[str, str]]:
    """What a model is, a line a fact."""
    config = model.config
    numbers = sum(tensor.numel() for tensor in model.tensors().values())
    heads = f"{config.heads} heads"
    if config.kv_heads != config.heads:
        heads = f"{config.heads} query heads on {config.kv_heads} key-value head{'s' if config.kv_heads > 1 else ''}"
    mlp = f"MLPs of {config.d_mlp:,} ({'gated ' if config.gated else ''}{config.activation})"
    norm = {"layer": "LayerNorm", "rms": "RMSNorm", "none": "none"}[config.norm]
    yield "name", name
    if config.family is not None:
        yield "family", config.family
    yield (
        "layers",
        f"{config.layers}, {config.block} blocks: {heads} of {config.d_head}, {mlp if config.d_mlp else 'no MLPs'}",
    )
    yield "stream", f"{config.d_model:,} wide, norm {norm}{', norms of queries and keys' if config.qk_norm else ''}"
    yield "positions", f"{', '.join(_positions(config))}, at most {config.context:,} tokens"
    if config.window is not None:
        yield "window", f"attention slides over {config.window:,} tokens: longer prompts are refused"
    tied = ", tied" if config.tied_embedding else ""
    yield "vocabulary", f"{config.d_vocab:,} tokens in, {config.d_vocab_out:,} out{tied}"
    yield "parameters", f"{numbers:,} in {str(model.W_E.dtype).removeprefix('torch.')}"
    graph = build_graph(config.shape(), direct_edges=True)
    nodes = f"{len(graph.senders):,} senders and {len(graph.receivers):,} receivers"
    yield "edges", f"{graph.n_addition:,}, and {graph.n_direct:,} Direct ones, between {nodes}"
    yield "sha256", model.digest


def _positions(config: ModelConfig) -> Iterator[str]:
    """How a model tells positions apart, in words."""
    partly = f" ({config.rotary_dim} of a head's {config.d_head} numbers)" if config.rotary_dim is not None else ""
    yield config.positions + partly
    if config.positions == "rotary":
        yield f"base {config.rotary_base:g}"
    scaling = config.rotary_scaling
    if scaling is not None:
        original = f" from {scaling.original:,} tokens" if scaling.original is not None else ""
        yield f"{scaling.kind} scaling by {scaling.factor:g}{original}"


def _compared(model: Model, name: str, revision: str | None) -> int:
    """Compare with what transformers computes from the same folder, on prompts drawn from a seed."""
    import torch

    from pahq.model.forward import final_stream, unembed
    from pahq.model.sources.find import resolve
    from pahq.model.sources.huggingface import transformers_logits

    found = resolve(name, revision)
    if found.kind != "huggingface":
        raise PahqError(f"--check is for folders in Hugging Face's format; {name} is none")
    length = min(model.config.reach, 24)
    tokens = torch.randint(model.config.d_vocab, (4, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = unembed(model, final_stream(model, tokens))
    theirs = transformers_logits(found.folder, tokens, ours.dtype)
    if ours.shape != theirs.shape:
        raise PahqError(
            f"transformers gives logits of shape {list(theirs.shape)}, and here they are {list(ours.shape)}"
        )
    worst = float((ours - theirs).abs().max())
    holds = worst <= WORST
    words = "agrees" if holds else f"DISAGREES by more than {WORST:g}"
    sys.stdout.write(f"check        4 prompts of {length} tokens, worst difference of a logit {worst:.2g}: {words}\n")
    return int(not holds)
