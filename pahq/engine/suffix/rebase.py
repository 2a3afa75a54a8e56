"""Computing the current state anew.

A search adds up changes, thousands of them, and float sums drift. Once per layer every visited value is formed from its
definition, from the lowest visited layer up, so that drift never spans more than a layer and is known.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.inputs import project_inputs
from pahq.engine.suffix.mixing import mix_heads, mixes_of
from pahq.engine.suffix.needs import NOWHERE, overwrite, put_at_need
from pahq.engine.suffix.state import State
from pahq.model.attention import factor
from pahq.model.block import together
from pahq.model.forward import mlp


def rebase(state: State, first_layer: int) -> Float[Tensor, "batch some d_model"]:
    """Form every alive value of layers ``first_layer`` on anew; return the final residual stream at its need."""
    for layer in range(first_layer, state.config.layers):
        for part in state.config.parts:
            if part.kind == "heads":
                _heads(state, layer)
            else:
                _mlp(state, layer)
    return _input(state, Receiver("logits"))


def _heads(state: State, layer: int) -> None:
    shape = state.graph.shape
    for letter in "qkv":
        for index in range(shape.letter_heads(letter)):
            _head_input(state, Receiver("head", layer, index, letter))
    mixes = mixes_of(state, layer)
    place = state.raw[layer] if shape.coupled and mixes else state.z[layer]
    for mix in mixes:
        put_at_need(place, mix.heads, mix_heads(state, layer, mix, {}).squeeze(1))
    if shape.coupled and mixes:
        scale = factor(state.config, together(state.weights(layer), state.raw[layer]))
        overwrite(state.z[layer], state.raw[layer] * scale)


def _mlp(state: State, layer: int) -> None:
    receiver = Receiver("mlp", layer)
    if state.receiver_need(receiver) != NOWHERE:
        overwrite(state.mlp[layer], mlp(state.config, state.weights(layer), _input(state, receiver)))


def _input(state: State, receiver: Receiver) -> Tensor:
    if not state.inputs.untouched(receiver):
        x = state.fresh_input(receiver)
        state.inputs[receiver] = x
        return x
    return state.inputs[receiver]


def _head_input(state: State, receiver: Receiver) -> None:
    """An offline head input keeps its ablated projection; one that nothing touched its clean one."""
    if receiver in state.inputs and state.online[receiver] and not state.inputs.untouched(receiver):
        (value,) = project_inputs(state, receiver, state.weights(receiver.layer), _input(state, receiver)[None])
        overwrite(state.projections[receiver], value)
