"""One patched forward seen from outside: what a watch sees, layers that are skipped, prompts some at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.small_models import random_model, random_prompts
from torch import Tensor

from pahq.engine import reference
from pahq.engine.problem import Problem, build_problem
from pahq.engine.reference import circuit_logits, circuit_stream, logits_in_parts
from pahq.model.finite import Watch
from pahq.model.forward import head_outputs, project
from pahq.model.run import run_senders, sender_outputs, streams
from pahq.tasks.task import Prompts

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "parallel", "gemma2", "attention-only"])


def problem_of(family: str = "gpt2", **prompts: object) -> Problem:
    model = random_model(family)
    return build_problem(model, random_prompts(model, **prompts), metric="kl")  # type: ignore[arg-type]


def whole(problem: Problem) -> Tensor:
    return torch.ones(len(problem.graph.edges), dtype=torch.bool)


class Seen(Watch):
    """Keeps what it sees, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor]] = []

    def one(self, place: str, name: str, values: Tensor) -> None:
        self.seen.append((f"{place}: {name}", values))


@FAMILIES
def test_a_watch_sees_every_input_and_output_in_the_order_of_computation(family: str) -> None:
    """In the whole graph they are those of the network's own run."""
    problem, watch = problem_of(family), Seen()
    final = circuit_stream(problem, whole(problem), watch=watch)
    network, graph, expected = problem.store.network(), problem.graph, list[tuple[str, Tensor]]()
    run = run_senders(network, problem.clean)
    heads_read, mlp_reads = streams(network, run)
    for index, layer in enumerate(network.layers):
        for letter in "qkv":
            count = graph.shape.letter_heads(letter)
            projected = project(network.config, layer, letter, heads_read[index][None])
            for what, values in (("input", [heads_read[index]] * count), ("projection", list(projected))):
                named = (f"layer {index}: the {what} of a{index}.h{head}<{letter}>" for head in range(count))
                expected += zip(named, values, strict=True)
        outputs = head_outputs(layer, run.z[index])
        expected += [(f"layer {index}: the output of a{index}.h{head}", each) for head, each in enumerate(outputs)]
        if mlp_reads:
            expected.append((f"layer {index}: the input of m{index}", mlp_reads[index]))
            expected.append((f"layer {index}: the output of m{index}", run.mlp[index]))
    expected.append(("the end: the input of the logits", run.final))
    assert [name for name, _ in watch.seen] == [name for name, _ in expected]
    assert all((found - value).abs().max() < 1e-10 for (_, found), (_, value) in zip(watch.seen, expected, strict=True))
    assert watch.seen[-1][1] is final


@FAMILIES
def test_layers_below_the_first_patch_may_be_skipped(family: str) -> None:
    problem = problem_of(family, every_item=True)
    graph, network = problem.graph, problem.store.network()
    clean = sender_outputs(network, run_senders(network, problem.clean)) - problem.corrupted_senders
    clean[graph.head_senders(1).start :] = torch.nan  # which nobody is to read
    present = torch.rand(len(graph.edges), generator=torch.Generator().manual_seed(1)) < 0.6
    for receiver in graph.receivers:
        if receiver.layer == 0:
            present[list(graph.incoming(receiver))] = True
            if receiver.kind == "head":
                present[graph.direct(receiver)] = True
    found = circuit_logits(problem, present, from_layer=1, clean=clean)
    assert (found - circuit_logits(problem, present)).abs().max() < 1e-10


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems of which a circuit's logits are asked from now on."""
    seen: list[Problem] = []
    real: Callable[..., Tensor] = circuit_logits

    def noted(problem: Problem, *rest: object) -> Tensor:
        seen.append(problem)
        return real(problem, *rest)

    monkeypatch.setattr(reference, "circuit_logits", noted)
    return seen


@pytest.mark.parametrize(("at_once", "sizes"), [(0, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_result_caches_of_a_part_stay_within_their_bytes(at_once: int, sizes: list[int], parts: list[Problem]) -> None:
    """Two of them, of as many prompts as fit; of one at least."""
    problem = problem_of(batch=5)
    one = 2 * problem.corrupted_senders[:, :1].nbytes
    logits_in_parts(problem, whole(problem), part_bytes=at_once * one)
    assert [len(part.prompts.clean) for part in parts] == sizes
    parts.clear()
    logits_in_parts(problem, whole(problem), part_bytes=(at_once + 1) * one - 1)
    assert [len(part.prompts.clean) for part in parts] == sizes


def test_prompts_that_no_item_reads_are_passed_over(parts: list[Problem]) -> None:
    prompts = random_prompts(random_model("gpt2"), batch=5)
    items = torch.tensor([[4, 2], [1, 4], [4, 0]])
    model = random_model("gpt2")
    problem = build_problem(model, Prompts(prompts.clean, prompts.corrupted, items), metric="kl")
    found = logits_in_parts(problem, whole(problem), part_bytes=1)
    assert torch.allclose(found, circuit_logits(problem, whole(problem)), rtol=0, atol=1e-12)
    assert [part.prompts.clean.tolist() for part in parts] == [prompts.clean[[row]].tolist() for row in (1, 4)]
