"""The documentation is true: its commands run as typed, its output is what comes out, its names and links exist.

Each page is read from top to bottom in a copy of the files of this clone, with the tests' own environment as ``.venv``.
A block that cannot run here says why in a comment (``support.pages``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.forks import Forks
from support.pages import RUN, Block, blocks, prose, shows
from support.places import ROOT

from pahq.config.band import BANDS
from pahq.config.cell import CellConfig, RunConfig
from pahq.config.method import USUAL, TrainingConfig
from pahq.experiments.compose import GROUPS, options
from pahq.experiments.workflow import Settings

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pahq/data/models/README.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EACH = pytest.mark.parametrize("name", NAMES)
CHECKED = {"checked with make -n", "settings checked"}
NOTES = {"not run", "numbers may differ", *CHECKED}
SHELL = "set -euo pipefail\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What git knows of this clone, new files included, and the environment of the tests as its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    copy = tmp_path / "clone"
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # not one that is gone, and no link to a folder
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


def run(block: Block, clone: Path, forks: Forks) -> str:
    """What a block prints to standard output; the test fails with all that it said if it fails."""
    command = ["bash", "-c", SHELL + block.text] if block.language == "sh" else ["python", "-c", block.text]
    variables = os.environ | {
        "PATH": f"{forks.bin}:{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),  # `pahq` is installed from somewhere; these are the copy's files
        "WANDB_MODE": "disabled",
    }
    done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check(line: str, clone: Path) -> None:
    """A line that would take too long: ``make`` says what it would do, Snakemake's settings are read."""
    words = line.split()
    if words[0] == "snakemake":
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        assert Settings.of(settings).experiment in options("experiment"), line
        return
    assert words[0] == "make", f"{line}: only make and snakemake can be checked without running them"
    done = subprocess.run(["make", "-n", *words[1:]], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("pahq no-such-command", 2, "pahq: error: "),
        ("python -c 'raise ValueError(3)'", 1, "ValueError: 3"),
        ("python -m pahq --version", 0, "pahq "),
        ("python -c 'import sys; sys.exit(7)'", 7, ""),
    ],
)
def test_a_fork_ends_as_the_command_would(text: str, status: int, says: str, clone: Path, forks: Forks) -> None:
    variables = os.environ | {"PATH": f"{forks.bin}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    done = subprocess.run(["bash", "-c", text], cwd=clone, env=variables, capture_output=True, text=True)
    assert done.returncode == status
    assert says in done.stdout + done.stderr


@EACH
def test_a_page_runs_as_typed(name: str, clone: Path, forks: Forks) -> None:
    printed = ""
    for block in blocks(ROOT / name):
        if block.file:
            (clone / block.file).write_text(block.text)
        elif block.language == "text" and block.follows and printed:
            assert shows(block.text, printed, digits=block.note is None), f"shown:\n{block.text}\nprinted:\n{printed}"
        elif block.language in RUN and block.note is None:
            printed = run(block, clone, forks)
            continue
        elif block.note in CHECKED:
            for line in block.lines:
                check(line, clone)
        printed = ""


@EACH
def test_blocks_say_what_they_are_and_why_they_do_not_run(name: str) -> None:
    for block in blocks(ROOT / name):
        assert block.language in (*RUN, "text") or block.file, f"a block without a known language: {block.text}"
        assert block.note is None or block.note in NOTES, block.note
        assert block.note is None or len(block.reason.split()) >= 4, f"no reason: {block.reason}"
    assert not re.search(r"^ {4,}(pahq|make|python|pip|snakemake|git) ", prose(ROOT / name), re.M), "not in a fence"
    assert "<!-- not run" not in prose(ROOT / name), "a comment that belongs to no block"


@EACH
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(ROOT / name)):
        if target.startswith("https://"):
            continue
        place, _, section = target.partition("#")
        there = (ROOT / name).parent / place if place else ROOT / name
        assert there.exists(), target
        if section:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert section in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@EACH
def test_files_that_a_page_names_exist(name: str) -> None:
    for path in re.findall(
        r"`((?:pahq|tests|tools|benchmarks|conf|docs|notebooks|workflow)/[\w./-]+)`", prose(ROOT / name)
    ):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`(pahq(?:\.[a-z_]+)+)`", prose(ROOT / name)):
        path = ROOT / module.replace(".", "/")
        parent = path.parent
        assert (
            path.is_dir()
            or path.with_suffix(".py").exists()
            or parent.with_suffix(".py").exists()
            or parent == ROOT / "pahq"
        ), module


def keys() -> set[str]:
    """Every key that a cell or a run has, with dots."""
    found = {f"run.{name}" for name in RunConfig.model_fields}
    for name, field in CellConfig.model_fields.items():
        below = getattr(field.annotation, "model_fields", {})
        found |= {name, *(f"{name}.{inner}" for inner in below)}
    return found


@EACH
def test_settings_that_a_page_names_exist(name: str) -> None:
    rooms = {key.split(".")[0] for key in keys() if "." in key}
    text = (ROOT / name).read_text()
    for key in re.findall(r"(?<![\w.])((?:" + "|".join(rooms) + r")\.[a-z_]+)=", text):
        assert key in keys() or key.startswith("hydra."), key
    made = {block.file for block in blocks(ROOT / name)}  # by the reader
    for group, value in re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=([\w-]+)", text):
        known = value in options(group) or f"conf/{group}/{value}.yaml" in made
        assert known or value.isupper(), f"{group}={value}"


@EACH
def test_settings_of_snakemake_that_a_page_names_exist(name: str) -> None:
    known = {field.name for field in fields(Settings)}
    assert set(re.findall(r"--config (\w+)=", (ROOT / name).read_text())) <= known


def test_the_table_of_snakemakes_settings_is_whole() -> None:
    text = (ROOT / "docs" / "running.md").read_text()
    table = text[text.index("| `--config` |") : text.index("## How far to trust a circuit")]
    assert set(re.findall(r"^\| `(\w+)=", table, re.MULTILINE)) == {field.name for field in fields(Settings)}


def defaults() -> dict[str, str]:
    """How the page of defaults is to show every setting's default, by the setting."""
    chosen = {
        group: name for entry in preset_of_all()["defaults"] if isinstance(entry, dict) for group, name in entry.items()
    }
    found = {f"run.{name}": told(field.default) for name, field in RunConfig.model_fields.items()}
    for name, field in CellConfig.model_fields.items():
        if name != "band":
            found[name] = told(chosen.get(name, field.default))
        for inner, one in getattr(field.annotation, "model_fields", {}).items():
            found[f"{name}.{inner}"] = f"the {name}'s" if one.is_required() else told(one.default)
            if name == "band":
                found[f"band.{inner}"] = ", ".join(told(getattr(band, inner)) for band in BANDS.values())
    for name in TrainingConfig.model_fields:
        values = [
            told(getattr(usual, name)) if (method, name) in READ else "refused" for method, usual in USUAL.items()
        ]
        found[f"method.training.{name}"] = ", ".join(values)
    return found


READ = {(method, key) for method, usual in USUAL.items() for key, value in usual if value is not None}
READ |= {("edge-pruning", "target")}  # what is usual there is the size of the circuit


def preset_of_all() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
    return values


def told(value: object) -> str:
    return f"`{'null' if value is None else str(value).lower()}`"


def test_the_page_of_defaults_has_every_setting_and_what_it_is() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| [^|]{4,} \|$", (ROOT / "docs" / "defaults.md").read_text(), re.M)
    assert len(rows) == len(dict(rows)), "a setting is there twice"
    assert dict(rows) == defaults()


def test_every_page_is_in_the_index_and_the_readme() -> None:
    for place in (ROOT / "docs" / "README.md", ROOT / "README.md"):
        text = place.read_text()
        for page in (ROOT / "docs").glob("*.md"):
            assert page.name == "README.md" or f"{page.name})" in text, f"{place.name} does not name {page.name}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_output_is_compared() -> None:
    assert shows("a-...: 3 tests, 4.2 s, x/...", "a-0f: 3 tests, 17.9 s, x/y\nmore")
    assert not shows("a-...: 3 tests", "a-0f: 4 tests")
    assert not shows("3 tests", "13 tests")
    assert shows("3 tests, 1e-06", "14 tests, 1e-07", digits=False)


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
