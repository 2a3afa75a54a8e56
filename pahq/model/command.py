"""What a model is, in words, and its logits beside transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pahq.circuits.graph import build_graph
from pahq.errors import PahqError

if TYPE_CHECKING:
    from pahq.model.weights import Model, ModelConfig

WORST = 1e-4  # of a logit in float32


@dataclass(frozen=True)
class Compared:
    """Logits of a model beside transformers' own, on ``prompts`` of ``length`` tokens; ``worst``: difference of one."""

    prompts: int
    length: int
    worst: float

    @property
    def agrees(self) -> bool:
        return self.worst <= WORST

    def __str__(self) -> str:
        words = "agrees" if self.agrees else f"DISAGREES by more than {WORST:g}"
        return f"{self.prompts} prompts of {self.length} tokens, worst difference of a logit {self.worst:.2g}: {words}"


def numbers(model: Model) -> dict[str, int]:
    """How many parameters and edges a model has."""
    graph = build_graph(model.config.shape(), direct_edges=True)
    parameters = sum(tensor.numel() for tensor in model.tensors().values())
    return {"parameters": parameters, "edges": graph.n_addition, "direct_edges": graph.n_direct}


def facts(model: Model, name: str) -> Iterator[tuple[str, str]]:
    """What a model is, a line a fact."""
    config = model.config
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
    yield "stream", f"{config.d_model:,} wide, norm {norm}{_places(config)}"
    if config.score_cap is not None or config.logit_cap is not None:
        caps = {"attention scores": config.score_cap, "logits": config.logit_cap}
        yield "soft caps", ", ".join(f"{what} at {cap:g}" for what, cap in caps.items() if cap is not None)
    yield "positions", f"{', '.join(_positions(config))}, at most {config.context:,} tokens"
    if config.window is not None:
        yield "window", f"attention slides over {config.window:,} tokens: longer prompts are refused"
    tied = ", tied" if config.tied_embedding else ""
    yield "vocabulary", f"{config.d_vocab:,} tokens in, {config.d_vocab_out:,} out{tied}"
    yield "parameters", f"{numbers(model)['parameters']:,} in {str(model.W_E.dtype).removeprefix('torch.')}"
    graph = build_graph(config.shape(), direct_edges=True)
    nodes = f"{len(graph.senders):,} senders and {len(graph.receivers):,} receivers"
    yield "edges", f"{graph.n_addition:,}, and {graph.n_direct:,} Direct ones, between {nodes}"
    yield "sha256", model.digest


def _places(config: ModelConfig) -> str:
    """Where norms stand, if not in front of attention and MLP alone."""
    words = ""
    if config.post_norms:
        words = " in front of and behind attention and MLP" if config.pre_norms else " behind attention and MLP"
    if config.qk_joint:
        return f"{words}, one norm of all queries and one of all keys"
    return f"{words}, norms of queries and keys" if config.qk_norm else words


def _positions(config: ModelConfig) -> Iterator[str]:
    """How a model tells positions apart, in words."""
    partly = f" ({config.rotary_dim} of a head's {config.d_head} numbers)" if config.rotary_dim is not None else ""
    yield config.positions + partly
    if config.positions == "rotary":
        yield f"base {config.rotary_base:g}"
    if config.local_layers:
        layers = ", ".join(map(str, config.local_layers))
        yield f"base {config.local_base:g} in layer{'s' * (len(config.local_layers) > 1)} {layers}"
    scaling = config.rotary_scaling
    if scaling is not None:
        original = f" from {scaling.original:,} tokens" if scaling.original is not None else ""
        yield f"{scaling.kind} scaling by {scaling.factor:g}{original}"


def compared(model: Model, name: str, revision: str | None) -> Compared:
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
    return Compared(len(tokens), length, float((ours - theirs).abs().max()))
