"""The logits of a circuit: the patched forward, node by node.

The input of a receiver is the ablated run's residual stream there, plus, over its present edges, what the sender
computes in this very forward minus what it has in the ablated run. An input whose Direct edge is absent projects the
ablated stream instead; of a head in focus in full precision, so that no change of precision hangs on that edge.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from support.numpy_oracle import network
from support.numpy_oracle.graph import edges, head_of, receivers, upstream
from support.numpy_oracle.network import Facts, Weights

Focus = frozenset[tuple[int, int]]  # (layer, key-value head)
NONE: Focus = frozenset()


class Network:
    """Weights in two precisions (``full`` and ``low``), clean prompts, and the run that absent edges carry.

    ``ablation``: corrupted (the corrupted prompts' run), zero (a run with every sender at zero), mean (one with every
    sender at its mean over the corrupted prompts, position by position). That run is in low precision throughout.
    ``order`` permutes the positions of the corrupted prompts.
    """

    def __init__(
        self,
        facts: Facts,
        full: Weights,
        low: Weights,
        clean: np.ndarray,
        corrupted: np.ndarray,
        *,
        ablation: str = "corrupted",
        order: np.ndarray | None = None,
    ) -> None:
        self.facts, self.full, self.low = facts, full, low
        self.edges = edges(facts)
        self._incoming = {r: [(s, f"{s}->{r}") for s in upstream(facts, r)] for r in receivers(facts)}
        self._clean = network.embeddings(facts, low, clean)
        ran = plain_run(facts, low, network.embeddings(facts, low, corrupted, order))
        changes = {"corrupted": lambda x: x, "zero": np.zeros_like, "mean": _mean}
        self._ablated = {sender: changes[ablation](value) for sender, value in ran.items()}
        self._streams = {r: residual(facts, low, self._ablated, r) for r in receivers(facts)}
        reference = plain_run(facts, full, network.embeddings(facts, full, clean))
        self.clean_logits = network.logits(facts, full, residual(facts, full, reference, "logits"))

    def logits(self, present: Set[str], focus: Focus = NONE) -> np.ndarray:
        """[batch, pos, vocab] with the edges ``present``; the heads of ``focus`` in full precision."""
        facts = self.facts
        online = dict(self._clean)

        def stream(receiver: str) -> np.ndarray:
            x = self._streams[receiver]
            for sender, edge in self._incoming[receiver]:
                if edge in present:
                    x = x + (online[sender] - self._ablated[sender])
            return x

        for layer in range(facts.layers):
            projected = {}
            for letter in "qkv":
                for index in range(facts.count(letter)):
                    name = f"a{layer}.h{index}<{letter}>"
                    group = facts.group(index) if letter == "q" else index
                    weights = self.full if (layer, group) in focus else self.low
                    absent = facts.direct and name not in present
                    x = self._streams[name] if absent else stream(name)
                    projected[letter, index] = network.projection(facts, weights, layer, letter, index, x)
            sent = []
            projected = network.joined(facts, self.low, layer, projected)
            for head in range(facts.heads):
                group = facts.group(head)
                weights = self.full if (layer, group) in focus else self.low
                q, k, v = projected["q", head], projected["k", group], projected["v", group]
                sent.append(network.head(facts, weights, layer, head, q, k, v))
            for head, output in enumerate(network.shares(facts, self.low, layer, sent)):
                online[f"a{layer}.h{head}"] = output
            if facts.mlp:
                online[f"m{layer}"] = network.mlp(facts, self.low, layer, stream(f"m{layer}"))
        return network.logits(facts, self.low, stream("logits"))


def plain_run(facts: Facts, w: Weights, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every sender's output in an ordinary forward pass."""
    out = dict(start)
    for layer in range(facts.layers):
        x = residual(facts, w, out, f"a{layer}.h0<q>")
        sent, every = [], [(letter, index) for letter in "qkv" for index in range(facts.count(letter))]
        projected = {at: network.projection(facts, w, layer, *at, x) for at in every}
        projected = network.joined(facts, w, layer, projected)
        for head in range(facts.heads):
            group = facts.group(head)
            parts = (projected[at] for at in (("q", head), ("k", group), ("v", group)))
            sent.append(network.head(facts, w, layer, head, *parts))
        out |= {f"a{layer}.h{head}": x for head, x in enumerate(network.shares(facts, w, layer, sent))}
        if facts.mlp:
            out[f"m{layer}"] = network.mlp(facts, w, layer, residual(facts, w, out, f"m{layer}"))
    return out


def residual(facts: Facts, w: Weights, outputs: dict[str, np.ndarray], receiver: str) -> np.ndarray:
    """The whole residual stream at a receiver: all senders upstream, and the b_O of all attention before it."""
    at = head_of(receiver)
    before = at[0] if at else facts.layers if receiver == "logits" else int(receiver[1:]) + (not facts.parallel)
    bias = sum(w[f"blocks.{layer}.attn.b_O"] for layer in range(before))
    return sum(outputs[sender] for sender in upstream(facts, receiver)) + bias


def _mean(x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x.mean(axis=0, keepdims=True), x.shape)
