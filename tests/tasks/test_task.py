"""What all tasks share: aligned prompts, word-level encoding, distinct draws."""

from __future__ import annotations

from random import Random

import pytest
import torch

from pahq.errors import PahqError
from pahq.tasks import ioi
from pahq.tasks.task import Prompts, check_aligned, draw_distinct, last_items, stack_rows


def test_misaligned_batches_are_refused():
    with pytest.raises(PahqError, match=r"\[2, 3\], corrupted ones \[2, 4\]"):
        check_aligned(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(PahqError, match="non-empty"):
        check_aligned(torch.zeros(0, 3), torch.zeros(0, 3))


def test_the_prompt_of_another_length_is_named():
    with pytest.raises(PahqError, match="clean prompt 2 has 1 tokens where prompt 0 has 2"):
        stack_rows([[1, 2], [3, 4], [5]], "clean")


def test_last_only_sees_whether_any_other_position_is_read():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    assert Prompts(tokens, tokens, last_items(2, 3)).last_only
    assert not Prompts(tokens, tokens, torch.tensor([[0, 2], [1, 1]])).last_only


def test_distinct_draws_differ_and_run_out_in_one_sentence():
    rng = Random(0)
    example = ioi.draw(rng)
    with pytest.raises(PahqError, match="task 'x' has fewer than 2 different prompts"):
        draw_distinct(lambda _: example, 2, rng, "x")
    examples = draw_distinct(ioi.draw, 200, rng, "x")
    assert len({example.clean for example in examples}) == 200
