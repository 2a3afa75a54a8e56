"""From which position on a search keeps anything at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.engine.base import Trial
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import ReferenceEngine
from pahq.engine.suffix import SuffixEngine
from pahq.engine.suffix.needs import EVERYWHERE, LAST
from pahq.engine.suffix.state import first_change
from pahq.tasks.task import Prompts

MODEL = random_model("llama")


def problem_of(*, differ: list[tuple[int, int]], items: list[tuple[int, int]], **setting: object) -> Problem:
    """Three prompts of five tokens that differ from their twins at so many (example, position), and no others."""
    clean = random_prompts(MODEL).clean
    corrupted = clean.clone()
    for example, position in differ:
        corrupted[example, position] = (clean[example, position] + 1) % 11
    return build_problem(MODEL, Prompts(clean, corrupted, torch.tensor(items)), metric="kl", **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("differ", "items", "first"),
    [
        ([(1, 2)], [(0, 4), (1, 4)], 2),
        ([(1, 3), (0, 2), (2, 4)], [(0, 4), (1, 4)], 2),  # the first difference of any prompt
        ([(1, 0)], [(0, 4)], 0),
        ([(1, 3)], [(0, 4), (2, 1)], 1),  # what a metric reads is kept too
        ([], [(0, 4), (1, 4)], 4),  # nothing differs
        ([], [(0, 2)], 2),
    ],
)
def test_nothing_changes_before_the_first_difference(
    differ: list[tuple[int, int]], items: list[tuple[int, int]], first: int
) -> None:
    problem = problem_of(differ=differ, items=items)
    assert first_change(problem) == first
    engine, reference = SuffixEngine(problem), ReferenceEngine(problem)
    state = engine._state
    assert (state.first, state.length) == (first, 5 - first)
    assert (state.position(EVERYWHERE), state.position(LAST)) == (first, 4)
    for edge in range(len(problem.graph.edges) - 1, -1, -7):
        trial = Trial(edge, (edge,))
        if not problem.graph.edges[edge].direct:
            assert engine.measure([trial]) == pytest.approx(reference.measure([trial]), abs=1e-12)


def test_everything_changes_where_ablated_values_are_no_run_of_the_prompts() -> None:
    asked = {"differ": [(1, 3)], "items": [(0, 4)]}
    assert first_change(problem_of(**asked)) == 3  # type: ignore[arg-type]
    assert first_change(problem_of(**asked, ablation="mean")) == 0  # type: ignore[arg-type]
    problem = problem_of(**asked)  # type: ignore[arg-type]
    assert first_change(replace(problem, paired=False)) == 0
    assert first_change(replace(problem, focus="receiver")) == 3  # a focus of full precision changes no weight
