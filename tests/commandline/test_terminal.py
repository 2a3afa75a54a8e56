"""Tables and help: in boxes and colours on a terminal, plain where they are piped."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.forks import Forks

from pahq.__main__ import main
from pahq.cell.files import cell_folder
from pahq.cell.run import run_cell
from pahq.commandline.application import PANELS
from pahq.config.cell import RunConfig
from pahq.experiments.compose import compose_runs

COLOUR = re.compile(r"\x1b\[[0-9;]*3[1-6]m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    forks: Forks, words: Sequence[str], variables: Mapping[str, str] | None = None, width: int = 110
) -> str:
    """What a command writes to a terminal of 60 lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, width, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    with subprocess.Popen(
        [str(forks.bin / "pahq"), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **(variables or {})},
    ) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            told += part
            if not part:
                break
    os.close(ours)
    assert process.returncode == 0, told.decode()
    return told.decode()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two circuits of one task."""
    root = tmp_path_factory.mktemp("pair")
    run = RunConfig(root=str(root), wandb="disabled", progress=False)
    found = []
    for threshold in ("0.1", "0.5"):
        [(cell, _)] = compose_runs(["task=tracr-reverse", "method=acdc", f"threshold={threshold}"])
        run_cell(cell, run)
        found.append(str(cell_folder(root, cell.id)))
    return found


@pytest.mark.parametrize("words", [["models", "nano"], ["--help"], ["verify", "--help"]], ids=" ".join)
def test_a_terminal_has_colours_and_a_pipe_none(
    forks: Forks, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = on_terminal(forks, words)
    assert "\x1b[" in told
    assert not COLOUR.search(on_terminal(forks, words, {"NO_COLOR": "1"}))
    assert words[-1] == "--help" or "\x1b" not in on_terminal(
        forks, words, {"NO_COLOR": "1"}
    )  # nor in bold, as typer's help
    assert "\x1b" not in on_terminal(forks, words, {"TERM": "dumb"})
    assert main(words) == 0
    piped = capsys.readouterr().out
    assert not set("\x1b╭│─") & set(piped)
    facts = re.findall(r"\w{5,}", piped)
    assert set(facts) - {"Usage", "Options"} <= set(re.findall(r"\w{5,}", ESCAPE.sub("", told)))


def test_two_circuits_stand_side_by_side(forks: Forks, pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    told = on_terminal(forks, ["diff", *pair], width=160)
    rows = [re.split(r"\s{2,}", line.strip()) for line in ESCAPE.sub("", told).splitlines()]
    assert ["A", "B"] in rows
    assert ["cell", *(f"tracr-reverse/{Path(one).name}" for one in pair)] in rows
    assert ["edges", "9", "0"] in rows
    assert [row[0] for row in rows if "kept a3.h0->logits (effect 0.4815)" in row] == ["parts at test 2"]
    assert "faithfulness on A's task" in told
    assert rows[-1] == ["0 edges in both, 9 left, 0 came: Jaccard index 0.000 (by chance 0.000)"]
    narrow = ESCAPE.sub("", on_terminal(forks, ["diff", *pair], width=60))
    assert "…" not in narrow  # names are folded, never cut
    assert main(["diff", *pair]) == 0
    assert capsys.readouterr().out.startswith("A  tracr-reverse/acdc-")


def test_looks_stand_in_a_table_that_grows(forks: Forks, tmp_path: Path) -> None:
    told = on_terminal(forks, ["doctor", "--root", str(tmp_path)], {"HF_HUB_OFFLINE": "1"})
    assert COLOUR.search(told)
    plain = ESCAPE.sub("", told)
    for what in ("packages", "torch", "device", "results", "formats", "tracking", "hub", "exactness"):
        assert re.search(rf"(ok|note) +{what} ", plain), what
    assert plain.index("decided alike by both engines") > plain.index("relative error of a random matrix")


def test_help_is_grouped_and_nothing_in_it_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    told = capsys.readouterr().out
    for panel, commands in PANELS.items():
        assert f"\n{panel}:\n" in told
        for name in commands:
            assert re.search(rf"^  {name} +[A-Z].*\.$", told, re.M), name
    assert not re.search(r"[a-z]\.\.\.$", told, re.M)
    assert max(map(len, told.splitlines())) <= 80
    assert not re.search(r"[a-z]-$", told, re.M)  # names stay whole


@pytest.mark.parametrize("command", [name for names in PANELS.values() for name in names])
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"Usage: pahq {command}")
    assert "--json" in told
    assert all("|" in kind for kind in re.findall(r"<(.*?)>", told))  # choices, and no types of Python's


def test_a_path_that_output_cannot_encode_is_told_with_escapes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pahq", "wandb", "dashboard", "--out", str(tmp_path / "caf\u00e9.json")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/caf\\xe9.json\n"
    assert (tmp_path / "caf\u00e9.json").exists()


def test_output_that_nobody_reads_on_is_no_fault() -> None:
    """Hydra logs what it shows here, and a log tells each line that it cannot write by a traceback."""
    command = '"$@" | { read -r line; echo "$line"; }'
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "pahq", "--info", "all"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.startswith("Hydra 1.3")
    assert done.stderr == ""  # nor is it told there what standard output shows


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "status"), [(["--version"], 0), (["show", "--help"], 0), (["show", "nowhere"], 2)])
def test_output_that_is_closed_is_none(words: list[str], status: int, closed: str) -> None:
    command = f'exec "$@" {closed}'
    done = subprocess.run(["sh", "-c", command, "sh", sys.executable, "-m", "pahq", *words], capture_output=True)
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
