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
    shape = state.graph.shape
    for layer in range(first_layer, shape.layers):
        for letter in "qkv":
            for index in range(shape.letter_heads(letter)):
                _head_input(state, Receiver("head", layer, index, letter))
        for head in range(shape.heads):
            _head(state, layer, head)
        receiver = Receiver("mlp", layer)
        if shape.mlp and state.receiver_need(receiver) != NOWHERE:
            overwrite(state.mlp[layer], mlp(state.config, state.weights(layer), _input(state, receiver)))
    logits = Receiver("logits")
    return _input(state, logits)


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
    shape = state.graph.shape
    group = head * shape.kv_heads // shape.heads
    parts = {"q": head, "k": group, "v": group}
    receivers = [Receiver("head", layer, index, letter) for letter, index in parts.items()]
    q, k, v = (state.whole(receiver, state.projections[receiver]) for receiver in receivers)
    overwrite(state.z[layer][head], attention(state.config, at_need(q, need), k, v))
