"""Where a wave starts: what each trial changes at the receivers under test, by kind of edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.engine.base import Trial
from pahq.engine.suffix.inputs import without
from pahq.engine.suffix.state import NOWHERE, State, at_need
from pahq.engine.suffix.wave import Wave


def stream_trials(
    wave: Wave, receiver: Receiver, trials: Sequence[Trial]
) -> Float[Tensor, "trial batch pos d_model"] | None:
    """Trials at an MLP's input or at the logits, carried to the end: the final streams, or None if none changed."""
    state = wave.state
    x = without(state, receiver, [senders_taken(state.graph, trial, receiver) for trial in trials])
    wave.set_input(receiver, x)
    if receiver.kind == "logits":
        return x
    wave.send_mlp(receiver.layer, x)
    return wave.run("mlp", receiver.layer)


def addition_trials(wave: Wave, layer: int, opened: Sequence[Receiver], trials: Sequence[Trial]) -> None:
    """Trials of Addition edges into head inputs of one letter of one layer."""
    state, mixed, fresh = wave.state, dict[int, Tensor](), dict[Receiver, Tensor]()
    for receiver in opened:
        sets = [senders_taken(state.graph, trial, receiver) for trial in trials]
        distinct = [members for members in dict.fromkeys(sets) if members]
        if not distinct:
            continue
        inputs = without(state, receiver, distinct)
        projections = wave.projections([receiver], inputs[None])[0]
        index = [distinct.index(members) + 1 if members else 0 for members in sets]
        by_trial = _Spread(index, inputs.device)
        old = at_need(state.projections[receiver], state.receiver_need(receiver))
        fresh[receiver] = by_trial(projections, old)
        wave.set_projection(receiver, fresh[receiver])
        if not state.config.qk_joint:
            heads = state.graph.shape.query_heads(receiver.letter, receiver.head)
            for head, z in state.mixed_heads(layer, heads, {receiver: projections}).items():
                mixed[head] = by_trial(z, state.current(layer, head))
        wave.write(partial(_take_input, state, receiver, inputs, index))
    if state.config.qk_joint and fresh:  # then a head hangs on what a trial takes from any of them
        mixed = state.mixed_heads(layer, range(state.config.heads), fresh)
    if mixed:
        wave.set_heads(layer, mixed)


class _Spread:
    """Rows of distinct states dealt out to trials; row 0 is the current state (a trial that takes nothing here)."""

    def __init__(self, index: Sequence[int], device: torch.device) -> None:
        plain = list(index) == list(range(1, len(index) + 1))
        self._rows = None if plain else torch.tensor(index, device=device)

    def __call__(self, values: Float[Tensor, "state *rest"], current: Float[Tensor, "*rest"]) -> Tensor:
        return values if self._rows is None else torch.cat((current[None], values))[self._rows]


def _take_input(state: State, receiver: Receiver, inputs: Tensor, index: Sequence[int], trial: int) -> None:
    if index[trial]:
        state.inputs[receiver] = inputs[index[trial] - 1]


def direct_trials(wave: Wave, layer: int, trials: Sequence[Trial], ablated_value: Callable[[Receiver], Tensor]) -> None:
    """Trials of Direct edges of one letter of one layer: the projection takes its ablated value."""
    state, mixed, fresh = wave.state, dict[int, Tensor](), dict[Receiver, Tensor]()
    receivers = {state.graph.edges[edge].receiver: edge for trial in trials for edge in trial.removed}
    for receiver, edge in receivers.items():
        need = state.receiver_need(receiver)
        if need == NOWHERE:
            continue
        ablated = at_need(ablated_value(receiver), need)[None]
        taken = torch.tensor([edge in trial.removed for trial in trials], device=ablated.device)
        choice = taken[:, None, None, None]
        old = at_need(state.projections[receiver], need)[None]
        fresh[receiver] = torch.where(choice, ablated, old)
        wave.set_projection(receiver, fresh[receiver])
        if not state.config.qk_joint:
            heads = state.graph.shape.query_heads(receiver.letter, receiver.head)
            for head, z in state.mixed_heads(layer, heads, {receiver: ablated}).items():
                mixed[head] = torch.where(choice, z, state.current(layer, head)[None])
    if state.config.qk_joint and fresh:
        mixed = state.mixed_heads(layer, range(state.config.heads), fresh)
    if mixed:
        wave.set_heads(layer, mixed)


def senders_taken(graph: Graph, trial: Trial, receiver: Receiver) -> tuple[int, ...]:
    """The senders that a trial takes from a receiver, as indices, in the order of their tests."""
    incoming = graph.incoming(receiver)
    return tuple(edge - incoming[0] for edge in trial.removed if edge in incoming)


def present_edges(state: State, trial: Trial) -> Bool[Tensor, " edge"]:
    """The edges that are there in a trial."""
    graph = state.graph
    present = torch.ones(len(graph.edges), dtype=torch.bool)
    for receiver, senders in state.present.items():
        present[list(graph.incoming(receiver))] = torch.tensor(senders)
    gone = [graph.direct(receiver) for receiver, online in state.online.items() if not online]
    present[[edge for edge in gone if edge is not None] + list(trial.removed)] = False
    return present
