"""One wave: many trials' changes carried from where they start down to the logits.

Only nodes that are alive and whose input changed are computed again; a changed sender adds (new - current) along its
present edges and nowhere else. The trials are an axis of every tensor ([..., trial, batch, pos, d]). Nothing is written
to the state until one trial is chosen. Which nodes those are, a plan says (``plans``); nodes of a layer that do the
same are computed in one go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.composites import Composites, mlp_output
from pahq.engine.suffix.inputs import project_together
from pahq.engine.suffix.mixing import Mix, mix_heads
from pahq.engine.suffix.needs import EVERYWHERE, LAST, at_need, overwrite, put_at_need
from pahq.engine.suffix.plans import Plan, Plans, Reading, Sending, Source, Step
from pahq.engine.suffix.state import State
from pahq.model.attention import factor
from pahq.model.block import Kind, together
from pahq.model.layers import PlainLayer
from pahq.model.layerweights import LayerWeights
from pahq.model.rows import put, take

Mixed = tuple[tuple[int, ...], Float[Tensor, "head trial batch some d_head"]]  # heads of a layer, and their z
EVERY = slice(None)


@dataclass(frozen=True)
class Sent:
    """What senders of one layer changed, in every trial.

    ``z``: by how much heads' z changed; None for an MLP, and for heads whose W_O changed too, which z alone does not
    tell. ``change``: of the outputs, where there is no room for a stack of them and they do not follow from z.
    """

    senders: Source
    z: Float[Tensor, "sender trial batch some d_head"] | None
    change: Float[Tensor, "sender trial batch some d_model"] | None


class Wave:
    """Collects what each trial would change. ``weights(l)`` gives the layer's weights under the current focus.

    Changes of outputs lie in two stacks, those of all positions and those of the last one alone, so that a receiver's
    new input is one product of its present edges with a stack. Where ``hold_bytes`` do not allow that, a head's change
    is kept as z, d_head wide, and formed where it is read. No receiver's new input is kept: what a chosen trial needs
    of them is formed again, for that trial alone. ``together``: how many numbers of inputs are projected in one go.
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
        self._stacks: dict[int, Float[Tensor, "slot trial batch some d_model"]] | None = None  # by need
        self._sent: dict[int, tuple[Sent, int]] = {}  # by sender, with its place among those that changed with it
        self._copied = 0  # slots of all positions whose last one has been copied
        self._left = hold_bytes  # bytes that changes of outputs may take
        self._writes: list[Callable[[int], None]] = []

    # ---- choosing a trial

    def write(self, action: Callable[[int], None]) -> None:
        """Register what choosing a trial (by its index) does to the state; holds tensors, never the wave (a cycle)."""
        self._writes.append(action)

    def choose(self, trial: int) -> None:
        """Make one trial the current state."""
        inputs = self.state.inputs
        for reading in self._plan.readings if self._plan else ():
            for part in reading.parts(self._at_once(reading.need, 1)):
                if any(map(inputs.grows, part.receivers)):
                    gains = self._sum(part, None, slice(trial, trial + 1))
                    for receiver, gain in zip(part.receivers, gains, strict=True):
                        inputs.add(receiver, gain[0])
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
        self, layer: int, fresh: Mapping[Receiver, Tensor], before: LayerWeights | None = None
    ) -> tuple[int, ...]:
        """The heads with which this wave starts, mixed anew from their ``fresh`` projections; which they are.

        ``before``: the weights that they were computed by so far, where W_O changes with them.
        """
        mixes = self._plans.mixes(layer, tuple(fresh))
        if not mixes:
            return ()
        mixed, coupled = self._mixed(layer, mixes, fresh, apart=before is not None), self.state.graph.shape.coupled
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
        self._send_mlp(layer, x, self._plan.start[0])

    def _begin(self, kind: Kind, layer: int, start: tuple[Source, ...]) -> None:
        """Make a plan, and room for the changes."""
        plan, like, state = self._plans.of(kind, layer, start), self.state.clean_final, self.state
        shapes = {
            need: (len(slots), self.trials, state.batch, 1 if need == LAST else state.length, state.config.d_model)
            for need, slots in plan.slots.items()
        }
        if sum(map(math.prod, shapes.values())) * like.element_size() <= self._left:
            # slots of last positions that are not written yet are multiplied too, with nought, and must not be NaN
            made = {LAST: like.new_zeros if plan.slots[EVERYWHERE] else like.new_empty, EVERYWHERE: like.new_empty}
            self._stacks = {need: made[need](shape) for need, shape in shapes.items() if shape[0]}
        self._plan = plan

    def _mixed(
        self, layer: int, mixes: Sequence[Mix], fresh: Mapping[Receiver, Tensor], *, apart: bool = False
    ) -> list[Mixed]:
        """The z of all heads that change. ``apart``: those mixed anew, and then the others.

        A norm behind the heads has one factor for all of them, so that every other head of the layer has a new output
        too.
        """
        mixed = [(mix.heads, mix_heads(self.state, layer, mix, fresh)) for mix in mixes]
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
            was = before.behind(_outputs(old, before.rows("o", heads)))
            self._keep(sending, None, weights.behind(_outputs(z, rows)) - was)
            return
        moved = z - old
        if self._stacks is None:
            self._keep(sending, moved, None)
            return
        out = self._slots(sending)
        torch.bmm(moved.flatten(1, -2), rows, out=out.flatten(1, -2))
        if weights.ln1_post is not None:
            out.mul_(weights.ln1_post)
        self._keep(sending, moved, out)

    def _outputs_of(self, layer: int, heads: tuple[int, ...]) -> Float[Tensor, "head d_head d_model"]:
        """W_O of some heads."""
        weights = self.weights(layer)
        if isinstance(weights, PlainLayer) and not weights.exact:
            return self.state.gathered(("o", layer, heads), lambda: weights.rows("o", heads), weights)
        return weights.rows("o", heads)

    def _slots(self, sending: Sending) -> Float[Tensor, "sender trial batch some d_model"]:
        """The place of a source's changes in the stack at its need."""
        assert self._stacks is not None
        return self._stacks[sending.need][sending.slot : sending.slot + len(sending.senders)]

    def _keep(self, sending: Sending, z: Tensor | None, change: Tensor | None) -> None:
        """Note a source's change; into the stacks, unless it is there already."""
        stacked = self._stacks is not None
        sent = Sent(sending.senders, z, None if stacked else change)
        self._sent.update((sender, (sent, place)) for place, sender in enumerate(sending.senders))
        if self._stacks is not None:
            assert change is not None
            place = self._slots(sending)
            if place.data_ptr() != change.data_ptr():
                place.copy_(change)

    def _coupled(self, layer: int, mixed: Sequence[Mixed]) -> Float[Tensor, "head trial batch some d_head"]:
        """The z of all heads of a layer, with the new factor of the norm behind them."""
        raw, weights = self.state.raw[layer], self.weights(layer)
        new = raw[:, None].expand(-1, self.trials, *raw.shape[1:]).clone()
        total = together(weights, raw)[None]
        for heads, z in mixed:
            put(new, heads, z)
            change, rows = z - take(raw, heads)[:, None], weights.rows("o", heads)
            total = total + change.movedim(0, -2).flatten(-2) @ rows.flatten(0, 1)
            self.write(partial(_put, raw, heads, z))
        return new * factor(self.state.config, total)

    def _send_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"], sending: Sending) -> None:
        """An MLP's new input."""
        self._set_mlp(layer, mlp_output(self.state.config, self.weights(layer), x), sending)

    def _set_mlp(self, layer: int, output: Float[Tensor, "trial batch pos d_model"], sending: Sending) -> None:
        place = at_need(self.state.mlp[layer], sending.need)
        change = output - place if self._stacks is None else torch.sub(output, place, out=self._slots(sending)[0])
        self._keep(sending, None, change[None])
        self.write(partial(_add, place, change))

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
        return None if final is None else self._sum(final, self._inputs(final))[0]

    def _inputs(self, reading: Reading) -> Float[Tensor, "receiver 1 batch some d_model"]:
        inputs = [self.state.inputs[receiver] for receiver in reading.receivers]
        return (inputs[0][None] if len(inputs) == 1 else torch.stack(inputs))[:, None]

    def _sum(
        self, reading: Reading, current: Tensor | None, rows: slice = EVERY
    ) -> Float[Tensor, "receiver trial batch some d_model"]:
        """What receivers gain of all that changed, in the trials ``rows``, added to ``current``."""
        if self._stacks is None:
            return self._sum_one_by_one(reading, current, rows)
        if reading.copied > self._copied:  # last positions of what changed everywhere
            new = slice(self._copied, reading.copied)
            self._stacks[LAST][new] = self._stacks[EVERYWHERE][new, ..., -1:, :]
            self._copied = reading.copied
        stack, count, wanted = self._stacks[reading.need], len(reading.receivers), reading.wanted
        if rows is not EVERY:
            stack = stack[:, rows]
        numbers, span = math.prod(stack.shape[1:]), reading.matrix.shape[1]
        start = self._together >> 4  # what an operation takes to start, in numbers
        one_by_one = len(wanted) * (start + 3 * numbers) <= start + (span + 3) * numbers
        if current is not None and reading.alike and (len(wanted) == 1 or (count == 1 and one_by_one)):
            total = current + stack[wanted[0]]
            for slot in wanted[1:]:
                total += stack[slot]
            return total
        changes = stack[reading.first : reading.first + span]
        if current is not None and count == 1:
            trials = changes.shape[1]
            inner = reading.matrix.expand(trials, 1, span), changes.flatten(2).transpose(0, 1)
            return torch.baddbmm(current.flatten(2)[0].expand(trials, 1, -1), *inner).view(1, *changes.shape[1:])
        gain = (reading.matrix @ changes.flatten(1)).view(count, *changes.shape[1:])
        return gain if current is None else gain.add_(current)

    def _sum_one_by_one(
        self, reading: Reading, current: Tensor | None, rows: slice
    ) -> Float[Tensor, "receiver trial batch some d_model"]:
        """The same where there are no stacks: a sender after the other."""
        assert self._plan is not None
        total: Tensor | float = 0.0 if current is None else current
        for slot in reading.wanted:
            sender = self._plan.slots[reading.need][slot]
            sent, place = self._sent[sender]
            if sent.z is None:
                assert sent.change is not None
                change = at_need(sent.change[place, rows], reading.need)
            else:
                change = at_need(sent.z[place, rows], reading.need) @ self._output(sender)
            total = total + reading.matrix[:, slot - reading.first, None, None, None, None] * change
        assert isinstance(total, Tensor)
        return total

    def _heads(self, step: Step) -> None:
        fresh: dict[Receiver, Tensor] = {}
        for reading in step.readings:
            for part in reading.parts(self._at_once(reading.need, self.trials)):
                values = self.projections(part.receivers, self._sum(part, self._inputs(part)))
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
        return project_together(self.state, receivers, self.weights(receivers[0].layer), x)

    def _mlp(self, step: Step) -> None:
        layer, weights, kept = step.layer, self.weights(step.layer), self._composites
        (reading,), (sending,) = step.readings, step.sendings
        x = self._sum(reading, self._inputs(reading))[0]
        heads = None if kept is None else self._by_heads(reading, lambda many: kept.worthwhile(layer, many, x[0]))
        if kept is None or heads is None:
            self._send_mlp(layer, x, sending)
            if kept is not None:
                self.write(lambda j: kept.stale(layer))
            return
        product = kept.product(layer, weights, lambda: self.state.inputs[Receiver("mlp", layer)], heads)
        self._set_mlp(layer, kept.output(layer, weights, product, x), sending)
        self.write(lambda j: kept.keep(layer, pick(product, j).clone()))

    def heads_into_logits(self, worthwhile: Callable[[Sequence[int]], bool]) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of every head that changed the logits' input.

        None if anything else changed it, or if it isn't ``worthwhile`` for so many heads.
        """
        final = None if self._plan is None else self._plan.final
        return None if final is None else self._by_heads(final, worthwhile)

    def _by_heads(
        self, reading: Reading, worthwhile: Callable[[Sequence[int]], bool]
    ) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of all that one receiver reads, if that is heads alone."""
        assert self._plan is not None
        senders = [self._plan.slots[reading.need][slot] for slot in reading.wanted]
        found = {}
        for sender in senders if worthwhile(senders) else ():
            sent, place = self._sent[sender]
            if sent.z is None:
                return None
            found[sender] = at_need(sent.z[place], reading.need), self._output(sender)
        return found or None

    def _output(self, sender: int) -> Float[Tensor, "d_head d_model"]:
        node = self.state.graph.senders[sender]
        return self.weights(node.layer).output(node.head)


def _outputs(
    z: Float[Tensor, "head trial batch some d_head"], rows: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head trial batch some d_model"]:
    return torch.bmm(z.flatten(1, -2), rows).view(*z.shape[:-1], rows.shape[-1])


def _add(place: Tensor, change: Tensor, trial: int) -> None:
    place.add_(pick(change, trial))


def _put(place: Tensor, heads: Sequence[int], z: Tensor, trial: int) -> None:
    put_at_need(place, heads, pick(z.transpose(0, 1), trial))


def _overwrite(places: dict[Receiver, Tensor], receivers: Sequence[Receiver], values: Tensor, trial: int) -> None:
    for receiver, value in zip(receivers, pick(values.transpose(0, 1), trial), strict=True):
        overwrite(places[receiver], value)


def pick(values: Float[Tensor, "trial *rest"], trial: int) -> Float[Tensor, "*rest"]:
    """A trial's row of a tensor whose trial axis may be 1 (all trials agree)."""
    return values[trial if values.shape[0] > 1 else 0]
