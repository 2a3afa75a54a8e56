"""A file cut, and a bit of one flipped, in every kind of file that a finished experiment has."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from faultbench import Bench, Lost, need, sentence_of
from faultruns import EXPERIMENT, REPORT, Told

from pahq.__main__ import main
from pahq.cell.files import SCORES, cell_folder
from pahq.errors import PahqError
from pahq.experiments.compose import cells
from pahq.experiments.jobs import Cell
from pahq.files.frames import read_parquet

CELL_FILES = ("config.json", "provenance.json", "decisions.jsonl", "circuit.json", "result.json")
STABILITY = ("stability.json", "inclusion.parquet", "stability/resample-000.json", "stability/provenance.json")
MADE = (f"analysis/{EXPERIMENT}/cells.parquet", f"analysis/{EXPERIMENT}/faithfulness/tracr-proportion.parquet")
TABLE = f"analysis/{EXPERIMENT}/tables/circuits.parquet"
SCORED = ("-m", "task=tracr-proportion", "method=eap-ig", "size=5,7", "run.root=results", "wandb=disabled")
STABLE = ("stability", "--n", "2", "--seeds", "0", "--root", "results", "--no-progress")
TIMED = "stability/resample-000.json"  # holds seconds: equal but for those
FAITHFULNESS = ("faithfulness", "--random-circuits", "3", "--inflated", "3", "--no-progress")
HOW = ("cut", "flip")


def _told(words: Sequence[str], folder: Path) -> Told:
    """A command of pahq in this process: damage lies there and waits, and starting a process takes seconds."""
    said, before, clock = io.StringIO(), Path.cwd(), time.monotonic()
    os.chdir(folder)
    try:
        with redirect_stdout(said), redirect_stderr(said):
            code = main(list(words))
    finally:
        os.chdir(before)
    return Told(code, said.getvalue(), time.monotonic() - clock)


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Cut a file anywhere, or flip one bit of it; its time stays, as a failing disk leaves it."""
    content, times = path.read_bytes(), path.stat()
    at = rng.randrange(len(content))
    flipped = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    path.write_bytes(content[:at] if how == "cut" else flipped)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def damaged(name: str, bench: Bench) -> str:
    """A file of two cells, or of their stability or faithfulness: cut in the first, a bit flipped in the second."""
    folder, rng = bench.copy(f"damaged-{name.replace('/', '-')}"), random.Random(name)
    results, known = folder / "results", cells(EXPERIMENT)
    bad = [results / "cells" / one for one, cell in known.items() if _marked(cell)]
    others = [results / "cells" / one for one, cell in known.items() if not _marked(cell)]
    if name == SCORES:
        told = _told(SCORED, folder)
        need(told.code == 0, f"{' '.join(SCORED)} ended with {told.code}", told)
        others, bad = [*bad, *others], [path.parent for path in sorted(results.glob(f"cells/*/*/{SCORES}"))]
    assert (len(bad), len(others) > 1) == (2, True)
    before, sound = [_state(one) for one in others], [(one / name).read_bytes() for one in bad]
    for one, how in zip(bad, HOW, strict=True):
        damage(one / name, how, rng)
    shown = [str((one / name).relative_to(folder)) for one in bad]
    asked = [str(one.relative_to(folder)) for one in bad] if name == SCORES else [EXPERIMENT]
    told = _told(("repair", *asked, "--root", "results", "--no-progress"), folder)
    need(told.code == 0, f"pahq repair ended with {told.code}", told)
    need(all(f"{path} is damaged" in told.output for path in shown), f"pahq repair does not name {shown}", told)
    need(before == [_state(one) for one in others], "another cell was done again", told)
    if name == SCORES:
        need(sound == [(one / name).read_bytes() for one in bad], "other scores than those that were there", told)
        return "pahq repair named both and scored those cells alone again: the same scores"
    if name not in CELL_FILES:
        maker = FAITHFULNESS if name == "faithfulness.json" else STABLE
        told = _told((maker[0], *(str(one.relative_to(folder)) for one in bad), *maker[1:]), folder)
        need(told.code == 0, f"pahq {maker[0]} ended with {told.code}", told)
        need(sound == [(one / name).read_bytes() for one in bad] or name == TIMED, "made anew, and not the same", told)
    compared = {str((one / own).relative_to(results)) for one in bad for own in (name, *CELL_FILES)}
    need(not (found := compared & set(bench.differences(folder))), f"not as undisturbed: {', '.join(found)}", told)
    again = "and computed those cells alone anew" if name in CELL_FILES else f"and pahq {maker[0]} made them anew"
    return f"pahq repair named both, {again}: as undisturbed"


def damaged_together(bench: Bench) -> str:
    """A cell's own file in one cell, files of stability and faithfulness in another; then the workflow."""
    folder, rng = bench.copy("damaged-together"), random.Random("together")
    first, second = (cell_folder(folder / "results", one) for one, cell in cells(EXPERIMENT).items() if _marked(cell))
    damage(first / "decisions.jsonl", "flip", rng)
    for name in STABILITY[1:]:
        damage(second / name, "cut", rng)
    told = _told(("repair", EXPERIMENT, "--root", "results", "--no-progress"), folder)
    need(told.code == 0, f"pahq repair ended with {told.code}", told)
    return f"pahq repair set {told.output.count(' is damaged: ')} files aside; {bench.goes_on(folder, REPORT)}"


def _marked(cell: Cell) -> bool:
    """Whether the experiment measures the cell's stability."""
    return cell.asked.resamples > 0


def _state(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def damaged_analysis(bench: Bench) -> str:
    """Files that tables are made from, cut, and then with a flipped bit: refused by name; gone, they are made anew."""
    folder, rng = bench.copy("damaged-analysis"), random.Random("analysis")
    before = _state(folder / "results" / "cells")
    for path in (folder / "results" / name for name in MADE):
        sound = path.read_bytes()
        for how in HOW:
            path.write_bytes(sound)
            damage(path, how, rng)
            told = _told(("tables", EXPERIMENT, "--root", "results"), folder)
            named = told.code == 2 and str(path.relative_to(folder)) in sentence_of(told.output)
            need(named, f"{how}: pahq tables does not name {path.name}", told)
        path.write_bytes(sound)
    for name in MADE:
        (folder / "results" / name).unlink()
    for words in (("evaluate", EXPERIMENT), (FAITHFULNESS[0], EXPERIMENT, *FAITHFULNESS[1:]), ("tables", EXPERIMENT)):
        told = _told((*words, "--root", "results"), folder)
        need(told.code == 0, f"pahq {words[0]} ended with {told.code}", told)
    need(not (found := bench.differences(folder)), f"not as undisturbed: {', '.join(found)}")
    need(before == _state(folder / "results" / "cells"), "cells were done again")
    return "pahq tables refused each by name; pahq evaluate and faithfulness made them anew, and no cell was touched"


def damaged_table(name: str, bench: Bench) -> str:
    """A table as Parquet, which nothing but people read."""
    folder, rng = bench.copy(f"damaged-{name.replace('/', '-')}"), random.Random(name)
    path = folder / "results" / name
    sound = path.read_bytes()
    for how in HOW:
        path.write_bytes(sound)
        damage(path, how, rng)
        try:
            read_parquet(path.parent, path.stem)
        except PahqError as error:
            need(str(path) in str(error), f"{how}: it is refused without a name: {error}")
        else:
            raise Lost(f"{how}: it is read as if it were whole")
    told = _told(("tables", EXPERIMENT, "--root", "results"), folder)
    need(told.code == 0 and path.read_bytes() == sound, "pahq tables does not make it anew", told)
    return "refused by name when it is read; pahq tables made it anew, byte for byte"
