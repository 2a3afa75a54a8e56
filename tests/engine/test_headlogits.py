"""Which changes of heads are taken straight to the logits, and within which memory."""

from __future__ import annotations

import torch
from support.small_models import random_model

from pahq.engine.suffix.headlogits import HeadLogits
from pahq.model.weights import Model

SIZE = 4 * 11 * 8  # bytes of a head's composite weights: d_head rows of the vocabulary


def model_of() -> Model:
    return random_model("gpt2", d_model=24)


def test_heads_that_are_many_cost_more_than_the_plain_way() -> None:
    """Two heads of 4 are a third of 24."""
    kept = HeadLogits(model_of(), capacity_bytes=10**6)
    assert [kept.worthwhile(range(count)) for count in (0, 1, 2, 3)] == [False, True, True, False]


def test_composite_weights_stay_within_their_memory_and_are_dropped_with_their_head() -> None:
    kept, generator = HeadLogits(model_of(), capacity_bytes=2 * SIZE + 1), torch.Generator().manual_seed(0)
    clean = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    outputs = torch.randn(5, 4, 24, generator=generator, dtype=torch.float64)
    z = torch.zeros(2, 3, 4, dtype=torch.float64)
    for sender in (1, 3):
        assert kept.worthwhile([sender])
        kept.change(clean, clean, clean.expand(2, 3, 24), {sender: (z, outputs[sender])}, torch.zeros(2, 3))
    assert not kept.worthwhile([4])
    assert kept.worthwhile([1, 3])
    assert not kept.worthwhile([1, 4])
    kept.forget(4)
    assert not kept.worthwhile([4])
    kept.forget(1)
    assert kept.worthwhile([3, 4])
    assert not HeadLogits(model_of(), capacity_bytes=SIZE - 1).worthwhile([1])
    assert HeadLogits(model_of(), capacity_bytes=SIZE).worthwhile([1])


def test_changes_are_those_of_the_logits_less_their_mean_whatever_became_of_the_state() -> None:
    """After a trial that became the state, after a change that no head tells, and by weights that are others now."""
    model, generator = model_of(), torch.Generator().manual_seed(1)

    def randoms(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def logits(x: torch.Tensor) -> torch.Tensor:
        normed = torch.layer_norm(x, (24,), model.ln_final_w, model.ln_final_b, model.config.eps)
        return normed @ model.W_U + model.b_U

    kept, clean, outputs = HeadLogits(model, capacity_bytes=10**6), randoms(3, 24), randoms(5, 4, 24)
    current = clean + randoms(3, 24)
    for turn, trials in enumerate((2, 4, 1, 3)):
        heads = {sender: (randoms(trials, 3, 4), outputs[sender]) for sender in ((1,), (1, 3), (3,), (1, 3))[turn]}
        resid = current + sum(z @ output for z, output in heads.values())
        mean = randoms(trials, 3)
        d = kept.change(clean, current, resid, heads, mean)
        expected = (logits(resid) - logits(clean) - mean[..., None]).transpose(0, 1)
        for part in (slice(0, 11), slice(3, 7)):
            assert (d(part) - expected[..., part]).abs().max() < 1e-10
        kept.keep(heads, trials - 1)
        current = resid[trials - 1]
        if turn == 1:
            kept.stale()
            current = current + randoms(3, 24)
        if turn == 2:
            kept.forget(1)
            outputs[1] *= 2
