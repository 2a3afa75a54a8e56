"""Many circuits in one pass against their slow twin, one circuit at a time."""

from __future__ import annotations

import pytest
import torch
from support import small_models
from support.pairs import pairs

from pahq.circuits.circuit import Circuit
from pahq.engine import batch
from pahq.engine.batch import batch_logits
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits

random_model, random_prompts = small_models.random_model, small_models.random_prompts
FAMILIES = pytest.mark.parametrize("family", sorted(small_models.FAMILIES))


def make(family: str, ablation: str = "corrupted", *, split: bool = False, direct: bool = True) -> Problem:
    model = random_model(family)
    prompts = random_prompts(model, every_item=True)
    return build_problem(model, prompts, metric="kl", ablation=ablation, split_embed=split, direct_edges=direct)


def assert_equal_to_slow(problem: Problem, present: torch.Tensor) -> None:
    slow = torch.stack([circuit_logits(problem, row) for row in present])
    torch.use_deterministic_algorithms(True)  # fills memory that nobody has written with NaN
    try:
        quick = batch_logits(problem, present)
    finally:
        torch.use_deterministic_algorithms(False)
    assert (quick - slow).abs().max() < 1e-9


@pairs(
    {
        "family": sorted(small_models.FAMILIES),
        "ablation": ["corrupted", "zero", "mean"],
        "graph": [(False, True), (True, True), (False, False)],
    }
)
def test_equal_to_one_by_one(family: str, ablation: str, graph: tuple[bool, bool]) -> None:
    split, direct = graph
    if split and random_model(family).config.positions != "learned":
        split = False  # no position embedding in the residual stream to split off
    problem = make(family, ablation, split=split, direct=direct)
    generator = torch.Generator().manual_seed(1)
    count = len(problem.graph.edges)
    for density in (0.03, 0.1, 0.4, 0.9):
        assert_equal_to_slow(problem, torch.rand(7, count, generator=generator) < density)
    assert_equal_to_slow(problem, torch.stack([torch.ones(count), torch.zeros(count)]).bool())


@FAMILIES
def test_heads_that_read_the_same_input_share_it(family: str) -> None:
    """Senders knocked out of the whole model: every head of a layer reads one input."""
    problem = make(family)
    senders = [None if edge.sender is None else problem.graph.sender_index[edge.sender] for edge in problem.graph.edges]
    rows = [[sender != gone for sender in senders] for gone in range(len(problem.graph.senders))]
    assert_equal_to_slow(problem, torch.tensor(rows))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batch_size_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make("gpt2")
    one = problem.corrupted_senders.numel() * problem.corrupted_senders.element_size()
    monkeypatch.setattr(batch, "BATCH_BYTES", size * one)
    generator = torch.Generator().manual_seed(2)
    assert_equal_to_slow(problem, torch.rand(7, len(problem.graph.edges), generator=generator) < 0.3)


def test_nodes_that_reach_no_logits_are_not_computed() -> None:
    """A circuit of one path uses the senders on it and no other."""
    graph = make("gpt2").graph
    names = ("embed->m0", "m0->a1.h2<q>", "a1.h2<q>", "a1.h2->logits", "a0.h1->a1.h0<k>", "a0.h0->a1.h2<k>")
    circuit = Circuit.from_names(graph, names)
    used = {
        str(node)
        for node, is_used in zip(graph.senders, graph.reaching_logits(circuit.present), strict=True)
        if is_used
    }
    assert used == {"embed", "m0", "a1.h2"}  # a1.h0 leads nowhere; a1.h2's k projection is ablated
