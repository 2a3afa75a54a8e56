"""Where a wave starts: what each trial changes at the receivers under test, by kind of edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pahq.circuits.graph import Graph, Receiver
from pahq.circuits.order import Stage
from pahq.engine.base import Trial
from pahq.engine.suffix.inputs import without
from pahq.engine.suffix.needs import EVERYWHERE, LAST, at_need
from pahq.engine.suffix.state import State
from pahq.engine.suffix.wave import Wave


def started(
    wave: Wave,
    stage: Stage,
    opened: Sequence[Receiver],
    trials: Sequence[Trial],
    ablated_value: Callable[[Receiver], Tensor],
) -> Float[Tensor, "trial batch pos d_model"] | None:
    """Trials of a stage whose connected receivers are ``opened``, carried to the end: final streams, or None."""
    if stage.kind != "head":
        (receiver,) = stage.receivers
        return stream_trials(wave, receiver, trials) if opened else None
    if stage.direct:
        direct_trials(wave, stage.layer, trials, ablated_value)
    else:
        addition_trials(wave, stage.layer, opened, trials)
    return wave.run()


def stream_trials(
    wave: Wave, receiver: Receiver, trials: Sequence[Trial]
) -> Float[Tensor, "trial batch pos d_model"] | None:
    """Trials at an MLP's input or at the logits, carried to the end: the final streams, or None if none changed."""
    state = wave.state
    x = without(state, receiver, [senders_taken(state.graph, trial, receiver) for trial in trials])
    wave.set_input(receiver, x)
    if receiver.kind == "logits":
        return x
    wave.start_mlp(receiver.layer, x)
    return wave.run()


def addition_trials(wave: Wave, layer: int, opened: Sequence[Receiver], trials: Sequence[Trial]) -> None:
    """Trials of Addition edges into head inputs of one letter of one layer."""
    state, fresh = wave.state, dict[Receiver, Tensor]()
    for receiver in opened:
        sets = [senders_taken(state.graph, trial, receiver) for trial in trials]
        distinct = [members for members in dict.fromkeys(sets) if members]
        if not distinct:
            continue
        inputs = without(state, receiver, distinct)
        index = tuple(distinct.index(members) + 1 if members else 0 for members in sets)
        projected = wave.projections([receiver], inputs[None])
        values = _spread(projected[0], state.projections[receiver], index)
        fresh[receiver] = values
        wave.set_projections([receiver], values[None])
        wave.write(partial(_take_input, state, receiver, inputs, index))
    wave.start_heads(layer, fresh)


def _spread(values: Float[Tensor, "state *rest"], current: Float[Tensor, "*rest"], index: tuple[int, ...]) -> Tensor:
    """Rows of distinct states dealt out to trials; row 0 is the current state (a trial that takes nothing here)."""
    if index == tuple(range(1, len(index) + 1)):
        return values
    return torch.cat((current[None], values))[_numbers(index, values.device)]


def _take_input(state: State, receiver: Receiver, inputs: Tensor, index: Sequence[int], trial: int) -> None:
    if index[trial]:
        state.inputs[receiver] = inputs[index[trial] - 1]


def direct_trials(wave: Wave, layer: int, trials: Sequence[Trial], ablated_value: Callable[[Receiver], Tensor]) -> None:
    """Trials of Direct edges of one letter of one layer: the projection takes its ablated value."""
    state, fresh = wave.state, dict[Receiver, Tensor]()
    edges = {state.graph.edges[edge].receiver: edge for trial in trials for edge in trial.removed}
    for need in (LAST, EVERYWHERE):
        receivers = [receiver for receiver in edges if state.receiver_need(receiver) == need]
        if not receivers:
            continue
        taken = tuple(tuple(edges[receiver] in trial.removed for trial in trials) for receiver in receivers)
        ablated = torch.stack([at_need(ablated_value(receiver), need) for receiver in receivers])[:, None]
        old = torch.stack([at_need(state.projections[receiver], need) for receiver in receivers])[:, None]
        values = torch.where(_numbers(taken, old.device)[..., None, None, None], ablated, old)
        wave.set_projections(receivers, values)
        fresh.update(zip(receivers, values.unbind(), strict=True))
    wave.start_heads(layer, fresh)


@lru_cache(maxsize=256)
def _numbers(numbers: tuple[Any, ...], device: torch.device) -> Tensor:
    """A tensor of Python's numbers. Kept, since sending it makes a GPU's queue wait, and windows ask for the same."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device)


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
