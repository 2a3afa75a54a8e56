"""Objectives against their definitions, worked out item by item in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pahq.errors import PahqError
from pahq.tasks.metrics import gather_items, kl, objective

ITEMS, VOCAB = 4, 6
NAMES = ("kl", "logit_diff", "prob_diff", "margin", "nll", "mse")
MINUS = ("logit_diff", "prob_diff", "margin")  # larger is better: the loss is the value with its sign changed


def draw(seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits of two trials [2, item, vocab], clean logits [item, vocab], targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, ITEMS, VOCAB, generator=generator, dtype=torch.float64)
    clean = 3 * torch.randn(ITEMS, VOCAB, generator=generator, dtype=torch.float64)
    answer, wrong = torch.randint(VOCAB, (2, ITEMS), generator=generator)
    targets = {"answer": answer, "wrong": wrong, "choices": torch.randint(VOCAB, (ITEMS, 3), generator=generator)}
    targets["sign"] = torch.randint(-1, 2, (ITEMS, VOCAB), generator=generator).float()
    targets["columns"] = torch.tensor([1, 4])
    return logits, clean, targets


def probabilities(row: list[float]) -> list[float]:
    weights = [math.exp(x) for x in row]
    return [weight / sum(weights) for weight in weights]


def slow_kl(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    pairs = zip(probabilities(clean), probabilities(x), strict=True)
    return sum(p * (math.log(p) - math.log(q)) for p, q in pairs)


def slow_logit_diff(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    return x[targets["answer"][item]] - x[targets["wrong"][item]]


def slow_prob_diff(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    total = 0.0
    for p, sign in zip(probabilities(x), targets["sign"][item], strict=True):
        total += p if sign > 0 else -p if sign < 0 else 0.0
    return total


def slow_margin(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    return x[targets["answer"][item]] - max(x[choice] for choice in targets["choices"][item])


def slow_nll(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    return -math.log(probabilities(x)[targets["answer"][item]])


def slow_mse(x: list[float], clean: list[float], targets: dict, item: int) -> float:
    return sum((x[column] - clean[column]) ** 2 for column in targets["columns"]) / len(targets["columns"])


SLOW: dict[str, Callable[..., float]] = {
    "kl": slow_kl, "logit_diff": slow_logit_diff, "prob_diff": slow_prob_diff,
    "margin": slow_margin, "nll": slow_nll, "mse": slow_mse,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_every_objective_equals_its_definition(name: str, seed: int) -> None:
    logits, clean, targets = draw(seed)
    bound = objective(name, targets, clean)
    plain = {key: value.tolist() for key, value in targets.items()}
    each = [
        [SLOW[name](trial[item], clean[item].tolist(), plain, item) for item in range(ITEMS)]
        for trial in logits.tolist()
    ]
    expected = [sum(values) / ITEMS for values in each]
    assert bound.name == name
    assert torch.allclose(bound.each(logits), torch.tensor(each, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert bound.value(logits).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    assert torch.equal(bound.loss(logits), -bound.value(logits) if name in MINUS else bound.value(logits))


@pytest.mark.parametrize("name", NAMES)
def test_trial_axes_are_free(name: str) -> None:
    logits, clean, targets = draw(0)
    bound = objective(name, targets, clean)
    both = bound.value(logits)
    assert both.shape == (2,)
    assert bound.value(logits[0]).shape == ()
    assert torch.allclose(bound.value(logits[:, None])[:, 0], both, rtol=1e-12)
    assert torch.allclose(torch.stack([bound.value(trial) for trial in logits]), both, rtol=1e-12)


def test_known_values() -> None:
    clean = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # probabilities 3/4 and 1/4
    assert float(objective("kl", {}, clean).value(clean)) == 0.0
    assert float(objective("kl", {}, clean).value(other)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(objective("kl", {}, other).value(clean)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    sign = {"sign": torch.tensor([[1.0, -1.0]])}
    assert float(objective("prob_diff", sign, clean).value(other)) == pytest.approx(0.5)
    assert float(objective("nll", {"answer": torch.tensor([1])}, clean).value(other)) == pytest.approx(math.log(4))
    pair = {"answer": torch.tensor([0]), "wrong": torch.tensor([1])}
    assert float(objective("logit_diff", pair, clean).loss(other)) == pytest.approx(-math.log(3))
    # without "columns" the squared error is over all output columns
    assert float(objective("mse", {}, clean).value(clean + torch.tensor([3.0, 1.0]))) == pytest.approx(5.0)


def test_kl_is_clean_against_patched_and_ignores_a_shift() -> None:
    logits, clean, targets = draw(3)
    bound = objective("kl", targets, clean)
    assert torch.allclose(bound.value(logits + 7), bound.value(logits))
    assert bool((bound.value(logits) > 0).all())
    assert not torch.allclose(bound.value(logits[0]), objective("kl", targets, logits[0]).value(clean))


def test_kl_refuses_another_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocabularies differ: 3 and 4"):
        kl(torch.zeros(1, 2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("name", "missing"),
    [("logit_diff", "answer"), ("prob_diff", "sign"), ("margin", "answer"), ("nll", "answer")],
)
def test_a_metric_whose_targets_are_missing_is_refused(name: str, missing: str) -> None:
    with pytest.raises(PahqError, match=rf"metric '{name}' needs '{missing}', which this task lacks; it has: kl, mse"):
        objective(name, {}, torch.zeros(1, 3))


def test_the_refusal_lists_what_the_task_can_do() -> None:
    with pytest.raises(PahqError, match=r"needs 'wrong'.*it has: kl, mse, nll$"):
        objective("logit_diff", {"answer": torch.tensor([0])}, torch.zeros(1, 3))


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        PahqError, match="unknown metric 'accuracy'; known: kl, logit_diff, margin, mse, nll, prob_diff"
    ):
        objective("accuracy", {}, torch.zeros(1, 3))


@given(seed=st.integers(0, 100), trials=st.integers(0, 2))
def test_gather_items_takes_rows_in_their_order(seed: int, trials: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*(2, 3)[:trials], 4, 5, 2, generator=generator)
    items = torch.stack((torch.randint(4, (6,), generator=generator), torch.randint(5, (6,), generator=generator)), 1)
    gathered = gather_items(values, items)
    assert gathered.shape == (*values.shape[:-3], 6, 2)
    for i, (example, position) in enumerate(items.tolist()):
        assert torch.equal(gathered[..., i, :], values[..., example, position, :])


def test_a_kl_is_finite_where_a_probability_underflows_and_its_logit_grows_endlessly() -> None:
    clean = torch.tensor([[0.0, -900.0, -3.0]], dtype=torch.float64)
    logits = torch.tensor([[-2000.0, 500.0, -3.0]], dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        found = float(objective("kl", {}, clean.to(dtype)).value(logits.to(dtype)))
        share = math.exp(-3) / (1 + math.exp(-3))
        entropy = -(1 - share) * math.log(1 - share) - share * math.log(share)
        assert found == pytest.approx(500 + 2000 * (1 - share) + 3 * share - entropy, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0, 900.0])
def test_kls_gradient_is_the_difference_of_probabilities(scale: float) -> None:
    """However far the logits lie apart: where exp of a change is endless it must not spoil what is not chosen."""
    generator = torch.Generator().manual_seed(0)
    clean = (scale * torch.randn(5, 11, generator=generator, dtype=torch.float64)).log_softmax(-1)
    logits = (clean + scale * torch.randn(5, 11, generator=generator, dtype=torch.float64)).requires_grad_()
    kl(logits, clean).backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(logits.grad, (logits.detach().softmax(-1) - clean.exp()) / 5, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
