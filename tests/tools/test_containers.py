"""The Dockerfile is read whole, says what a recipe must say, and its steps are followed as Docker would follow them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from containerfile import left_out, plan, read
from containersteps import BASES, copy, home_of, inside
from support.places import ROOT

RECIPE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
SMALL = """
ARG KIND=one
FROM image@sha256:0 AS below-one
ENV A=1 B="two words"
FROM other@sha256:1 AS below-two
FROM below-${KIND}
# a comment
ARG WORD=x
RUN echo \\
    # another one
    && done
USER 7:8
WORKDIR /w
COPY --chown=1:2 a ${WORD} ./
CMD ["c", "d"]
"""


@pytest.mark.parametrize(("variant", "index"), [("cpu", "/whl/cpu"), ("cuda", "/whl/cu130")])
def test_both_variants_build_what_make_setup_builds(variant: str, index: str) -> None:
    found = plan(RECIPE, {"VARIANT": variant})
    name, _, digest = found.image.partition("@")
    assert name in BASES
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert found.command == ("pahq", "--help")
    runs = {step.words[0]: step for step in found.steps if step.name == "RUN"}
    for command in ("make packages", "make setup cluster"):  # whose pip checks the lock's hashes
        step = runs[command]
        assert (step.user, step.folder) == (found.user, "/app")
        assert dict(step.environment)["TORCH_INDEX"].endswith(index)
    executor = yaml.safe_load((ROOT / "profiles" / "kubernetes" / "config.yaml").read_text())["executor"]
    assert f"snakemake-executor-plugin-{executor}==" in (ROOT / "requirements-cluster.txt").read_text()
    assert not found.user.startswith("0")
    assert ("gcc" in " ".join(runs)) == (variant == "cuda")
    own = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"} & set(dict(found.environment))
    assert bool(own) == (variant == "cuda")


def test_a_recipe_becomes_steps() -> None:
    found = plan(SMALL, {"WORD": "y"})
    assert (found.image, found.command, found.user) == ("image@sha256:0", ("c", "d"), "7:8")
    run, folder, copied = found.steps
    assert (run.line, run.words, run.user, run.folder) == (9, ("echo && done",), "0:0", "/")
    assert dict(run.environment) | {"PATH": ""} == {"A": "1", "B": "two words", "WORD": "y", "PATH": ""}
    assert (folder.words, copied.words) == (("/w",), ("--chown=1:2", "a", "y", "./"))
    assert (copied.user, copied.folder) == ("7:8", "/w")
    assert plan(SMALL, {"KIND": "two"}).image == "other@sha256:1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FROM a\nADD b c", "line 2: ADD is none of ARG, CMD"),
        ("RUN x\nFROM a", "line 1: RUN stands above the first FROM"),
        ("FROM a\nRUN x \\\n", "line 2: the file ends in the middle of an instruction"),
        ("FROM a OR b", "line 1: FROM IMAGE"),
        ("# nothing", "there is no FROM"),
    ],
)
def test_what_cannot_be_followed_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read(text)


def test_an_argument_that_the_recipe_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no ARG of the Dockerfile is called 'TORCH'; there are TORCH_INDEX, VARIANT"):
        plan(RECIPE, {"TORCH": ""})


def test_nothing_that_git_ignores_and_no_secret_gets_into_an_image() -> None:
    for line in (ROOT / ".gitignore").read_text().split():
        if not line.startswith("!"):
            path = line.strip("/").replace("*", "x") + "/file"
            assert left_out(IGNORED, path), line
            if not line.startswith("/") and line not in (".venv/", "dist/", "build/", "outputs/"):
                assert line.startswith(".") or left_out(IGNORED, f"pahq/{path}"), line
    for secret in (".git/config", ".env", "conf/.env", ".netrc", "pahq/key.pem"):
        assert left_out(IGNORED, secret)
    for needed in ("Makefile", "requirements.lock", "pahq/cell/run.py", "results/README.md", "results/reference/a/b"):
        assert not left_out(IGNORED, needed)
    assert not left_out(["a/*", "!a/b"], "a/b/c")
    assert left_out(["!a/b", "a/*"], "a/b/c")
    assert not left_out(["x/**/y"], "z/x/a/y")


def test_files_are_copied_as_docker_copies_them(tmp_path: Path) -> None:
    context, root = tmp_path / "context", tmp_path / "root"
    for name in ("a/one", "a/deep/two", "b", ".git/config", "results/old/file", "results/reference/table"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / "link").symlink_to("a")
    owner = f"--chown={os.getuid()}:{os.getgid()}"
    two = plan(f"FROM i\nWORKDIR /w\nCOPY {owner} b a ./\nCOPY {owner} . /all", {}).steps[1:]
    assert copy(two[0], root, context, IGNORED) == 3
    assert {path.relative_to(root / "w").as_posix() for path in (root / "w").rglob("*") if path.is_file()} == {
        *("b", "one", "deep/two"),
    }
    assert copy(two[1], root, context, IGNORED) == 5
    assert not (root / "all" / ".git").exists()
    assert [path.name for path in (root / "all" / "results").iterdir()] == ["reference"]
    assert os.readlink(root / "all" / "link") == "a"
    with pytest.raises(FileNotFoundError, match="COPY c: no such file"):
        copy(plan("FROM i\nCOPY c .", {}).steps[0], root, context, IGNORED)


def test_a_command_is_run_in_a_root_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a root; exit 1"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("")
    lines: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: lines.append(words[words.index("-c") + 1]))
    inside(root, ["true"], "7:8", "/w", {}, ["/b b"])
    parts = [shlex.split(part) for part in lines[0].split(" && ")]
    assert [part[-1] for part in parts[:4]] == [f"{root}/proc", f"{root}/dev", f"{root}/b b", str(root)]
    assert parts[4] == ["exec", "chroot", "--userspec=7:8", str(root), "/usr/bin/env", "-i", "$@"]


def test_a_user_s_home_is_read_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\npahq:x:1000:1000::/home/pahq:/bin/sh\n")
    assert [home_of(tmp_path, user) for user in ("0:0", "1000:1000", "5")] == ["/root", "/home/pahq", "/"]
