"""One wave: many trials' changes carried from where they start down to the logits.

Only nodes that are alive and whose input changed are computed again; a changed sender adds (new - current) along its
present edges and nowhere else. The trials are the leading axis of every tensor ([trial, batch, pos, ...], or 1 where
all trials agree). Nothing is written to the state until one trial is chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pahq.engine.suffix.composites import Composites
from pahq.engine.suffix.state import NOWHERE, State, at_need, overwrite
from pahq.graph import Receiver
from pahq.model.forward import attention, mlp, project
from pahq.model.weights import LayerWeights


class Wave:
    """Collects what each trial would change. ``weights(l)`` gives the layer's weights under the current focus."""

    def __init__(
        self,
        state: State,
        trials: int,
        weights: Callable[[int], LayerWeights],
        composites: Composites | None = None,
    ) -> None:
        self.state = state
        self._composites = composites
        self._z: dict[int, Float[Tensor, "trial batch pos d_head"]] = {}  # by head sender: new minus current z
        self.trials = trials
        self.weights = weights
        self.changes: dict[int, Float[Tensor, "trial batch pos d_model"]] = {}  # by sender: new minus current output
        self._writes: list[Callable[[int], None]] = []

    def write(self, action: Callable[[int], None]) -> None:
        """Register what choosing a trial (by its index) does to the state."""
        self._writes.append(action)

    def choose(self, trial: int) -> None:
        """Make one trial the current state."""
        for action in self._writes:
            action(trial)

    def set_input(self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_model"]) -> None:
        inputs = self.state.inputs  # closures hold tensors, never the wave: a cycle would keep all of them alive
        self.write(lambda j: inputs.__setitem__(receiver, pick(values, j)))

    def set_projection(self, receiver: Receiver, values: Float[Tensor, "trial batch pos d_head"]) -> None:
        place = self.state.projections[receiver]
        self.write(lambda j: overwrite(place, pick(values, j)))

    def set_head(self, layer: int, head: int, z: Float[Tensor, "trial batch pos d_head"]) -> None:
        """A head's new z: its change goes on through W_O."""
        sender = self.state.first_sender(layer) + head
        place = self.state.z[layer][head]
        self._z[sender] = z - at_need(place, self.state.need[sender])
        self.changes[sender] = self._z[sender] @ self.weights(layer).W_O[head]
        self.write(lambda j: overwrite(place, pick(z, j)))

    def override(self, sender: int, change: Float[Tensor, "trial batch pos d_model"]) -> None:
        """A head whose W_O changed: what it adds is no product of its z's change."""
        self.changes[sender] = change
        del self._z[sender]

    def set_mlp(self, layer: int, output: Float[Tensor, "trial batch pos d_model"]) -> None:
        sender = self.state.first_sender(layer) + self.state.graph.shape.heads
        place = self.state.mlp[layer]
        self.changes[sender] = output - at_need(place, self.state.need[sender])
        self.write(lambda j: overwrite(place, pick(output, j)))

    def run(self, layer: int, *, heads_from: int, mlp_from: int) -> Float[Tensor, "trial batch pos d_model"] | None:
        """Carry the changes on: heads of layers ``heads_from`` on, MLPs of layers ``mlp_from`` on.

        Returns the final residual stream where the metric needs it, or None if no change arrives there.
        """
        shape = self.state.graph.shape
        for at in range(layer, shape.layers):
            if at >= heads_from:
                self._heads(at)
            if shape.mlp and at >= mlp_from:
                self._mlp(at)
        return self._gather(Receiver("logits"))

    def _touched(self, layer: int) -> dict[Receiver, list[int]]:
        found: dict[Receiver, list[int]] = {}
        for sender in self.changes:
            for child in self.state.children[sender]:
                if child.layer == layer and child.kind == "head":
                    found.setdefault(child, []).append(sender)
        return found

    def _gather(self, receiver: Receiver) -> Tensor | None:
        """The receiver's new input, or None if none of its senders changed."""
        need = self.state.receiver_need(receiver)
        senders = [sender for sender in self.changes if receiver in self.state.children[sender]]
        if need == NOWHERE or not senders:
            return None
        total = at_need(self.changes[senders[0]], need)
        for sender in senders[1:]:
            total = total + at_need(self.changes[sender], need)
        value = self.state.inputs[receiver] + total
        self.set_input(receiver, value)
        return value

    def _heads(self, layer: int) -> None:
        state = self.state
        touched = self._touched(layer)
        batches: dict[tuple[str, int], list[Receiver]] = {}
        for receiver in touched:
            need = state.receiver_need(receiver)
            if need != NOWHERE:
                batches.setdefault((receiver.letter, need), []).append(receiver)
        fresh: dict[Receiver, Tensor] = {}
        for (letter, need), receivers in batches.items():
            values = self._project(layer, letter, need, receivers, touched)
            fresh.update(zip(receivers, values, strict=True))
        changed = {head for r in fresh for head in state.graph.shape.query_heads(r.letter, r.head)}
        first = state.first_sender(layer)
        for head in sorted(changed):
            if state.need[first + head] != NOWHERE:
                self.set_head(layer, head, self.attend(layer, head, fresh))

    def _project(
        self, layer: int, letter: str, need: int, receivers: list[Receiver], touched: dict[Receiver, list[int]]
    ) -> Float[Tensor, "receiver trial batch pos d_head"]:
        state = self.state
        senders = sorted({sender for receiver in receivers for sender in touched[receiver]})
        changes = torch.stack([at_need(self.changes[s], need).expand(self.trials, -1, -1, -1) for s in senders])
        mask = changes.new_tensor([[float(s in touched[r]) for s in senders] for r in receivers])
        inputs = torch.stack([state.inputs[receiver] for receiver in receivers])[:, None]
        x = inputs + (mask @ changes.flatten(1)).view(len(receivers), *changes.shape[1:])
        start = state.position(need)
        rows = [receiver.head for receiver in receivers]
        flat = project(state.config, self.weights(layer), letter, x.flatten(1, 2), first=start, rows=rows)
        values = flat.view(*x.shape[:3], *flat.shape[2:])
        for i, receiver in enumerate(receivers):
            self.set_input(receiver, x[i])
            self.set_projection(receiver, values[i])
        return values

    def attend(self, layer: int, head: int, fresh: dict[Receiver, Tensor]) -> Float[Tensor, "trial batch pos d_head"]:
        """A head's z from its current projections, those in ``fresh`` replaced."""
        state, shape = self.state, self.state.graph.shape
        group = head * shape.kv_heads // shape.heads
        parts = {}
        for letter, index in (("q", head), ("k", group), ("v", group)):
            receiver = Receiver("head", layer, index, letter)
            new = fresh.get(receiver)
            values = state.projections[receiver][None] if new is None else new
            parts[letter] = values if letter == "q" else state.whole(receiver, values)
        need = state.need[state.first_sender(layer) + head]
        return attention(state.config, at_need(parts["q"], need), parts["k"], parts["v"])

    def _mlp(self, layer: int) -> None:
        receiver, weights, kept = Receiver("mlp", layer), self.weights(layer), self._composites
        x = self._gather(receiver)
        if x is None:
            return
        need = self.state.receiver_need(receiver)
        senders = [sender for sender in self.changes if receiver in self.state.children[sender]]
        if kept is None or not all(s in self._z for s in senders) or not kept.worthwhile(len(senders), x[0]):
            self.set_mlp(layer, mlp(self.state.config, weights, x))
            if kept is not None:
                self.write(lambda j: kept.stale(layer))
            return
        heads = {s: (at_need(self._z[s], need), self._output(s)) for s in senders}
        product = kept.product(layer, weights, lambda: self.state.inputs[receiver], heads)
        self.set_mlp(layer, kept.output(weights, product, x))
        self.write(lambda j: kept.keep(layer, pick(product, j).clone()))

    def heads_into_logits(self) -> dict[int, tuple[Tensor, Tensor]] | None:
        """Change of z and W_O of every head that changed the logits' input, or None if anything else did."""
        logits = Receiver("logits")
        senders = [sender for sender in self.changes if logits in self.state.children[sender]]
        if not senders or not all(sender in self._z for sender in senders):
            return None
        need = self.state.receiver_need(logits)
        return {sender: (at_need(self._z[sender], need), self._output(sender)) for sender in senders}

    def _output(self, sender: int) -> Float[Tensor, "d_head d_model"]:
        node = self.state.graph.senders[sender]
        return self.weights(node.layer).W_O[node.head]


def pick(values: Float[Tensor, "trial *rest"], trial: int) -> Float[Tensor, "*rest"]:
    """A trial's row of a tensor whose trial axis may be 1 (all trials agree)."""
    return values[trial if values.shape[0] > 1 else 0]
