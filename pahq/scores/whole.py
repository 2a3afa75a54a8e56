"""The whole graph from the first position that can change: its clean run, and the plain forward of changed streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import LETTERS
from pahq.engine.losses import finite, losses_for, rows_of
from pahq.engine.problem import Problem
from pahq.engine.suffix.budget import GATHERED_BYTES
from pahq.engine.suffix.composites import mlp_output
from pahq.engine.suffix.gathered import Gathered
from pahq.engine.suffix.state import first_change
from pahq.model.attention import attend_at_once, shares
from pahq.model.block import Part, add, cross
from pahq.model.forward import finish_projection, joined, normalise, project, read_through
from pahq.model.layers import PlainLayer, as_it_lies
from pahq.model.layerweights import LayerWeights
from pahq.model.run import difference, run_senders, sender_outputs, streams
from pahq.precision.store import NO_FOCUS


class Whole:
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
        self._gathered = Gathered(GATHERED_BYTES)
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
            if part.kind == "mlp":
                return mlp_output(self.config, layer, read[:, kept]).add_(stream[:, kept])
            return add(part, layer, stream[:, kept], self._heads(index, read, kept))

        levels = {0: stream}
        cross(self.config.parts, levels, advance)
        return levels[0]

    def _heads(self, index: int, read: Tensor, kept: slice) -> Float[Tensor, "head trial*batch pos d_head"]:
        config, layer = self.config, self.weights(index)
        plain = not config.qk_norm and not config.post_norms and config.score_cap is None
        linear = config.positions != "rotary" and plain and self.problem.store.products == "float32"
        if kept.start is not None and linear:
            q = self.project(index, "q", read[None, :, kept])
            return self._last_query(index, read, q[:, :, 0])[:, :, None]
        if kept.start is None and as_it_lies(layer):
            q, k, v = self._together(index, layer, read)
        else:
            q = self.project(index, "q", read[None, :, kept])
            k, v = (self.project(index, letter, read[None]) for letter in "kv")
        k, v = self._with_earlier(index, "k", k), self._with_earlier(index, "v", v)
        return shares(config, layer, attend_at_once(config, *joined(config, layer, q, k), v))

    def _together(
        self, index: int, layer: PlainLayer, read: Float[Tensor, "trial*batch pos d_model"]
    ) -> list[Float[Tensor, "letter_head trial*batch pos d_head"]]:
        """Queries, keys and values of all heads from one norm and one product."""
        config = self.config
        weight = self._gathered(("W", index), lambda: _side_by_side(layer))
        bias = self._gathered(("b", index), lambda: torch.cat([layer.bias(letter).flatten() for letter in LETTERS]))
        normed = read_through(config, read, layer.ln1_w, layer.ln1_b)
        out = torch.addmm(bias, normed.flatten(0, 1), weight).view(*read.shape[:-1], -1, config.d_head).movedim(-2, 0)
        parts = torch.split(out, [config.count(letter) for letter in LETTERS])
        if config.qk_joint:
            return list(parts)
        return [
            finish_projection(config, layer, letter, part, first=self.first)
            for letter, part in zip(LETTERS, parts, strict=True)
        ]

    def _last_query(
        self, index: int, read: Tensor, q: Float[Tensor, "head trial*batch d_head"]
    ) -> Float[Tensor, "head trial*batch d_head"]:
        """What one query a prompt gets from all positions, none of which is projected: where keys and values are linear
        in what is read, the query goes through W_K once, and what the pattern makes of the positions through W_V."""
        config, layer = self.config, self.weights(index)
        group = config.heads // config.kv_heads
        scale = config.d_head**-0.5 if config.attention_scale is None else config.attention_scale

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
        pattern = (scores * scale).softmax(-1)
        late = pattern[..., self.first :]
        z = torch.bmm(torch.bmm(late, values).transpose(0, 1), by_head(layer.W_V))
        z += late.sum(-1).T[..., None] * by_head(layer.b_V)[:, None]
        if before:
            early = pattern[..., : self.first].reshape(-1, before["v"].shape[1], config.heads, self.first)
            z += torch.einsum("tbhp,hbpd->htbd", early, before["v"]).flatten(1, 2)
        return z

    def _with_earlier(self, index: int, letter: str, values: Tensor) -> Tensor:
        """Keys or values with those before the first position that can change."""
        if not self.first:
            return values
        before = self.earlier(index, letter)
        trials = values.shape[1] // before.shape[1]
        return torch.cat((before.repeat(1, trials, 1, 1), values), dim=-2)

    def losses(self, final: Float[Tensor, "trial batch pos d_model"]) -> Float[Tensor, " trial"]:
        """Losses of final streams, which hold all positions since the first that can change or the last one alone."""
        at = self._rows[:, 1] - self.first if final.shape[-2] > 1 else torch.zeros_like(self._rows[:, 1])
        return finite(self._losses, final[:, self._rows[:, 0], at])


def _side_by_side(layer: PlainLayer) -> Float[Tensor, "d_model letter_head*d_head"]:
    """The weights of all queries, keys and values of a layer as one matrix."""
    return torch.cat([layer.weight(letter).permute(1, 0, 2).flatten(1) for letter in LETTERS], dim=1)
