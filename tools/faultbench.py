"""Where faults happen, and what must hold after one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from faultruns import Told, differences, run, workflow


class Lost(Exception):
    """Something is lost, silently wrong, or does not complete."""


class Skipped(Exception):
    """This machine cannot have that fault."""


@dataclass(frozen=True)
class Bench:
    """Where faults happen. ``whole``: the folder of the undisturbed run, which took ``seconds`` and left ``files``."""

    base: Path
    whole: Path
    seconds: float
    files: int

    def empty(self, name: str) -> Path:
        (self.base / name).mkdir()
        return self.base / name

    def copy(self, name: str) -> Path:
        """A copy of the undisturbed run; times of files too, so that Snakemake finds nothing to do."""
        shutil.copytree(self.whole, self.base / name)
        return self.base / name

    def keep(self, folder: Path) -> Path:
        """Put aside what went wrong, to be looked at."""
        shutil.copytree(folder, self.base / f"{folder.name}.lost")
        return self.base / f"{folder.name}.lost"

    def differences(self, folder: Path) -> list[str]:
        return differences(self.whole / "results", folder / "results")

    def goes_on(self, folder: Path, *goals: str) -> str:
        """The same command again must complete, with the undisturbed run's tables."""
        told = run(workflow(folder, *goals), folder)
        need(told.code == 0, f"the same command ended with {told.code}", told)
        need(not (found := self.differences(folder)), f"not as undisturbed: {', '.join(found)}", told)
        return f"the same command completed in {told.seconds:.0f} s, tables equal"


def need(holds: object, sentence: str, told: Told | None = None) -> None:
    if not holds:
        raise Lost(sentence if told is None else f"{sentence}; it said: {told.output[-600:].strip()}")


def sentence_of(output: str) -> str:
    """The one sentence in which pahq tells of a fault."""
    lines = [line for line in output.splitlines() if line.startswith("pahq: error: ")]
    return lines[0].removeprefix("pahq: error: ") if lines else ""
