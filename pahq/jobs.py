"""An experiment's cells in bundles that one process computes: starting one takes seconds, most cells do not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pahq.config import CellConfig


@dataclass(frozen=True)
class Cell:
    """One cell of an experiment: how to type it, what it is, and what else its rows ask for."""

    overrides: tuple[str, ...]
    config: CellConfig
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Group:
    """Cells that differ in threshold, and maybe precision, alone; ``name`` is unique in its experiment."""

    name: str
    cells: Mapping[str, Cell]

    @property
    def config(self) -> CellConfig:
        """The first cell's configuration."""
        return next(iter(self.cells.values())).config

    @property
    def overrides(self) -> tuple[str, ...]:
        """The sweep over all cells, as typed behind ``python -m pahq -m``."""
        columns = zip(*(cell.overrides for cell in self.cells.values()), strict=True)
        return tuple(_sweep([text.split("=", 1) for text in dict.fromkeys(column)]) for column in columns)


def _sweep(typed: Sequence[Sequence[str]]) -> str:
    return f"{typed[0][0]}={','.join(value for _, value in typed)}"


def joined(groups: Sequence[Group]) -> list[Group]:
    """Groups whose rows say ``together`` and that differ in precision alone become one, in the first one's place."""
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        found.setdefault(_alike(group), []).append(group)
    used: dict[str, int] = {}
    result: list[Group] = []
    for members in found.values():
        if len(members) == 1:
            result += members
            continue
        config = members[0].config
        name = f"{config.task.name}-{config.method.name}"
        used[name] = used.get(name, 0) + 1
        cells = dict(itertools.chain.from_iterable(group.cells.items() for group in members))
        result.append(Group(name if used[name] == 1 else f"{name}-{used[name]}", cells))
    return result


def _alike(group: Group) -> tuple[object, ...]:
    """Equal for groups that may be joined: the same words but for the precision's, and the same thresholds."""
    cells = list(group.cells.values())
    words = ["precision" if text.startswith("precision=") else text for cell in cells for text in cell.overrides]
    apart = "precision" not in words or not all("together" in cell.extras for cell in cells)
    return (group.name, *words) if apart else tuple(words)


def extra_jobs(found: Iterable[Group], extra: str, *, every: bool = False) -> dict[str, list[str]]:
    """Ids of the cells with that extra, by the name of their job: one process for all that share task, model, seed.

    ``every``: all cells, marked or not.
    """
    jobs: dict[tuple[str, str, int], list[str]] = {}
    for cell_id, cell in itertools.chain.from_iterable(group.cells.items() for group in found):
        if every or extra in cell.extras:
            config = cell.config
            jobs.setdefault((config.task.name, config.model.name, config.seed), []).append(cell_id)
    tasks = [task for task, _, _ in jobs]
    names = [task if tasks.index(task) == i else f"{task}-{i}" for i, task in enumerate(tasks)]
    return dict(zip(names, jobs.values(), strict=True))
