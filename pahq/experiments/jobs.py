"""An experiment's cells in bundles that one process computes: starting one takes seconds, most cells do not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pahq.config.cell import CellConfig
from pahq.errors import PahqError, unknown

RESAMPLES, PER_SEED = 20, 4  # of stability where a row does not say how many; one other seed to so many resamples
SEARCHES = 10_000  # resamples, or seeds, of one cell at most: more is a slip of the keyboard, and would run for weeks
ORDERS = 3  # other orders of a search, of stability
STABILITY_OF = ("all", "marked", "none")
MOST = 100  # cells of one process that are thresholds of one sweep, or seeds put together: others compute the rest
CELLS = 16  # of stability in one process: their searches, not its start, are what takes time


@dataclass(frozen=True)
class Asked:
    """What an experiment's row asks for beside its cells; of rows that share a cell, all.

    ``together``: all its methods and precisions, and up to ``MOST`` cells of several seeds, in one process, being short
    searches. ``resamples``: of its circuits' stability.
    """

    together: bool = False
    resamples: int = 0

    def __or__(self, other: Asked) -> Asked:
        return Asked(self.together or other.together, max(self.resamples, other.resamples))

    @property
    def seeds(self) -> int:
        """Of stability, other seeds' prompts: a quarter as many as resamples, rounded down, and one at least."""
        return max(1, self.resamples // PER_SEED) if self.resamples else 0

    @property
    def searches(self) -> int:
        """Of stability, of one cell."""
        return self.resamples + ORDERS + self.seeds if self.resamples else 0


@dataclass(frozen=True)
class Cell:
    """One cell of an experiment: how to type it, what it is, and what else its rows ask for."""

    overrides: tuple[str, ...]
    config: CellConfig
    asked: Asked = Asked()


@dataclass(frozen=True)
class Group:
    """Cells that differ in threshold, and maybe precision, method and seed, alone; ``name`` is unique in its
    experiment."""

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
    """Groups whose rows say ``together`` and that differ in select, precision, method or seed alone become one, in the
    first's place.

    Methods join where they have the same precisions, so that the whole is one sweep; seeds until there are ``MOST``
    cells.
    """
    found = _joined(_joined(_joined(_joined(groups, "select"), "precision"), "method"), "seed", MOST)
    alone = {id(group) for group in groups}
    used = {group.name: 1 for group in found if id(group) in alone}
    return [group if id(group) in alone else _renamed(group, used) for group in found]


def _joined(groups: Sequence[Group], key: str, most: int | None = None) -> list[Group]:
    """One group for those whose words are equal but for ``key``'s, or several of up to ``most`` cells."""
    alike: dict[tuple[object, ...], list[Group]] = {}
    room: dict[tuple[object, ...], tuple[object, ...]] = {}  # by words: where the next group still has room
    for group in groups:
        words = _words_but(group, key)
        at = room.get(words, words)
        if most is not None and sum(len(one.cells) for one in (*alike.get(at, ()), group)) > most:
            at = (*words, len(alike))
        room[words] = at
        alike.setdefault(at, []).append(group)
    return [
        members[0]
        if len(members) == 1
        else Group(members[0].name, dict(itertools.chain.from_iterable(group.cells.items() for group in members)))
        for members in alike.values()
    ]


def _words_but(group: Group, key: str) -> tuple[object, ...]:
    """The words of all cells without ``key``'s values; of a group that may not be joined, its name too."""
    cells = list(group.cells.values())
    words = [key if text.startswith(f"{key}=") else text for cell in cells for text in cell.overrides]
    apart = key not in words or not all(cell.asked.together for cell in cells)
    return (group.name, *words) if apart else tuple(words)


def _renamed(group: Group, used: dict[str, int]) -> Group:
    """By task and methods, with a number where an earlier group is ``used`` to that name."""
    methods = dict.fromkeys(cell.config.method.label for cell in group.cells.values())
    name = "-".join((group.config.task.name, *methods))
    used[name] = used.get(name, 0) + 1
    return Group(name if used[name] == 1 else f"{name}-{used[name]}", group.cells)


@dataclass(frozen=True)
class StabilityJob:
    """Cells whose stability one process measures, with ``asked`` resamples and seeds of each."""

    name: str
    cells: tuple[str, ...]
    asked: Asked


def done_marker(folder: Path, resamples: int, seeds: int) -> Path:
    """The file in a cell's folder that says that so many resamples and seeds, or more, are measured."""
    return folder / "stability" / f"resamples{resamples}-seeds{seeds}.done"


def unmark(folder: Path) -> None:
    """Have the workflow measure a cell's stability again, of which some file is gone: searches that are there stay."""
    for path in (folder / "stability").glob("*.done"):
        path.unlink()


def check_depends_on_prompts(cell: CellConfig) -> None:
    """Raise PahqError for a cell whose circuit would be the same on any prompts."""
    if cell.method.name == "random":
        raise PahqError(
            "stability asks what other prompts would give, and method random draws scores from its seed; leave it out"
        )


def stability_jobs(found: Iterable[Group], of: str = "marked") -> list[StabilityJob]:
    """Jobs of up to ``CELLS`` cells that share task, method, model, seed and how much is asked.

    ``of``: marked, the cells whose rows ask for it; all, marked or not, those with ``RESAMPLES``; none. Raises
    PahqError for another word.
    """
    if of not in STABILITY_OF:
        raise unknown("stability_of", of, STABILITY_OF)
    alike: dict[tuple[str, str, str, int, int], list[str]] = {}
    for cell_id, cell in itertools.chain.from_iterable(group.cells.items() for group in found):
        config = cell.config
        every = of == "all" and config.method.name != "random"
        resamples = cell.asked.resamples or (RESAMPLES if every else 0)
        if resamples and of != "none":
            key = (config.task.name, config.method.label, config.model.name, config.seed, resamples)
            alike.setdefault(key, []).append(cell_id)
    result: list[StabilityJob] = []
    used: dict[str, int] = {}
    for (task, method, *_, resamples), ids in alike.items():
        for first in range(0, len(ids), CELLS):
            name = f"{task}-{method}-n{resamples}"
            used[name] = used.get(name, 0) + 1
            own = name if used[name] == 1 else f"{name}-{used[name]}"
            result.append(StabilityJob(own, tuple(ids[first : first + CELLS]), Asked(resamples=resamples)))
    return result
