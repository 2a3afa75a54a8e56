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

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS, Receiver
from pahq.engine.losses import finite, losses_for, rows_of
from pahq.engine.problem import Problem
from pahq.engine.suffix.budget import COMPOSITE_BYTES, sizes_for
from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.state import first_change
from pahq.model.attention import attend, attention, factor
from pahq.model.block import Part, add, cross, mlp_reads_heads, part_of, together
from pahq.model.forward import joined, mix, mlp, normalise, project
from pahq.model.layerweights import LayerWeights
from pahq.model.run import difference, run_senders, sender_outputs, streams
from pahq.precision.store import NO_FOCUS


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
    graph, whole = problem.graph, _Whole(problem)
    here: _Layer | None = None
    for receiver in reversed(graph.receivers):
        direct = graph.direct(receiver) if receiver.kind == "head" else None
        incoming = graph.incoming(receiver)
        chosen = [edge for edge in incoming if edge in wanted]
        if not chosen and direct not in wanted:
            continue
        if here is None or here.index != receiver.layer:
            here = _Layer(whole, receiver.layer)
        size = max(1, (rows or sizes_for(whole.loss.device).rows) // here.rows(receiver))
        for first in range(0, len(chosen), size):
            part = chosen[first : first + size]
            differences = whole.differences[[edge - incoming.start for edge in part]]
            yield part, here.without(receiver, differences) - whole.loss
        if direct is not None and direct in wanted:
            yield [direct], here.offline(receiver)[None] - whole.loss


class _Whole:
    """The clean run from the first position that can change, what senders' ablated outputs differ by, and losses."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config, network = problem, problem.store.config, problem.store.network()
        self.first = first_change(problem)
        run = run_senders(network, problem.clean)
        self._reads = streams(network, run)
        self.clean, ablated = run.since(self.first), problem.corrupted.since(self.first)
        self.differences = sender_outputs(network, difference(ablated, self.clean))
        self._losses, self._rows = losses_for(problem), rows_of(problem)[0]
        self._earlier: dict[tuple[int, str], Tensor] = {}
        self.loss = self.losses(self.clean.final[None])[0]

    def read(self, kind: str, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """What a layer's part of a kind reads in the clean run."""
        return self._reads[kind == "mlp"][layer][:, self.first :]

    def kept(self, layer: int) -> slice:
        """The positions at which anything behind the layer's keys and values matters (layer -1: the logits)."""
        last = layer in (-1, self.config.layers - 1) and self.problem.prompts.last_only
        return slice(-1, None) if last else slice(None)

    def weights(self, layer: int) -> LayerWeights:
        return self.problem.store.layer(layer, NO_FOCUS)

    def project(self, layer: int, letter: str, x: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Projections of inputs whose last position is the last one."""
        first = self.first + self.clean.final.shape[1] - x.shape[-2]
        return project(self.config, self.weights(layer), letter, x, first=first, rows=rows)

    def earlier(self, layer: int, letter: str) -> Float[Tensor, "letter_head batch pos d_head"]:
        """Keys or values at the positions before the first that can change."""
        if (layer, letter) not in self._earlier:
            stream = self._reads[0][layer][:, : self.first]
            self._earlier[layer, letter] = project(self.config, self.weights(layer), letter, stream[None])
        return self._earlier[layer, letter]

    def onward(self, stream: Float[Tensor, "trial batch pos d_model"], layer: int) -> Float[Tensor, " trial"]:
        """Losses from the stream before a layer: the plain forward of what is left."""
        flat = stream.flatten(0, 1)
        for above in range(layer, self.config.layers):
            flat = self._layer(above, flat)
        return self.losses(flat.view(len(stream), -1, *flat.shape[1:]))

    def _layer(self, index: int, stream: Float[Tensor, "trial*batch pos d_model"]) -> Tensor:
        layer, kept = self.weights(index), self.kept(index)

        def advance(part: Part, read: Tensor, stream: Tensor) -> Tensor:
            heads = part.kind == "heads"
            output = self._heads(index, read, kept) if heads else mlp(self.config, layer, read[:, kept])
            return add(part, layer, stream[:, kept], output)

        levels = {0: stream}
        cross(self.config.parts, levels, advance)
        return levels[0]

    def _heads(self, index: int, read: Tensor, kept: slice) -> Float[Tensor, "head trial*batch pos d_head"]:
        config, q = self.config, self.project(index, "q", read[None, :, kept])
        plain = not config.qk_norm and not config.post_norms and config.score_cap is None
        linear = config.positions != "rotary" and plain and self.problem.store.products == "float32"
        if kept.start is not None and linear:
            return self._last_query(index, read, q[:, :, 0])[:, :, None]
        k, v = (self._with_earlier(index, letter, read) for letter in "kv")
        return mix(self.config, self.weights(index), q, k, v)

    def _last_query(
        self, index: int, read: Tensor, q: Float[Tensor, "head trial*batch d_head"]
    ) -> Float[Tensor, "head trial*batch d_head"]:
        """What one query a prompt gets from all positions, none of which is projected: where keys and values are linear
        in what is read, the query goes through W_K once, and what the pattern makes of the positions through W_V."""
        config, layer = self.config, self.weights(index)
        group = config.heads // config.kv_heads

        def by_head(values: Tensor) -> Tensor:
            return values.repeat_interleave(group, 0)

        values = normalise(config, read, layer.ln1_w, layer.ln1_b)
        last = self.first + read.shape[1]
        keys = values if layer.W_pos is None else values + layer.W_pos[self.first : last]
        asked = torch.bmm(q, by_head(layer.W_K).transpose(1, 2)).transpose(0, 1)  # [trial*batch, head, d_model]
        scores = torch.bmm(asked, keys.transpose(1, 2)) + torch.einsum("hrd,hd->rh", q, by_head(layer.b_K))[..., None]
        before = {letter: by_head(self.earlier(index, letter)) for letter in "kv"} if self.first else {}
        if before:
            prompts = q.reshape(len(q), -1, before["k"].shape[1], config.d_head)
            early = torch.einsum("htbd,hbpd->tbhp", prompts, before["k"]).flatten(0, 1)
            scores = torch.cat((early, scores), dim=-1)
        pattern = (scores / config.d_head**0.5).softmax(-1)
        late = pattern[..., self.first :]
        z = torch.bmm(torch.bmm(late, values).transpose(0, 1), by_head(layer.W_V))
        z += late.sum(-1).T[..., None] * by_head(layer.b_V)[:, None]
        if before:
            early = pattern[..., : self.first].reshape(-1, before["v"].shape[1], config.heads, self.first)
            z += torch.einsum("tbhp,hbpd->htbd", early, before["v"]).flatten(1, 2)
        return z

    def _with_earlier(self, index: int, letter: str, read: Tensor) -> Tensor:
        values = self.project(index, letter, read[None])
        if not self.first:
            return values
        before = self.earlier(index, letter)
        trials = values.shape[1] // before.shape[1]
        return torch.cat((before.repeat(1, trials, 1, 1), values), dim=-2)

    def losses(self, final: Float[Tensor, "trial batch pos d_model"]) -> Float[Tensor, " trial"]:
        """Losses of final streams, which hold all positions since the first that can change or the last one alone."""
        at = self._rows[:, 1] - self.first if final.shape[-2] > 1 else torch.zeros_like(self._rows[:, 1])
        return finite(self._losses, final[:, self._rows[:, 0], at])


class _Layer:
    """Trials at the receivers of one layer (past the last one: at the logits)."""

    def __init__(self, whole: _Whole, index: int) -> None:
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
            return whole.onward(self._after_heads + mlp(self._config, self._weights, x), self.index + 1)
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
        return stream + mlp(self._config, self._weights, stream) if self._config.d_mlp else stream

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
            return stream + mlp(config, weights, stream)
        product = kept.product(self.index, weights, lambda: self._after_heads, changes)
        return stream + kept.output(self.index, weights, product, stream)

    def _whole_length(self, letter: str, values: Tensor) -> Float[Tensor, "letter_head batch pos d_head"]:
        """Queries where they matter; keys and values of all positions."""
        if letter == "q":
            return values[:, :, self._kept]
        if not self._whole.first:
            return values
        return torch.cat((self._whole.earlier(self.index, letter), values), dim=-2)
