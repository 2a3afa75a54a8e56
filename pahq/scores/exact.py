"""Exact scores: the loss with one edge taken from the whole graph, less the loss of the whole graph.

The reference engine measures that by one patched forward an edge (``pahq.engine.reference``, the slow twin), and the
suffix engine by what is behind the edge, each receiver by its own sum, since a search takes edges away. Here none is
gone but one, which makes it cheaper still:

- All senders have their clean values, so that the receiver's new input is its clean one plus what the sender's ablated
  output differs by. Nothing before it is computed.
- All heads of a layer above read one and the same stream, so that what follows is the plain forward of these layers,
  many edges at a time as so many more prompts.
- As in the suffix engine, positions before the first that can change stay as they are, of the last layer a metric at
  the last position needs that one alone, and an MLP right above a head gets its change by W_O W_in, d_head wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS, Receiver
from pahq.engine.problem import Problem
from pahq.engine.suffix.budget import COMPOSITE_BYTES, CPU
from pahq.engine.suffix.composites import Composites, mlp_output
from pahq.model.attention import attend, attention, factor
from pahq.model.block import add, mlp_reads_heads, part_of, together
from pahq.model.forward import joined, mix
from pahq.scores.whole import Whole

ROWS_ON_CARD = 1 << 13  # of the residual stream: no ceiling holds what is formed of them


def exact_scores(
    problem: Problem,
    *,
    edges: Iterable[int] | None = None,
    rows: int | None = None,
    report: Callable[[int], object] = lambda scored: None,
) -> Float[Tensor, " edge"]:
    """The score of every edge of the problem's graph, in float64; nought for all but ``edges``, if given.

    ``rows`` of the residual stream are computed together at most (None: what suits the device), one edge's at least.
    ``report`` is told how many more edges are scored. Memory: every sender's clean and ablated output, and those rows.
    """
    graph = problem.graph
    found = torch.zeros(len(graph.edges), dtype=torch.float64, device=problem.corrupted.final.device)
    with torch.inference_mode():
        wanted = set(range(len(graph.edges)) if edges is None else edges)
        for at, scores in _by_receiver(problem, wanted, rows):
            found[at] = scores
            report(len(at))
    return found


def _by_receiver(problem: Problem, wanted: set[int], rows: int | None) -> Iterator[tuple[list[int], Tensor]]:
    """Edges into one receiver, a part of them at a time, and their scores; from the logits down."""
    graph, whole = problem.graph, Whole(problem)
    here: _Layer | None = None
    for receiver in reversed(graph.receivers):
        direct = graph.direct(receiver) if receiver.kind == "head" else None
        incoming = graph.incoming(receiver)
        chosen = [edge for edge in incoming if edge in wanted]
        if not chosen and direct not in wanted:
            continue
        if here is None or here.index != receiver.layer:
            here = _Layer(whole, receiver.layer)
        size = max(1, (rows or (ROWS_ON_CARD if whole.loss.is_cuda else CPU.rows)) // here.rows(receiver))
        for first in range(0, len(chosen), size):
            part = chosen[first : first + size]
            differences = whole.differences[[edge - incoming.start for edge in part]]
            yield part, here.without(receiver, differences) - whole.loss
        if direct is not None and direct in wanted:
            yield [direct], here.offline(receiver)[None] - whole.loss


class _Layer:
    """Trials at the receivers of one layer (past the last one: at the logits)."""

    def __init__(self, whole: Whole, index: int) -> None:
        self.index, self._whole, self._config = index, whole, whole.config
        self._graph = whole.problem.graph
        self._kept = whole.kept(index)
        if index < 0:
            return
        self._weights = whole.weights(index)
        heads = part_of(self._config.parts, "heads")
        stream = add(heads, self._weights, whole.read("heads", index), whole.clean.z[index])
        self._after_heads = stream[:, self._kept]
        capacity = COMPOSITE_BYTES if whole.problem.store.products == "float32" else 0
        self._composites = Composites(self._config, capacity_bytes=capacity)
        clean = {letter: whole.project(index, letter, whole.read("heads", index)[None]) for letter in LETTERS}
        self._clean = {letter: self._whole_length(letter, values) for letter, values in clean.items()}
        self._together: Tensor | None = None  # the heads' sum, where a norm stands behind them
        if self._config.post_norms:
            q, k = joined(self._config, self._weights, self._clean["q"], self._clean["k"])
            self._raw = attend(self._config, q, k, self._clean["v"])
            self._together = together(self._weights, self._raw)

    def rows(self, receiver: Receiver) -> int:
        """Rows of the residual stream that one trial takes at its widest."""
        batch, length = self._whole.clean.final.shape[:2]
        return batch * (1 if self._kept.start is not None and receiver.letter not in ("k", "v") else length)

    def without(
        self, receiver: Receiver, differences: Float[Tensor, "trial batch pos d_model"]
    ) -> Float[Tensor, " trial"]:
        """Losses with each of these senders' ablated outputs in place of its clean one at the receiver."""
        whole = self._whole
        if receiver.kind == "logits":
            return whole.losses(whole.clean.final[:, self._kept] + differences[:, :, self._kept])
        if receiver.kind == "mlp":
            x = whole.read("mlp", self.index)[:, self._kept] + differences[:, :, self._kept]
            return whole.onward(self._after_heads + mlp_output(self._config, self._weights, x), self.index + 1)
        kept = self._kept if receiver.letter == "q" else slice(None)
        x = whole.read("heads", self.index)[:, kept] + differences[:, :, kept]
        values = whole.project(self.index, receiver.letter, x.flatten(0, 1)[None], [receiver.head])[0]
        return self._projecting(receiver, values.view(*x.shape[:3], -1))

    def offline(self, receiver: Receiver) -> Float[Tensor, ""]:
        """The loss without a head's Direct edge: it projects its ablated value."""
        projections = self._whole.problem.corrupted_projections[self.index][receiver.letter]
        kept = self._kept if receiver.letter == "q" else slice(None)
        values = projections[receiver.head, None, :, self._whole.first :]
        return self._projecting(receiver, values[:, :, kept])[0]

    def _projecting(
        self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_head"]
    ) -> Float[Tensor, " trial"]:
        """Losses with other projections of one head's input."""
        letter, index = receiver.letter, self.index
        if letter != "q" and self._whole.first:
            earlier = self._whole.earlier(index, letter)[receiver.head]
            values = torch.cat((earlier.expand(len(values), *earlier.shape), values), dim=-2)
        group, first = self._config.heads // self._config.kv_heads, self._graph.head_senders(index).start
        if self._config.qk_joint:
            return self._all_projecting(receiver, values)
        changes: dict[int, tuple[Tensor, Tensor]] = {}
        stream, total = self._after_heads, self._together
        for head in self._graph.shape.query_heads(letter, receiver.head):
            clean = {of: self._clean[of][head if of == "q" else head // group] for of in LETTERS}
            at = clean | {letter: values}
            z = attention(self._config, at["q"], at["k"], at["v"])
            if total is not None:
                total = total + (z - self._raw[head]) @ self._weights.sending((head,))[0]
                continue
            change = z - self._whole.clean.z[index][head][:, self._kept]
            changes[first + head] = change, self._weights.output(head)
            stream = stream + change @ self._weights.output(head)
        if total is not None:
            sent = self._weights.behind(total * factor(self._config, total))
            stream = self._whole.read("heads", index)[:, self._kept] + sent + self._weights.b_O
            return self._whole.onward(self._behind_mlp(stream), index + 1)
        return self._whole.onward(self._behind_heads(stream, changes), index + 1)

    def _all_projecting(
        self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_head"]
    ) -> Float[Tensor, " trial"]:
        """The same where one norm is over the queries, or keys, of all heads."""
        at = {}
        for letter, clean in self._clean.items():
            whole = clean[:, None].repeat(1, len(values), 1, 1, 1)
            if letter == receiver.letter:
                whole[receiver.head] = values
            at[letter] = whole.flatten(1, 2)
        z = mix(self._config, self._weights, at["q"], at["k"], at["v"])
        sent = self._weights.behind(together(self._weights, z)).view(len(values), *self._after_heads.shape)
        stream = self._whole.read("heads", self.index)[:, self._kept] + sent + self._weights.b_O
        return self._whole.onward(self._behind_mlp(stream), self.index + 1)

    def _behind_mlp(self, stream: Float[Tensor, "trial batch pos d_model"]) -> Float[Tensor, "trial batch pos d_model"]:
        """The stream behind a serial layer, from that behind its heads."""
        return stream + mlp_output(self._config, self._weights, stream) if self._config.d_mlp else stream

    def _behind_heads(
        self, stream: Float[Tensor, "trial batch pos d_model"], changes: dict[int, tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "trial batch pos d_model"]:
        """The stream behind the layer, from that behind its heads and what changed in their z."""
        config, weights, kept = self._config, self._weights, self._composites
        if not config.d_mlp:
            return stream
        if not mlp_reads_heads(config.parts):
            return stream + self._whole.clean.mlp[self.index][:, self._kept]
        if not kept.worthwhile(self.index, list(changes), stream[0]):
            return stream + mlp_output(config, weights, stream)
        product = kept.product(self.index, weights, lambda: self._after_heads, changes)
        return stream + kept.output(self.index, weights, product, stream)

    def _whole_length(self, letter: str, values: Tensor) -> Float[Tensor, "letter_head batch pos d_head"]:
        """Queries where they matter; keys and values of all positions."""
        if letter == "q":
            return values[:, :, self._kept]
        if not self._whole.first:
            return values
        return torch.cat((self._whole.earlier(self.index, letter), values), dim=-2)
