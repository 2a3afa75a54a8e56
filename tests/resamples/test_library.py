"""``pahq.stability``: known answers, and each of its searches the one that ``pahq.acdc`` would make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support import small_models

import pahq
from pahq.circuits.order import Order
from pahq.circuits.published import published_circuit
from pahq.config.precision import PrecisionConfig
from pahq.engine.base import Trial
from pahq.engine.suffix import SuffixEngine
from pahq.experiments.compose import compose_runs
from pahq.resamples import cells, library
from pahq.resamples.resample import draw, resample
from pahq.resamples.variants import Variant
from pahq.tasks import build_task
from pahq.tasks.task import Prompts, Task

MODEL = small_models.random_model("gpt2")


def test_each_resample_is_a_search_of_its_own() -> None:
    prompts, other = (small_models.random_prompts(MODEL, seed, batch=4, every_item=True) for seed in (0, 1))
    setting = {"precision": PrecisionConfig(name="int8", format="int8", mlp="bf16"), "focus": "receiver"}
    found = pahq.stability(MODEL, prompts, 0.1, n=4, seed=5, others=[other], progress=False, **setting)
    assert found.original.edges == pahq.acdc(MODEL, prompts, 0.1, progress=False, **setting).edges
    for i, circuit in enumerate(found.resamples.circuits.values()):
        alone = pahq.acdc(MODEL, resample(prompts, draw(4, 5, i)), 0.1, progress=False, **setting)
        assert circuit.edges == alone.edges
    assert len({circuit.present for circuit in found.resamples.circuits.values()}) > 1
    for name, circuit in found.orders.circuits.items():
        order = Order(*name.split("-"))
        assert circuit.edges == pahq.acdc(MODEL, prompts, 0.1, order=order, progress=False, **setting).edges
    [circuit] = found.seeds.circuits.values()
    assert circuit.edges == pahq.acdc(MODEL, other, 0.1, progress=False, **setting).edges


def test_the_circuit_guesses_what_is_decided_on_other_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same circuits in fewer rounds."""
    [(cell, _)] = compose_runs(["task=nano-induction", "task.examples=8"])
    model = pahq.load_model(cell.model.source)
    task = build_task(cell.task, model, 0)
    rounds: list[int] = []
    measure = SuffixEngine.measure

    def counted(self: SuffixEngine, trials: Sequence[Trial]) -> list[float]:
        rounds[-1] += 1
        return measure(self, trials)

    def found() -> pahq.Stability:
        rounds.append(0)
        return pahq.stability(model, task, 0.1, n=3, orders=False, progress=False, metric="kl")

    monkeypatch.setattr(SuffixEngine, "measure", counted)
    guessed = found()
    monkeypatch.setattr(library, "as_in", lambda circuit: {})
    alone = found()
    assert [one.edges for one in guessed.resamples.circuits.values()] == [
        one.edges for one in alone.resamples.circuits.values()
    ]
    assert rounds[0] < 0.9 * rounds[1]


@pytest.mark.parametrize(
    ("setting", "needed"),
    [
        ({}, False),
        ({"ablation": "zero"}, False),
        ({"ablation": "mean"}, True),
        ({"precision": PrecisionConfig(name="int4", format="int4", mlp="bf16"), "focus": "receiver"}, False),
        ({"precision": PrecisionConfig(name="int4", format="int4", mlp="bf16", rounding="calibrated")}, True),
    ],
)
def test_prompts_drawn_twice_stand_twice_where_that_makes_another_problem(
    setting: dict[str, object], needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python and of a stored cell, whose task and precision say the same."""
    asked: list[bool] = []
    prompts = small_models.random_prompts(MODEL, batch=4)

    def noted(prompts: Prompts, chosen: list[int], *, copies: bool) -> Prompts:
        asked.append(copies)
        return resample(prompts, chosen, copies=copies)

    monkeypatch.setattr(library, "resample", noted)
    monkeypatch.setattr(cells, "resample", noted)
    pahq.stability(MODEL, prompts, 0.1, n=2, orders=False, progress=False, **setting)
    assert asked == [needed, needed]
    [(cell, _)] = compose_runs(["task=nano-ioi", "method=acdc"])
    task = cell.task.model_copy(update={"ablation": setting.get("ablation", "corrupted")})
    stored = cell.model_copy(update={"task": task, "precision": setting.get("precision", cell.precision)})
    ground = cells._Ground(MODEL, Task("own", prompts, prompts, "kl"), {})
    cells._prompts(stored, ground, Variant("resamples", "resample-000", Order(), resample=0))
    assert asked == [needed] * 3


def test_equal_prompts_cannot_be_resampled_into_anything_else() -> None:
    one = small_models.random_prompts(MODEL, batch=1)
    prompts = resample(one, [0] * 5)
    found = pahq.stability(MODEL, prompts, 0.1, n=6, orders=False, progress=False)
    assert 0 < len(found.original) < len(found.original.present)
    assert found.resamples.pairwise is not None
    assert found.resamples.to_original is not None
    assert found.resamples.pairwise.min == found.resamples.to_original.min == 1.0
    assert set(found.inclusion.values()) == {0.0, 1.0}
    assert len(found.orders) == 0


@pytest.mark.parametrize("name", ["tracr-reverse-zero", "tracr-proportion-zero"])
def test_the_compiled_circuit_is_found_from_any_resample(name: str) -> None:
    """Zero ablation: every resample and every order is the published circuit, all of it and nothing else."""
    [(cell, _)] = compose_runs([f"task={name}", "method=acdc"])
    model = pahq.load_model(cell.model.source)
    task = build_task(cell.task, model, 0)
    setting = {"metric": "mse", "ablation": "zero", "split_embed": True}
    found = pahq.stability(model, task, 1e-4, n=20, progress=False, **setting)
    truth = published_circuit(cell.task.kind, found.original.graph)
    assert truth
    assert {edge for edge, share in found.inclusion.items() if share == 1.0} == truth
    assert {edge for edge, share in found.inclusion.items() if share > 0.0} == truth
    assert set(found.orders.jaccard.values()) == {1.0}


def test_engines_agree() -> None:
    prompts: Prompts = small_models.random_prompts(MODEL, batch=3)
    fast, slow = (
        pahq.stability(MODEL, replace(prompts), 0.1, n=3, engine=engine, progress=False)
        for engine in ("suffix", "reference")
    )
    assert fast == slow


def test_one_resample_is_refused() -> None:
    with pytest.raises(pahq.PahqError, match="n=1 resamples"):
        pahq.stability(MODEL, small_models.random_prompts(MODEL), 0.1, n=1)
