"""MLPs whose input only heads changed, by kept products: the MLP's own output, within the memory that is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import small_models
from torch import Tensor

from pahq.engine.suffix.composites import Composites, mlp_output
from pahq.model.forward import mlp
from pahq.model.weights import Model

WITH_MLPS = [name for name, config in small_models.FAMILIES.items() if config["d_mlp"]]
FAMILIES = pytest.mark.parametrize("family", [name for name in WITH_MLPS if name != "olmo2"])  # no norm in front of it


def model_of(family: str) -> Model:
    return small_models.random_model(family, d_model=16)


def randoms(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@FAMILIES
def test_they_give_what_the_mlp_sends_and_go_on_from_there(family: str) -> None:
    """Of several trials by one or two heads; then one of them is the state, and the next trials start from it."""
    model, kept = model_of(family), None
    weights, kept = model.layers[0], Composites(model.config, capacity_bytes=10**6)
    state = randoms(2, 5, 16)
    outputs = {sender: randoms(4, 16) + sender for sender in (3, 6)}
    for turn, senders in enumerate([(3,), (3, 6), (6,), (6, 3)]):
        z = {sender: randoms(3 + turn, 2, 5, 4) * 0.5 for sender in senders}
        x = state + sum(z[sender] @ outputs[sender] for sender in senders)
        heads = {sender: (z[sender], outputs[sender]) for sender in senders}
        product = kept.product(0, weights, lambda state=state: state, heads)  # type: ignore[misc]
        assert (kept.output(0, weights, product, x) - mlp(model.config, weights, x)).abs().max() < 1e-12
        assert (mlp_output(model.config, weights, x) - mlp(model.config, weights, x)).abs().max() < 1e-12
        if turn == 2:  # the state becomes another in a way that no head tells
            state = randoms(2, 5, 16) - 1
            kept.stale(1)
            kept.stale(0)
        else:
            kept.keep(0, product[1].clone())
            state = x[1]


@FAMILIES
def test_the_last_position_alone_has_a_product_of_its_own(family: str) -> None:
    model = model_of(family)
    weights, kept = model.layers[1], Composites(model.config, capacity_bytes=10**6)
    state, output = randoms(2, 5, 16), randoms(4, 16)
    for some in (5, 1, 5):
        z = randoms(3, 2, some, 4)
        x = state[:, -some:] + z @ output
        product = kept.product(1, weights, lambda some=some: state[:, -some:], {3: (z, output)})  # type: ignore[misc]
        assert (kept.output(1, weights, product, x) - mlp(model.config, weights, x)).abs().max() < 1e-12


def test_weights_that_changed_are_multiplied_anew() -> None:
    model = model_of("llama")
    weights, kept = model.layers[0], Composites(model.config, capacity_bytes=10**6)
    state, z, x = randoms(2, 5, 16), randoms(3, 2, 5, 4), None
    for output in (randoms(4, 16), randoms(4, 16) - 2):
        x = state + z @ output
        product = kept.product(0, weights, lambda: state, {3: (z, output), 4: (0 * z, randoms(4, 16))})
        assert (kept.output(0, weights, product, x) - mlp(model.config, weights, x)).abs().max() < 1e-12
        kept.forget(3)


@pytest.mark.parametrize(("family", "width"), [("gpt2", 10), ("llama", 20)])  # of hidden layers, gates among them
def test_they_keep_no_more_than_they_may(family: str, width: int) -> None:
    """Composite weights of a head are d_head rows of the hidden layer, what is kept of the state all rows."""
    model, x = model_of(family), randoms(3, 2, 5, 16)
    head, state = 4 * width * 8, 10 * width * 8
    for capacity in (head + state, 2 * head + state):
        kept = Composites(model.config, capacity_bytes=capacity)
        short = Composites(model.config, capacity_bytes=capacity - 1)
        senders = [3, 5] if capacity > head + state else [3]
        assert kept.worthwhile(0, senders, x[0])
        assert not short.worthwhile(0, senders, x[0])
        heads = {sender: (x[..., :4], randoms(4, 16)) for sender in senders}
        product = kept.product(0, model.layers[0], lambda: x[0], heads)
        kept.keep(0, product[0].clone())
        assert sum(value.nbytes for value in kept._kept.values()) == capacity
        assert kept.worthwhile(0, senders, x[0])  # all of it is there
        assert not kept.worthwhile(1, senders, x[0])
        assert not kept.worthwhile(0, [senders[0], 9], x[0])
        kept.forget(senders[0])
        assert kept.worthwhile(0, [*senders[1:], 9], x[0])
        kept.stale(1)
        assert not kept.worthwhile(1, [senders[0]], x[0])
        kept.stale()
        assert kept.worthwhile(1, senders[:1], x[0])


def test_heads_that_are_many_cost_more_than_the_plain_way() -> None:
    """Two heads of 4 are half of 16, which is what a product with the stream reads; three are more."""
    model, x = model_of("gpt2"), randoms(2, 5, 16)
    kept = Composites(model.config, capacity_bytes=10**6)
    assert [kept.worthwhile(0, range(count), x) for count in (1, 2, 3)] == [True, True, False]
    without = model.config.model_copy(update={"pre_norms": False})
    assert not Composites(without, capacity_bytes=10**6).worthwhile(0, [0], x)


def test_products_in_few_bits_are_left_to_the_mlp_itself() -> None:
    model = model_of("gpt2")
    weights, x = model.layers[0], randoms(2, 5, 16)
    from pahq.precision.store import FocusedLayer

    low = FocusedLayer(**vars(weights) | {"multiplied": "bf16"})
    found = mlp_output(model.config, low, x)
    assert torch.equal(found, mlp(model.config, low, x))
    assert not torch.allclose(found, mlp(model.config, replace(weights), x), rtol=1e-6)
