"""Words that a shell completes, asked for as bash and zsh ask."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer import _completion_shared

from pahq.__main__ import main
from pahq.commandline.application import PANELS
from pahq.commandline.completion import _COMPLETED, keys, values_of
from pahq.config.presets import GROUPS, options

PAHQ = (sys.executable, "-m", "pahq")


def asked(variables: Mapping[str, str]) -> list[str]:
    done = subprocess.run(PAHQ, env={**os.environ, **variables}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def completed(*words: str) -> list[str]:
    """What bash is offered for the last word; it takes ``task=nan`` for three."""
    return asked({"_PAHQ_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)})


NANO = ["nano-docstring", "nano-greaterthan", "nano-induction", "nano-ioi"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ver"], ["verify"]),
        (["--ver"], ["--version"]),
        (["--mu"], ["--multirun"]),
        (["task", "=", "nan"], NANO),
        (["task", "="], list(options("task"))),
        (["run", "task", "=", "nan"], NANO),
        (["run", "task", "=", "nano-ioi", "precision", "=", "int4"], ["int4", "int4s"]),
        (["-m", "task", "=", "nano-ioi", "method", "=", "eap-ig-"], ["eap-ig-activations"]),
        (["task=nano-i"], ["task=nano-induction", "task=nano-ioi"]),  # as zsh and fish have it
        (["thres"], ["threshold="]),
        (["method.arith"], ["method.arithmetic=network", "method.arithmetic=changes"]),
        (["wandb", "=", "off"], ["offline"]),
        (["run.lock", "="], ["true", "false"]),
        (["precision.format", "=", "au"], ["auto"]),
        (["task.examples", "=", "4"], []),
        (["evaluate", "sm"], ["smoke"]),
        (["stability", "compare-"], ["compare-real"]),
        (["faithfulness", "sm"], ["smoke"]),
        (["models", "na"], ["nano"]),
        (["models", "smo"], ["smollm2"]),
        (["verify", "x", "--en"], ["--engine"]),
        (["verify", "x", "--engine", ""], ["suffix", "reference"]),
        (["export", "x", "--format", "n"], ["networkx"]),
        (["report", "smoke", "--js"], ["--json"]),
        (["verify", "--colour", "x", "--en"], ["--engine"]),  # what is wrong is told when the command runs
    ],
    ids=lambda words: " ".join(words),
)
def test_a_word_is_completed(words: Sequence[str], offered: list[str]) -> None:
    assert completed("pahq", *words) == offered


def test_the_first_word_is_a_command_or_a_key() -> None:
    offered = completed("pahq", "")
    assert offered[:17] == [name for names in PANELS.values() for name in names]
    assert {"task=", "threshold=", "audit="} <= set(offered[17:])
    assert not [word for word in offered if "." in word]  # settings with dots come once a dot is there
    assert {"band.share=", "band.first="} <= set(completed("pahq", "band"))


def test_zsh_is_answered_in_its_own_way() -> None:
    words = asked({"_PAHQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "pahq task=nano-io"})
    assert words == ["_arguments", "'*:", ':(("task=nano-ioi"))\'']


def test_zsh_is_given_lines_that_complete_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a new version of typer must still be mended to; and nothing of typer's is touched for other commands."""
    before = dict(_completion_shared._completion_scripts)
    monkeypatch.setattr(_completion_shared, "_completion_scripts", dict(before))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--version"]) == 0
    assert _completion_shared._completion_scripts == before
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--show-completion", "zsh"])
    ours = _COMPLETED % {"complete_func": "_pahq_completion", "prog_name": "pahq"}
    assert ours.count("\n") == 2
    assert ours in capsys.readouterr().out


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``pahq`` is a command, and a home of its own."""
    command = tmp_path / "pahq"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pahq "$@"\n')
    command.chmod(0o755)
    own = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
    }
    return {**os.environ, **own, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


def test_bash_itself_completes(shell: dict[str, str]) -> None:
    """The lines that ``--show-completion`` prints, in a bash of their own."""
    script = """
    eval "$(pahq --show-completion bash)"
    COMP_WORDS=(pahq task = nano-io) COMP_CWORD=3
    _pahq_completion pahq
    echo "${COMPREPLY[@]}"
    complete -p pahq
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=shell)
    assert done.stdout == "nano-ioi\ncomplete -o default -F _pahq_completion pahq\n", done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here to complete with")
def test_fish_itself_completes(shell: dict[str, str]) -> None:
    """A command, an option and a word of a cell, by the file that ``--install-completion`` writes."""
    script = "pahq --install-completion fish >&2; "
    script += "; ".join(f"complete -C '{typed}'" for typed in ("pahq veri", "pahq verify x --en", "pahq task=nano-io"))
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, env=shell)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["verify", "--engine", "task=nano-ioi"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here to complete with")
def test_zsh_itself_completes_from_the_first_tab_on(shell: dict[str, str], tmp_path: Path) -> None:
    """The same, in a shell that reads the start-up file of ``--install-completion``."""
    subprocess.run([*PAHQ, "--install-completion", "zsh"], env=shell, check=True, capture_output=True)
    ours, theirs = pty.openpty()
    own = shell | {"TERM": "dumb", "PS1": "ready ", "ZDOTDIR": str(tmp_path)}
    process = subprocess.Popen(["zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=own)
    os.close(theirs)
    told = b""

    def until(wanted: bytes) -> None:
        nonlocal told
        while wanted not in told:
            ready, _, _ = select.select([ours], [], [], 60)
            assert ready, told
            told += os.read(ours, 65536)

    try:
        until(b"ready ")
        for typed, completed in (
            ("veri", "verify "),
            ("verify x --en", "--engine "),
            ("task=nano-io", "task=nano-ioi "),
        ):
            os.write(ours, f"\x15pahq {typed}\t".encode())
            until(completed.encode())
            told = b""
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_keys_and_their_values_are_the_configurations() -> None:
    assert len(set(keys())) == len(keys())
    assert {"task.examples", "method.training.steps", "band.share", "run.root", "seed"} <= set(keys())
    assert all(values_of(group) == options(group) for group in GROUPS)
    assert values_of("audit") == ("none", "float64", "band")
    assert values_of("threshold") == values_of("task.bos") == values_of("colour") == ()
