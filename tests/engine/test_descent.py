"""How far down a search has come: stage after stage, whatever it skips."""

from __future__ import annotations

from itertools import pairwise

import pytest
from support.cost_engines import GRAPH

from pahq.circuits.order import stages
from pahq.engine.suffix.descent import Descent

STAGES = list(stages(GRAPH))


def edge_of(number: int) -> int:
    stage = STAGES[number]
    receiver = stage.receivers[0]
    edge = GRAPH.direct(receiver) if stage.direct else GRAPH.incoming(receiver)[0]
    assert edge is not None
    return edge


@pytest.mark.parametrize("stops", [[0], [0, 1, 2], [2, 2, 3], [len(STAGES) - 1], [1, 5, len(STAGES) - 1]])
def test_every_stage_on_the_way_is_entered_from_the_one_before(stops: list[int]) -> None:
    descent = Descent(GRAPH)
    assert len(descent) == len(STAGES)
    for _ in range(2):
        entered = []
        for stop in stops:
            for left, stage in descent.down_to(edge_of(stop)):
                assert stage == descent.stage
                entered.append((left, stage))
            assert descent.stage == STAGES[stop]
        first, *others = entered
        assert first == (STAGES[0], STAGES[0])
        assert others == list(pairwise(STAGES[: stops[-1] + 1]))
        descent.restart()
