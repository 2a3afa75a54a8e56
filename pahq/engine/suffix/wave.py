"""One wave: many trials' changes carried from where they start down to the logits.

Only nodes that are alive and whose input changed are computed again; a changed sender adds (new - current) along its
present edges and nowhere else. The trials are an axis of every tensor ([..., trial, batch, pos, d]). Nothing is written
to the state until one trial is chosen. Which nodes those are, a plan says (``plans``); nodes of a layer that do the
same are computed in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.chosen import Chosen, pick
from pahq.engine.suffix.composites import Composites, mlp_output
from pahq.engine.suffix.inputs import project_together
from pahq.engine.suffix.mixing import Mix, mix_heads
from pahq.engine.suffix.needs import EVERYWHERE, at_need, overwrite, put_at_need
from pahq.engine.suffix.plans import Plan, Plans, Reading, Sending, Source, Step
from pahq.engine.suffix.state import State
from pahq.engine.suffix.sums import Sums
from pahq.model.attention import factor
from pahq.model.block import Kind, together
from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.rows import put, take

Mixed = tuple[tuple[int, ...], Float[Tensor, "head trial batch some d_head"]]  # heads of a layer, and their z


class Wave:
    """Collects what each trial would change. ``weights(l)`` gives the layer's weights under the current focus.

    Changes of outputs are kept (``Sums``; ``hold_bytes``: what they may take), and no receiver's new input: what a
    chosen trial needs of them is formed again, for that trial alone. ``together``: how many numbers of inputs are
    projected in one go.
    """

    def __init__(
        self,
        state: State,
        trials: int,
        weights: Callable[[int], LayerWeights],
        composites: Composites | None,
        plans: Plans,
        hold_bytes: int,
        together: int,
    ) -> None:
        self.state = state
        self._composites = composites
        self.trials = trials
        self.weights = cache(weights)
        self._plans, self._together = plans, together
        self._plan: Plan | None = None
        self._sums: Sums | None = None
        self._left = hold_bytes
        self._writes: list[Callable[[Chosen], None]] = []

    # ---- choosing a trial

    def write(self, action: Callable[[Chosen], None]) -> None:
        """Register what choosing a trial (by its index) does to the state; holds tensors, never the wave (a cycle)."""
        self._writes.append(action)

    def choose(self, trial: Chosen) -> None:
        """Make one trial the current state; which one, a tensor may say, so that another can be chosen the same way."""
        inputs = self.state.inputs
        chosen = self._changes.of_trial(trial) if self._plan else None
        for reading in self._plan.readings if self._plan else ():
            for part in reading.parts(self._at_once(reading.need, 1)):
                if any(map(inputs.grows, part.receivers)):
                    assert chosen is not None
                    gains = chosen.gain(part, None)
                    for receiver, gain in zip(part.receivers, gains.squeeze(1).unbind(), strict=True):
                        inputs.add(receiver, gain)
        for action in self._writes:
            action(trial)

    # ---- what changes

    def set_input(self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_model"]) -> None:
        """A new input of a receiver under test."""
        inputs = self.state.inputs
        self.write(lambda j: inputs.__setitem__(receiver, pick(values, j)))

    def set_projections(
        self, receivers: Sequence[Receiver], values: Float[Tensor, "receiver trial batch pos d_head"]
    ) -> None:
        """New projections of head inputs."""
        self.write(partial(_overwrite, self.state.projections, receivers, values))

    def start_heads(
        self,
        layer: int,
        fresh: Mapping[Receiver, Tensor],
        before: LayerWeights | None = None,
        *,
        touched: Bool[Tensor, "head trial 1 1 1"] | None = None,
    ) -> tuple[int, ...]:
        """The heads with which this wave starts, mixed anew from their ``fresh`` projections; which they are.

        ``before``: the weights that they were computed by so far, where W_O changes with them. ``touched``: in which
        trials each head of the layer changes at all (None: in every one), before a norm behind them.
        """
        mixes = self._plans.mixes(layer, tuple(fresh))
        if not mixes:
            return ()
        mixed, coupled = self._mixed(layer, mixes, fresh, before is not None, touched), self.state.graph.shape.coupled
        first = self.state.first_sender(layer)
        self._begin("heads", layer, tuple(tuple(first + head for head in heads) for heads, _ in mixed))
        assert self._plan is not None
        for i, ((heads, z), sending) in enumerate(zip(mixed, self._plan.start, strict=True)):
            self._send_heads(layer, heads, z, sending, None if coupled and i else before)
        return tuple(head for mix in mixes for head in mix.heads)

    def start_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"]) -> None:
        """The MLP with which this wave starts, from its new input."""
        self._begin("mlp", layer, (tuple(self.state.graph.outputs(Receiver("mlp", layer))),))
        assert self._plan is not None
        (sending,) = self._plan.start
        self._send_mlp(layer, x, sending)

    def _begin(self, kind: Kind, layer: int, start: tuple[Source, ...]) -> None:
        """Make a plan, and room for the changes."""
        self._plan = self._plans.of(kind, layer, start)
        room = {"hold_bytes": self._left, "start": self._together >> 4}
        self._sums = Sums(self.state, self._plan, self.trials, partial(_output, self.state, self.weights), **room)

    @property
    def _changes(self) -> Sums:
        assert self._sums is not None
        return self._sums

    def _mixed(
        self,
        layer: int,
        mixes: Sequence[Mix],
        fresh: Mapping[Receiver, Tensor],
        apart: bool = False,
        touched: Bool[Tensor, "head trial 1 1 1"] | None = None,
    ) -> list[Mixed]:
        """The z of all heads that change. ``apart``: those mixed anew, and then the others. ``touched``: see
        ``start_heads``.

        A norm behind the heads has one factor for all of them, so that every other head of the layer has a new output
        too.
        """
        mixed = [(mix.heads, mix_heads(self.state, layer, mix, fresh)) for mix in mixes]
        if touched is not None:
            place = self.state.raw[layer] if self.state.graph.shape.coupled else self.state.z[layer]
            for i, (mix, (heads, z)) in enumerate(zip(mixes, mixed, strict=True)):
                mixed[i] = heads, torch.where(take(touched, heads), z, at_need(take(place, heads), mix.need)[:, None])
        if not self.state.graph.shape.coupled or not mixed:
            return mixed
        z = self._coupled(layer, mixed)
        new, every = [head for heads, _ in mixed for head in heads], list(range(z.shape[0]))
        split = [new, [head for head in every if head not in new]] if apart else [every]
        return [(tuple(heads), take(z, heads)) for heads in split if heads]

    def _send_heads(
        self, layer: int, heads: tuple[int, ...], z: Tensor, sending: Sending, before: LayerWeights | None = None
    ) -> None:
        """New z of heads, from which their changes follow; ``before``: see ``start_heads``."""
        place, weights = self.state.z[layer], self.weights(layer)
        old = at_need(take(place, heads), sending.need)[:, None]
        rows = self._outputs_of(layer, heads)
        self.write(partial(_put, place, heads, z))
        if before is not None:
            was = before.behind(_outputs(old, before.sending(heads)))
            self._changes.note(sending, None, weights.behind(_outputs(z, rows)) - was)
            return
        moved, out = z - old, self._changes.place(sending)
        if out is not None:
            torch.bmm(moved.flatten(1, -2), rows, out=out.flatten(1, -2))
            if weights.ln1_post is not None:
                out.mul_(weights.ln1_post)
        self._changes.note(sending, moved, out)

    def _outputs_of(self, layer: int, heads: tuple[int, ...]) -> Float[Tensor, "head d_head d_model"]:
        """W_O of some heads."""
        weights = self.weights(layer)
        if isinstance(weights, PlainLayer) and not weights.exact:
            return self.state.gathered(("o", layer, heads), lambda: weights.sending(heads), weights)
        return weights.sending(heads)

    def _coupled(self, layer: int, mixed: Sequence[Mixed]) -> Float[Tensor, "head trial batch some d_head"]:
        """The z of all heads of a layer, with the new factor of the norm behind them."""
        raw, weights = self.state.raw[layer], self.weights(layer)
        new = raw[:, None].expand(-1, self.trials, *raw.shape[1:]).clone()
        total = self.current_sum(layer)[None]
        for heads, z in mixed:
            put(new, heads, z)
            change, rows = z - take(raw, heads)[:, None], weights.sending(heads)
            total = total + change.movedim(0, -2).flatten(-2) @ rows.flatten(0, 1)
            self.write(partial(_put, raw, heads, z))
        return new * factor(self.state.config, total)

    def current_sum(self, layer: int) -> Float[Tensor, "batch some d_model"]:
        """What the layer's heads send together now, before the norm behind them."""
        return together(self.weights(layer), self.state.raw[layer])

    def _send_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"], sending: Sending) -> None:
        """An MLP's new input."""
        self._set_mlp(layer, mlp_output(self.state.config, self.weights(layer), x), sending)

    def _set_mlp(self, layer: int, output: Float[Tensor, "trial batch pos d_model"], sending: Sending) -> None:
        place = at_need(self.state.mlp[layer], sending.need)
        out = self._changes.place(sending)
        change = output - place if out is None else torch.sub(output, place, out=out[0])
        self._changes.note(sending, None, change[None])
        self.write(partial(_add, place, change))

    @property
    def recordable(self) -> bool:
        """Whether all that this wave did would be done again with other numbers, once its inputs are pinned."""
        return self._sums is None or self._sums.stacked

    @property
    def receivers(self) -> list[Receiver]:
        """All whose inputs changed on the way."""
        return [receiver for reading in (self._plan.readings if self._plan else ()) for receiver in reading.receivers]

    # ---- the way down to the logits

    def run(self) -> Float[Tensor, "trial batch pos d_model"] | None:
        """Carry the changes on through all that they may reach.

        Returns the final residual stream where the metric needs it, or None if no change arrives there.
        """
        if self._plan is None:
            return None
        for step in self._plan.steps:
            if step.kind == "heads":
                self._heads(step)
            else:
                self._mlp(step)
        final = self._plan.final
        if final is None:
            return None
        stream = self._changes.gain(final, self._inputs(final))
        return stream.squeeze(0)

    def _inputs(self, reading: Reading) -> Float[Tensor, "receiver 1 batch some d_model"]:
        inputs = [self.state.inputs[receiver] for receiver in reading.receivers]
        return (inputs[0][None] if len(inputs) == 1 else torch.stack(inputs))[:, None]

    def _heads(self, step: Step) -> None:
        fresh: dict[Receiver, Tensor] = {}
        for reading in step.readings:
            for part in reading.parts(self._at_once(reading.need, self.trials)):
                values = self.projections(part.receivers, self._changes.gain(part, self._inputs(part)))
                self.set_projections(part.receivers, values)
                fresh.update(zip(part.receivers, values.unbind(), strict=True))
        mixed = self._mixed(step.layer, step.mixes, fresh)
        for (heads, z), sending in zip(mixed, step.sendings, strict=True):
            self._send_heads(step.layer, heads, z, sending)

    def _at_once(self, need: int, trials: int) -> int:
        """How many receivers' inputs are formed in one go."""
        rows = trials * self.state.batch * (self.state.length if need == EVERYWHERE else 1)
        return max(1, self._together // (rows * self.state.config.d_model))

    def projections(
        self, receivers: Sequence[Receiver], x: Float[Tensor, "receiver trial batch pos d_model"]
    ) -> Float[Tensor, "receiver trial batch pos d_head"]:
        """What inputs of one layer and need, letter by letter, project from their new values."""
        first, *_ = receivers
        return project_together(self.state, receivers, self.weights(first.layer), x)

    def _mlp(self, step: Step) -> None:
        layer, weights, kept = step.layer, self.weights(step.layer), self._composites
        (reading,), (sending,) = step.readings, step.sendings
        x, heads = self._changes.gain(reading, self._inputs(reading))[0], None
        if kept is not None:
            heads = self._changes.by_heads(reading, lambda many: kept.worthwhile(layer, many, x[0]))
        if kept is None or heads is None:
            self._send_mlp(layer, x, sending)
            if kept is not None:
                self.write(lambda j: kept.stale(layer))
            return
        product = kept.product(layer, weights, lambda: self.state.inputs[Receiver("mlp", layer)], heads)
        self._set_mlp(layer, kept.output(layer, weights, product, x), sending)
        self.write(lambda j: kept.keep(layer, pick(product, j).clone()))

    def heads_into_logits(self, worthwhile: Callable[[Sequence[int]], bool]) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of every head that changed the logits' input; see ``Sums.by_heads``."""
        final = None if self._plan is None else self._plan.final
        return None if final is None else self._changes.by_heads(final, worthwhile)


def _output(state: State, weights: Callable[[int], LayerWeights], sender: int) -> Float[Tensor, "d_head d_model"]:
    """A head's W_O."""
    node = state.graph.senders[sender]
    return weights(node.layer).output(node.head)


def _outputs(
    z: Float[Tensor, "head trial batch some d_head"], rows: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head trial batch some d_model"]:
    return torch.bmm(z.flatten(1, -2), rows).view(*z.shape[:-1], rows.shape[-1])


def _add(place: Tensor, change: Tensor, trial: Chosen) -> None:
    place.add_(pick(change, trial))


def _put(place: Tensor, heads: Sequence[int], z: Tensor, trial: Chosen) -> None:
    put_at_need(place, heads, pick(z.transpose(0, 1), trial))


def _overwrite(places: dict[Receiver, Tensor], receivers: Sequence[Receiver], values: Tensor, trial: Chosen) -> None:
    for receiver, value in zip(receivers, pick(values.transpose(0, 1), trial).unbind(), strict=True):
        overwrite(places[receiver], value)
