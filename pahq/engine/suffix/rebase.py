"""Computing the current state anew.

A search adds up changes, thousands of them, and float sums drift. Once per layer every visited value is formed from its
definition, from the lowest visited layer up, so that drift never spans more than a layer and is known.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pahq.circuits.graph import Receiver
from pahq.engine.suffix.inputs import project_inputs
from pahq.engine.suffix.state import NOWHERE, State, at_need, overwrite
from pahq.model.forward import attention, mlp


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
    for head in range(shape.heads):
        _head(state, layer, head)


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
        x = _input(state, receiver)[None]
        overwrite(state.projections[receiver], project_inputs(state, receiver, state.weights(receiver.layer), x)[0])


def _head(state: State, layer: int, head: int) -> None:
    need = state.need[state.first_sender(layer) + head]
    if need == NOWHERE:
        return
    receivers = state.graph.inputs(state.first_sender(layer) + head)
    q, k, v = (state.whole(receiver, state.projections[receiver]) for receiver in receivers)
    overwrite(state.z[layer][head], attention(state.config, at_need(q, need), k, v))
