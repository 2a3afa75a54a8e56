"""Prompts drawn anew from prompts, with replacement (the bootstrap of Efron 1979, Annals of Statistics 7(1))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch

from pahq.config.precision import PrecisionConfig
from pahq.errors import PahqError
from pahq.tasks.task import Prompts

WHOLE = ("columns",)  # targets that belong to the prompt set as a whole; all others have one row an item


def draw(count: int, seed: int, number: int) -> list[int]:
    """``count`` indices below ``count`` with replacement: a function of the three numbers, the same everywhere.

    A resample does not depend on how many others there are, so more of them can be added later.
    """
    # The text is the seed, so that changing it would change every resample.
    return Random(f"bootstrap/{seed}/{number}").choices(range(count), k=count)


def resample(prompts: Prompts, chosen: Sequence[int], *, copies: bool = True) -> Prompts:
    """The examples ``chosen`` of ``prompts``, in that order, one drawn twice standing there twice.

    Each copy of an example brings its corrupted prompt, all its items and their rows of every target. Without
    ``copies`` the examples stand once, in the order of ``prompts``, and only the items of one drawn twice stand there
    twice: every metric is the same, and the network runs on about two thirds of the prompts. That is another problem
    where something is taken over the prompts as a whole, see ``needs_copies``. Raises PahqError for an index that the
    prompts lack, for no index at all, and for examples without any item among them.
    """
    batch = len(prompts.clean)
    if not chosen or not all(0 <= example < batch for example in chosen):
        raise PahqError(f"examples must be a non-empty list of numbers from 0 to {batch - 1}, got {list(chosen)}")
    places: dict[int, list[int]] = {}
    for place, example in enumerate(prompts.items[:, 0].tolist()):
        places.setdefault(example, []).append(place)
    drawn = list(chosen) if copies else sorted(chosen)
    examples = drawn if copies else sorted(set(chosen))
    at = range(len(drawn)) if copies else [examples.index(example) for example in drawn]
    pairs = [(row, place) for row, example in zip(at, drawn, strict=True) for place in places.get(example, [])]
    if not pairs:
        raise PahqError("the metric reads no position of the examples drawn")
    stands, rows = torch.tensor(pairs).T
    rows, index = rows.to(prompts.items.device), torch.tensor(examples, device=prompts.clean.device)
    return replace(
        prompts,
        clean=prompts.clean[index],
        corrupted=prompts.corrupted[index],
        items=torch.stack((stands.to(prompts.items), prompts.items[rows, 1]), dim=1),
        targets={
            name: value if name in WHOLE else value[rows.to(value.device)] for name, value in prompts.targets.items()
        },
    )


def needs_copies(ablation: str, precision: PrecisionConfig | None) -> bool:
    """Whether a prompt that stands twice counts twice before any metric: in mean ablation, and in calibrated levels."""
    return ablation == "mean" or (precision is not None and precision.rounding == "calibrated")


def same(one: Prompts, other: Prompts) -> bool:
    """Whether two prompt sets are equal, token by token and target by target."""
    if one.targets.keys() != other.targets.keys() or (one.position_order is None) != (other.position_order is None):
        return False
    pairs = [(one.clean, other.clean), (one.corrupted, other.corrupted), (one.items, other.items)]
    pairs += [(one.targets[name], other.targets[name]) for name in one.targets]
    if one.position_order is not None and other.position_order is not None:
        pairs.append((one.position_order, other.position_order))
    return all(torch.equal(a, b) for a, b in pairs)
