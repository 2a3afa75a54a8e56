"""When divergences are taken coarsely, and what of the clean run is kept."""

from __future__ import annotations

import pytest
import torch
from support.small_models import random_model, random_prompts

from pahq.engine import vocabulary
from pahq.engine.problem import build_problem
from pahq.engine.vocabulary import LARGE, KlLosses, first_items, rows_of
from pahq.tasks.task import Prompts


def losses_of(tile: int = vocabulary.TILE, wide: int = 301) -> KlLosses:
    model = random_model("gpt2", d_vocab=wide, d_vocab_out=wide)
    return KlLosses(build_problem(model, random_prompts(model), metric="kl"), tile)


def test_divergences_are_taken_coarsely_from_twice_what_is_large() -> None:
    """So that they do not go to and fro: back to the fine way only from what is large on."""
    losses = losses_of()
    for smallest, coarse in ((LARGE, False), (2 * LARGE, False), (2.1 * LARGE, True), (10 * LARGE, True)):
        assert not losses.expect(smallest)
        losses.moved()
        assert losses.coarse == coarse
    assert not losses.expect(1.5 * LARGE)
    assert losses.coarse
    losses.moved()
    assert not losses.coarse
    assert not losses.expect(3 * LARGE)
    losses.moved()
    assert losses.expect(LARGE)
    assert not losses.coarse


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("tile", [900, 3000, 10**6])
def test_tiles_are_the_vocabulary_in_parts_of_so_many_logits(rows: int, tile: int) -> None:
    """As wide as that allows; 256 columns at least."""
    parts = list(losses_of(tile)._parts(rows))
    columns = [column for part in parts for column in range(301)[part]]
    assert columns == list(range(301))
    widest = max(len(range(301)[part]) for part in parts)
    assert widest == min(301, max(256, tile // rows))


def test_clean_probabilities_are_kept_where_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = losses_of()
    assert kept._kept is not None
    assert kept._kept.shape == (3, 301)
    monkeypatch.setattr(vocabulary, "KEPT", 3 * 301 - 1)
    many = losses_of()
    assert many._kept is None
    resid = many._change.stream + 0.1 * torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(many(resid), kept(resid))


def test_rows_that_items_share_are_named_by_the_first_that_reads_them() -> None:
    model = random_model("gpt2")
    prompts, items = random_prompts(model), torch.tensor([[2, 1], [0, 4], [2, 1], [1, 3], [0, 4], [1, 0]])
    problem = build_problem(model, Prompts(prompts.clean, prompts.corrupted, items), metric="kl")
    rows, index = rows_of(problem)
    assert rows.tolist() == [[0, 4], [1, 0], [1, 3], [2, 1]]
    assert index is not None
    assert torch.equal(rows[index], items)
    assert first_items(problem).tolist() == [1, 5, 3, 0]
    plain = build_problem(model, Prompts(prompts.clean, prompts.corrupted, rows), metric="kl")
    assert rows_of(plain)[1] is None
    assert first_items(plain).tolist() == [0, 1, 2, 3]
