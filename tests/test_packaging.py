"""What a stranger gets: a wheel that works from another folder, a lock that fits, a conda file that says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import check
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.places import ROOT

from pahq import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def required(extra: str | None = None) -> dict[str, Requirement]:
    """Requirements of pyproject.toml by canonical name."""
    project = PROJECT["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def locked() -> dict[str, list[Requirement]]:
    """Pins of requirements.lock by canonical name; a package may have one pin for each Python."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line[:1].isalnum():
            pin = Requirement(line.rstrip(" \\"))
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built without the network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python`` in another folder, on the wheel's files: PYTHONPATH goes before an editable install."""
    variables = os.environ | {"PYTHONPATH": str(unpacked), "WANDB_MODE": "disabled"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True)


def test_the_wheel_holds_configuration_and_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("conf", "pahq/data", "pahq/report"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                inside = path.relative_to(ROOT).as_posix()
                assert (f"pahq/{inside}" if folder == "conf" else inside) in names
    assert "pahq/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"pahq", f"pahq-{__version__}.dist-info"}


def test_the_wheel_works_from_another_folder(unpacked: Path, tmp_path: Path) -> None:
    where = run(unpacked, tmp_path, "-c", "import pahq.experiments.compose as e; print(e.configuration_folder())")
    assert where.stdout.strip() == str(unpacked / "pahq" / "conf")
    shown = run(unpacked, tmp_path, "-m", "pahq", "--help")
    assert shown.returncode == 0
    assert "tracr-proportion-zero" in shown.stdout
    assert run(unpacked, tmp_path, "-m", "pahq", "--cfg", "job").returncode == 0
    done = run(unpacked, tmp_path, "-m", "pahq", "task=tracr-proportion", "task.examples=4", "method=acdc")
    assert done.returncode == 0, done.stderr
    [result] = (tmp_path / "results" / "cells" / "tracr-proportion").glob("acdc-*/result.json")
    assert json.loads(result.read_text())["tests"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == __version__ == str(citation["version"])
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    assert "The PAHQ authors" in (ROOT / "LICENSE").read_text()


def test_the_lock_meets_every_requirement_and_pins_what_it_pins_by_hash() -> None:
    pins = locked()
    for name, requirement in (required() | required("dev")).items():
        if name == "torch":
            continue
        for python in ("3.11", "3.12", "3.13", "3.14"):
            place = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
            [pin] = [p for p in pins[name] if p.marker is None or p.marker.evaluate(place)]
            [version] = [spec.version for spec in pin.specifier]
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version} on {python}"
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text())
    assert all("--hash=sha256:" in block for block in blocks if "==" in block)


def test_torch_stands_apart_and_brings_no_cuda() -> None:
    pins = locked()
    assert not [name for name in pins if name == "torch" or name.startswith(("nvidia", "cuda", "triton"))]
    [line] = [x for x in (ROOT / "requirements-torch.txt").read_text().splitlines() if not x.startswith("#")]
    pin = Requirement(line)
    [version] = [spec.version for spec in pin.specifier]
    assert pin.name == "torch"
    assert required()["torch"].specifier.contains(version)


def test_the_lock_names_no_machine_and_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    for unwanted in ("://", "--index", "--find-links", "/opt", "/home", "/tmp", "+cpu"):
        assert unwanted not in text


def test_the_conda_file_names_the_same_packages_and_ranges() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert "Not executed here" in text
    content: dict[str, Any] = yaml.safe_load(text)
    plain = [line for line in content["dependencies"] if isinstance(line, str)]
    [by_pip] = [line["pip"] for line in content["dependencies"] if isinstance(line, dict)]
    channels = {}
    found = {}
    for line in [*plain, *by_pip]:
        channel, _, spec = line.rpartition("::")
        requirement = Requirement(spec)
        name = canonicalize_name(CONDA_NAMES.get(requirement.name, requirement.name))
        found[name], channels[name] = requirement.specifier, channel
    expected = {name: requirement.specifier for name, requirement in required().items()}
    assert found.pop("python") == Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert {"pip", "python-graphviz"} <= set(found)
    assert {name: spec for name, spec in found.items() if name not in ("pip", "python-graphviz")} == expected
    assert channels["snakemake"] == "bioconda"
    assert {canonicalize_name(Requirement(line).name) for line in by_pip} == {"transformer-lens", "wandb-workspaces"}


def test_the_two_commands_exist_and_the_check_is_the_second() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "reproduce", "test", "nano", "format", "lock", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert "tools/check.py --whole" in makefile
    runs = {" ".join(command) for command in (*check.LINTERS, *check.BESIDE_TESTS, check.PYTEST)}
    for tool in ("ruff check", "ruff format --check", "snakefmt --check", "mypy", "snakemake --lint", "pytest"):
        assert any(run.startswith(tool) for run in runs)
    entrance = ROOT / ".ci" / "run"
    assert os.access(entrance, os.X_OK)
    assert "make test" in entrance.read_text()


def test_every_push_and_pull_request_runs_the_readmes_test_command() -> None:
    content = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(content[True]) == {"push", "pull_request"}  # YAML reads the key `on` as a truth
    assert content["permissions"] == {"contents": "read"}
    [job] = content["jobs"].values()
    assert (job["runs-on"], job["timeout-minutes"]) == ("ubuntu-latest", 45)
    steps = [step.get("uses", step.get("run")) for step in job["steps"]]
    assert steps[0].startswith("actions/checkout@")
    assert steps[-1] == "make test"
    assert "\nmake test " in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("linter", "files"),
    [
        ("shellcheck", ["benchmarks/*.sh", ".ci/run"]),
        ("actionlint", [".github/workflows/*.yml"]),
        ("hadolint", ["Dockerfile"]),
    ],
)
def test_linters_of_scripts_find_nothing_where_they_are_installed(linter: str, files: list[str]) -> None:
    paths = [str(path) for pattern in files for path in ROOT.glob(pattern)]
    assert len(paths) >= len(files)
    scripts = {str(path) for path in ROOT.glob("*/*.sh")}
    assert linter != "shellcheck" or scripts <= set(paths)
    if shutil.which(linter) is None:
        pytest.skip(f"no {linter} here")
    done = subprocess.run([linter, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """The check comes before anything is created, so it can be tried with a stand-in for Python."""
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    stand_in = tmp_path / "python3.15"
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    stand_in.chmod(0o755)
    done = subprocess.run(["make", "setup", f"PYTHON={stand_in}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"pahq needs Python 3.11 to 3.14, and {stand_in} is none of them" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_cluster_extra_is_pinned_beside_the_lock() -> None:
    text = (ROOT / "requirements-cluster.txt").read_text()
    pins = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if line[:1].isalnum()]
    found: dict[str, set[str]] = {}
    for pin in pins:
        found.setdefault(canonicalize_name(pin.name), set()).update(spec.version for spec in pin.specifier)
    for name, requirement in required("cluster").items():
        assert all(requirement.specifier.contains(version) for version in found[name]), name
    own = {name: {spec.version for pin in pins for spec in pin.specifier} for name, pins in locked().items()}
    assert {name: versions for name, versions in found.items() if not versions <= own.get(name, versions)} == {}
    assert text.count("--hash=sha256:") >= len(pins)
    content = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    assert (content["executor"], content["retries"]) == ("slurm", 2)
    assert set(content["default-resources"]) == {"mem_mb", "runtime"}
