"""The house's floors: imports point down only, and big guests stay in their rooms.

All imports count, those inside functions too; only what stands under ``if TYPE_CHECKING`` does not run.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pahq

PACKAGE = Path(pahq.__file__).resolve().parent
FLOORS = (  # from the ground up
    ("errors", "sentences"),
    ("files", "data"),
    ("circuits",),
    ("config",),
    ("model",),
    ("tasks", "precision"),
    ("engine",),
    ("search", "scores"),
    ("cell",),
    ("experiments", "verify", "resamples", "faithfulness"),
    ("analysis",),
    ("report",),
    ("api",),
    ("commandline",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
COMMANDLINE = (
    "application",
    "circuits",
    "claims",
    "completion",
    "experiments",
    "here",
    "options",
    "run",
    "tracking",
    "trust",
)  # where words are declared
GUESTS = {
    "hydra": {"commandline.hydrarun", "experiments.compose", "experiments.composer", "experiments.typed"},
    "omegaconf": {"commandline.hydrarun", "experiments.compose", "experiments.composer"},
    "wandb": {"cell.lineage", "cell.tracking", "report.dashboard"},
    "wandb_workspaces": {"report.dashboard"},
    "transformer_lens": {"model.sources.huggingface"},
    "tokenizers": {
        "model.sources.gguf",
        "model.sources.ggufgemma",
        "model.sources.huggingface",
        "model.sources.tokenizer",
        "tasks.encoder",
    },
    "gguf": {"model.sources.gguf"},
    "transformers": {"model.sources.huggingface"},
    "matplotlib": {
        *("analysis.agreementfigures", "analysis.colours", "analysis.drawing", "analysis.errorfigure"),
        *("analysis.figures", "analysis.labels", "analysis.methodsfigure", "analysis.pairsfigure"),
        *("analysis.stabilityfigures", "report.drawing"),
    },
    "jinja2": {"report.html"},
    "markdown_it": {"report.html"},
    "scipy": {"faithfulness.bootstrap", "faithfulness.hypotheses"},
    "triton": {"model.fusedkernel"},
    "snakemake": set(),
    "typer": {"__main__", *(f"commandline.{name}" for name in COMMANDLINE)},
    "rich": {"commandline.output"},
}
ROOT = {"__main__", "api", "errors", "sentences"}  # all that stands at the package's root, beside its front door
NO_TORCH_ROOMS = ("__main__", "circuits", "commandline", "config", "errors", "experiments", "files", "sentences")
NO_TORCH = (
    "analysis.names",
    "cell.files",
    "cell.journal",
    "cell.result",
    "cell.story",
    "report.cells",
    "report.dot",
    "report.terminal",
    "resamples.command",
    "resamples.measures",
    "resamples.variants",
    "search.acdc",
    "search.band",
    "search.doubt",
    "search.follow",
    "search.sample",
    "search.speculate",
)


def modules() -> dict[str, Path]:
    """Every module of the package but its front door, by its dotted name below ``pahq``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and parts[0] != "conf":
            found[name] = path
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a file imports when it runs; ``from a import b`` counts as a.b."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


@cache
def imported(name: str) -> list[str]:
    return list(imports(ast.parse(MODULES[name].read_text())))


def floor_of(name: str) -> int:
    """The floor of a module below ``pahq``; KeyError names a room that no floor has."""
    return FLOOR[name.split(".")[0]]


@pytest.mark.parametrize("name", list(MODULES))
def test_imports_point_down(name: str) -> None:
    for target in imported(name):
        if not target.startswith("pahq."):
            continue
        inner = target.removeprefix("pahq.")
        if inner.split(".")[0] not in FLOOR:  # a name of the front door, such as pahq.__version__
            assert inner == "__version__", target
            continue
        own_room = inner.split(".")[0] == name.split(".")[0]
        assert own_room or floor_of(inner) <= floor_of(name), f"pahq.{name} imports upward: {target}"


@pytest.mark.parametrize("guest", list(GUESTS))
def test_guests_stay_in_their_rooms(guest: str) -> None:
    hosts = {name for name in MODULES for target in imported(name) if target.split(".")[0] == guest}
    assert hosts <= GUESTS[guest]


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    rooms = {name.split(".")[0] for name in MODULES}
    assert rooms <= set(FLOOR), f"rooms without a floor: {rooms - set(FLOOR)}"
    assert set(FLOOR) <= rooms, f"floors name rooms that are gone: {set(FLOOR) - rooms}"


def test_this_test_sees_an_upward_import() -> None:
    text = "def f():\n    from pahq.cell.run import run_cell\n    import wandb\n"
    assert list(imports(ast.parse(text))) == ["pahq.cell.run.run_cell", "wandb"]
    assert floor_of("cell.run") > floor_of("circuits.graph")
    assert set(NO_TORCH) <= set(MODULES)


def test_only_five_modules_stand_at_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *ROOT}


def test_no_torch_is_imported() -> None:
    """Not even through what these modules import: one after another in one process, the first that does so is named."""
    names = [name for name in MODULES if name.split(".")[0] in NO_TORCH_ROOMS or name in NO_TORCH]
    assert len(names) > 50
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(f'pahq.{name}')\n"
    code += "    assert 'torch' not in sys.modules, name\n"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_front_door_imports_nothing() -> None:
    code = (
        "import sys, pahq; assert pahq.__version__; heavy = {'torch', 'hydra', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy; assert callable(pahq.build_graph); assert 'torch' not in sys.modules;"
        "assert callable(pahq.run_cell) and callable(pahq.load_model); assert 'transformer_lens' not in sys.modules;"
        "assert set(pahq.__all__) <= set(dir(pahq)); [getattr(pahq, name) for name in pahq.__all__]"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_front_door_knows_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pahq.nothing  # noqa: B018
