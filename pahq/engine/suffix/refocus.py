"""Where a wave starts that brings heads of the current state under other weights: their layer's focus has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.inputs import project_inputs
from pahq.engine.suffix.needs import NOWHERE
from pahq.engine.suffix.wave import Wave
from pahq.model.layerweights import LayerWeights


def change_weights(
    wave: Wave,
    layer: int,
    groups: Sequence[int],
    before: LayerWeights,
    after: LayerWeights,
    ablated: Callable[[Receiver], Tensor],
) -> list[int]:
    """Compute the groups' heads again by the weights ``after``, from their current inputs; the senders that changed.

    ``ablated`` gives a projection's value in the ablated run, by the new weights, for receivers whose Direct edge is
    gone.
    """
    state, shape, first = wave.state, wave.state.graph.shape, wave.state.first_sender(layer)
    per_group = shape.heads // shape.kv_heads
    every = dict[Receiver, Tensor]()
    for group in groups:
        heads = range(group * per_group, (group + 1) * per_group)
        fresh: dict[Receiver, Tensor] = {}
        for letter, indices in (("q", heads), ("k", (group,)), ("v", (group,))):
            for index in indices:
                receiver = Receiver("head", layer, index, letter)
                if state.receiver_need(receiver) == NOWHERE:
                    continue
                if state.online[receiver]:
                    x = state.inputs[receiver] if receiver in state.inputs else state.clean_input(receiver)
                    (value,) = project_inputs(state, receiver, after, x[None])
                else:
                    value = ablated(receiver)
                fresh[receiver] = value[None]
                wave.set_projections([receiver], value[None, None])
        every |= fresh
    return [first + head for head in wave.start_heads(layer, every, before)]
