"""One wave: many trials' changes carried from where they start down to the logits.

Only nodes that are alive and whose input changed are computed again; a changed sender adds (new - current) along its
present edges and nowhere else. The trials are the leading axis of every tensor ([trial, batch, pos, ...], or 1 where
all trials agree). Nothing is written to the state until one trial is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.state import EVERYWHERE, NOWHERE, State, at_need, overwrite
from pahq.model.attention import factor
from pahq.model.block import Kind, behind, together
from pahq.model.forward import mlp, project
from pahq.model.layerweights import LayerWeights

TOGETHER = 1024  # rows of inputs that are projected in one go; more gain no speed and take memory


class Wave:
    """Collects what each trial would change. ``weights(l)`` gives the layer's weights under the current focus.

    A head's change is kept as z, d_head wide, and as its output only while there are receivers above to read it and
    ``hold_bytes`` allow; no receiver's new input is kept. What a chosen trial needs of both is formed again, for that
    trial alone.
    """

    def __init__(
        self,
        state: State,
        trials: int,
        weights: Callable[[int], LayerWeights],
        composites: Composites | None,
        hold_bytes: int,
    ) -> None:
        self.state = state
        self._composites = composites
        self.trials = trials
        self.weights = weights
        self._z: dict[int, Float[Tensor, "trial batch pos d_head"]] = {}  # by head sender: new minus current z
        self._changes: dict[int, Float[Tensor, "trial batch pos d_model"]] = {}  # its output, if held
        self._changed: list[int] = []  # senders, in the order in which they changed
        self._left = hold_bytes  # bytes that heads' outputs may still take
        self._reached: list[Receiver] = []  # whose inputs follow when a trial is chosen
        self._final: Float[Tensor, "trial batch pos d_model"] | None = None  # what the final stream gains
        self._writes: list[Callable[[int], None]] = []

    def write(self, action: Callable[[int], None]) -> None:
        """Register what choosing a trial (by its index) does to the state; holds tensors, never the wave (a cycle)."""
        self._writes.append(action)

    def choose(self, trial: int) -> None:
        """Make one trial the current state."""
        reached = set(self._reached)
        for sender in self._changed:
            readers = [receiver for receiver in self.state.children[sender] if receiver in reached]
            if readers:
                change = self._change(sender, trial)
                for receiver in readers:
                    self.state.inputs.add(receiver, at_need(change, self.state.receiver_need(receiver)))
        for action in self._writes:
            action(trial)

    def _change(self, sender: int, trial: int) -> Float[Tensor, "batch pos d_model"]:
        held = self._changes.get(sender)
        return pick(self._z[sender], trial) @ self._output(sender) if held is None else pick(held, trial)

    def _changes_of(self, sender: int, need: int) -> Float[Tensor, "trial batch some d_model"]:
        """A sender's change of output at ``need``, in every trial."""
        held = self._changes.get(sender)
        return at_need(self._z[sender], need) @ self._output(sender) if held is None else at_need(held, need)

    def set_input(self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_model"]) -> None:
        """A new input of a receiver under test."""
        inputs = self.state.inputs
        self.write(lambda j: inputs.__setitem__(receiver, pick(values, j)))

    def set_projection(self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_head"]) -> None:
        place = self.state.projections[receiver]
        self.write(lambda j: overwrite(place, pick(values, j)))

    def set_head(
        self,
        layer: int,
        head: int,
        z: Float[Tensor, "trial batch pos d_head"],
        change: Float[Tensor, "trial batch pos d_model"] | None = None,
    ) -> None:
        """A head's new z. ``change`` of its output, where W_O changed too and z alone does not tell."""
        sender = self.state.first_sender(layer) + head
        place = self.state.z[layer][head]
        if change is None:
            self._z[sender] = z - at_need(place, self.state.need[sender])
            change = self._z[sender] @ self._output(sender)
        self._announce(sender, change)
        self.write(lambda j: overwrite(place, pick(z, j)))

    def set_heads(
        self,
        layer: int,
        fresh: Mapping[int, Float[Tensor, "trial batch pos d_head"]],
        before: LayerWeights | None = None,
    ) -> None:
        """What heads of a layer mix anew (``State.mixed``), by head.

        ``before``: the weights that they were computed by so far, where W_O changes with them. A norm behind the heads
        has one factor for all of them, so that every other head of the layer has a new output too.
        """
        state = self.state
        if not state.graph.shape.coupled:
            for head, z in fresh.items():
                self.set_head(layer, head, z, None if before is None else self._against(layer, head, z, before))
            return
        raw, weights = state.raw[layer], self.weights(layer)
        total = self.current_sum(layer)[None]
        for head, mixed in fresh.items():
            total = total + (mixed - raw[head]) @ weights.sending((head,))[0]
        scale = factor(state.config, total)
        for head in range(state.config.heads):
            z = fresh.get(head, raw[head][None]) * scale
            other = before is not None and head in fresh
            self.set_head(layer, head, z, self._against(layer, head, z, before) if other else None)
        for head, mixed in fresh.items():
            self.write(partial(_take_raw, raw[head], mixed))

    def current_sum(self, layer: int) -> Float[Tensor, "batch some d_model"]:
        """What the layer's heads send together now, before the norm behind them."""
        return together(self.weights(layer), self.state.raw[layer])

    def _against(self, layer: int, head: int, z: Tensor, before: LayerWeights | None) -> Tensor:
        """By how much a head's output changes whose W_O changes too."""
        assert before is not None
        sender = self.state.first_sender(layer) + head
        return z @ self._output(sender) - at_need(self.state.z[layer][head], self.state.need[sender]) @ before.output(
            head
        )

    def send_mlp(self, layer: int, x: Float[Tensor, "trial batch pos d_model"]) -> None:
        """An MLP's new input."""
        self.set_mlp(layer, mlp(self.state.config, self.weights(layer), x))

    def set_mlp(self, layer: int, output: Float[Tensor, "trial batch pos d_model"]) -> None:
        (sender,) = self.state.graph.outputs(Receiver("mlp", layer))
        place, need = self.state.mlp[layer], self.state.need[sender]
        change = output - at_need(place, need)
        self._announce(sender, change)

        def apply(trial: int) -> None:
            at_need(place, need).add_(pick(change, trial))

        self.write(apply)

    def _announce(self, sender: int, change: Float[Tensor, "trial batch pos d_model"]) -> None:
        logits = Receiver("logits")
        self._changed.append(sender)
        if sender not in self._z:  # an MLP's, or of a head whose W_O changed: there is no narrower form
            self._changes[sender] = change
        elif change.nbytes <= self._left:
            self._changes[sender] = change
            self._left -= change.nbytes
        if logits in self.state.children[sender]:
            gain = at_need(change, self.state.receiver_need(logits))
            self._final = gain if self._final is None else self._final + gain

    def run(self, kind: Kind, layer: int) -> Float[Tensor, "trial batch pos d_model"] | None:
        """Carry changes of a layer's heads, or of its MLP (``kind``), on through all that they may reach.

        Returns the final residual stream where the metric needs it, or None if no change arrives there.
        """
        logits, config = Receiver("logits"), self.state.config
        for at, parts in groupby(behind(config.parts, kind, layer, config.layers), key=itemgetter(0)):
            self._release(at)
            for _, part in parts:
                if part == "heads":
                    self._heads(at)
                else:
                    self._mlp(at)
        self._release(config.layers)
        if self._final is None:
            return None
        self._reached.append(logits)
        return self.state.inputs[logits] + self._final

    def _release(self, layer: int) -> None:
        """Let go of the heads' outputs that nothing in ``layer`` or above reads."""
        for sender in [sender for sender in self._changes if sender in self._z]:
            if not any(child.layer >= layer for child in self.state.children[sender] if child.kind != "logits"):
                self._left += self._changes.pop(sender).nbytes

    def _readable(self, receiver: Receiver) -> list[int]:
        return [sender for sender in self._changed if receiver in self.state.children[sender]]

    def _sum(self, receiver: Receiver, senders: list[int], out: Float[Tensor, "trial batch pos d_model"]) -> None:
        """The receiver's new input into ``out``."""
        need = self.state.receiver_need(receiver)
        current = self.state.inputs[receiver].expand_as(out)
        torch.add(current, self._changes_of(senders[0], need).expand_as(out), out=out)
        for sender in senders[1:]:
            out += self._changes_of(sender, need)
        self._reached.append(receiver)

    def _heads(self, layer: int) -> None:
        state = self.state
        touched: dict[Receiver, list[int]] = {}
        for sender in self._changed:
            for child in state.children[sender]:
                if child.layer == layer and child.kind == "head":
                    touched.setdefault(child, []).append(sender)
        batches: dict[tuple[str, int], list[Receiver]] = {}
        for receiver in touched:
            need = state.receiver_need(receiver)
            if need != NOWHERE:
                batches.setdefault((receiver.letter, need), []).append(receiver)
        fresh: dict[Receiver, Tensor] = {}
        for (letter, need), receivers in batches.items():
            rows = self.trials * state.batch * (state.length if need == EVERYWHERE else 1)
            size = max(1, TOGETHER // rows)
            for first in range(0, len(receivers), size):
                part = receivers[first : first + size]
                fresh.update(zip(part, self._project(layer, letter, need, part, touched), strict=True))
        of = state.graph.shape.query_heads
        heads = sorted({head for receiver in fresh for head in of(receiver.letter, receiver.head)})
        mixed = state.mixed_heads(layer, heads, fresh)
        if mixed:
            self.set_heads(layer, mixed)

    def _project(
        self, layer: int, letter: str, need: int, receivers: list[Receiver], touched: dict[Receiver, list[int]]
    ) -> Float[Tensor, "receiver trial batch pos d_head"]:
        x = self._empty(len(receivers), need)
        for i, receiver in enumerate(receivers):
            self._sum(receiver, touched[receiver], x[i])
        values = self.projections(receivers, x)
        for i, receiver in enumerate(receivers):
            self.set_projection(receiver, values[i])
        return values

    def projections(
        self, receivers: Sequence[Receiver], x: Float[Tensor, "receiver trial batch pos d_model"]
    ) -> Float[Tensor, "receiver trial batch pos d_head"]:
        """What inputs of one layer, letter and need project, from their new values."""
        state, first = self.state, receivers[0]
        start, rows = state.position(state.receiver_need(first)), [receiver.head for receiver in receivers]
        weights = self.weights(first.layer)
        flat = project(state.config, weights, first.letter, x.flatten(1, 2), first=start, rows=rows)
        return flat.view(*x.shape[:3], *flat.shape[2:])

    def _empty(self, receivers: int, need: int) -> Float[Tensor, "receiver trial batch pos d_model"]:
        state = self.state
        length = state.length if need == EVERYWHERE else 1
        return state.clean_final.new_empty(receivers, self.trials, state.batch, length, state.config.d_model)

    def _mlp(self, layer: int) -> None:
        receiver, weights, kept = Receiver("mlp", layer), self.weights(layer), self._composites
        senders, need = self._readable(receiver), self.state.receiver_need(receiver)
        if need == NOWHERE or not senders:
            return
        x = self._empty(1, need)[0]
        self._sum(receiver, senders, x)
        if kept is None or not all(s in self._z for s in senders) or not kept.worthwhile(layer, senders, x[0]):
            self.send_mlp(layer, x)
            if kept is not None:
                self.write(lambda j: kept.stale(layer))
            return
        heads = {s: (at_need(self._z[s], need), self._output(s)) for s in senders}
        product = kept.product(layer, weights, lambda: self.state.inputs[receiver], heads)
        self.set_mlp(layer, kept.output(layer, weights, product, x))
        self.write(lambda j: kept.keep(layer, pick(product, j).clone()))

    def heads_into_logits(self) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of every head that changed the logits' input, or None if anything else did."""
        logits = Receiver("logits")
        senders = [sender for sender in self._changed if logits in self.state.children[sender]]
        if not senders or not all(sender in self._z for sender in senders):
            return None
        need = self.state.receiver_need(logits)
        return {sender: (at_need(self._z[sender], need), self._output(sender)) for sender in senders}

    def _output(self, sender: int) -> Float[Tensor, "d_head d_model"]:
        node = self.state.graph.senders[sender]
        return self.weights(node.layer).output(node.head)


def _take_raw(place: Tensor, mixed: Tensor, trial: int) -> None:
    place.copy_(pick(mixed, trial))


def pick(values: Float[Tensor, "trial *rest"], trial: int) -> Float[Tensor, "*rest"]:
    """A trial's row of a tensor whose trial axis may be 1 (all trials agree)."""
    return values[trial if values.shape[0] > 1 else 0]
