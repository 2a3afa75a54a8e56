"""A notebook's cells run by IPython in this process, one after the other: no kernel, which would import torch anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


@dataclass(frozen=True)
class Ran:
    """``printed``: by cell of code. ``shown``: what cells showed, each as its texts by MIME type. ``names``: theirs."""

    printed: tuple[str, ...]
    shown: tuple[dict[str, Any], ...]
    names: dict[str, Any]

    def of(self, kind: str) -> list[str]:
        """What was shown of one MIME type."""
        return [one[kind] for one in self.shown if kind in one]

    @property
    def text(self) -> str:
        """All that was printed, and the plain form of all that was shown."""
        return "\n".join([*self.printed, *self.of("text/plain")])


def run(script: Path) -> Ran:
    """Run the notebook in the working folder; the first cell that fails raises what it raised."""
    cells = [cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code"]
    printed, shown = [], []
    shell = InteractiveShell.instance()
    try:
        for source in cells:
            with capture_output() as held:
                done = shell.run_cell(source)
            done.raise_error()
            printed.append(held.stdout)
            shown += [output.data for output in held.outputs]
            if done.result is not None:  # a kernel shows what a cell ends in
                shown.append(shell.display_formatter.format(done.result)[0])
        return Ran(tuple(printed), tuple(shown), dict(shell.user_ns))
    finally:
        shell.reset()
        InteractiveShell.clear_instance()
