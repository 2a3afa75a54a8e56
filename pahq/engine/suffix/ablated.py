"""What heads whose Direct edge is gone project: their ablated input, by the weights under the current focus."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.inputs import project_inputs
from pahq.engine.suffix.needs import at_need
from pahq.engine.suffix.state import State
from pahq.model.forward import project
from pahq.model.layerweights import LayerWeights
from pahq.precision.store import Focus


class AblatedProjections:
    """Kept while a stage is searched. ``together``: whether no focus moves, so that a layer's heads are projected in
    one go."""

    def __init__(self, state: State, weights: Callable[[int], LayerWeights], *, together: bool) -> None:
        self._state, self._weights, self._together = state, weights, together
        self._kept: dict[tuple[Receiver, Focus], Tensor] = {}

    def stale(self) -> None:
        """Another stage begins."""
        self._kept = {}

    def of(self, receiver: Receiver, focus: Focus) -> Float[Tensor, "batch some d_head"]:
        """The receiver's projection under a focus, at its need."""
        key = receiver, focus
        if key not in self._kept:
            state, stream = self._state, self._state.corrupted_stream(receiver)[None]
            weights = self._weights(receiver.layer)
            if self._together:
                values = project(state.config, weights, receiver.letter, stream, first=state.first)
                for head, value in enumerate(values):
                    other = receiver._replace(head=head)
                    self._kept[other, focus] = at_need(value, state.receiver_need(other))
            else:
                x = at_need(stream, state.receiver_need(receiver))
                (self._kept[key],) = project_inputs(state, receiver, weights, x)
        return self._kept[key]
