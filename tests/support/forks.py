"""Commands in processes of their own that need not import torch anew: forked from one that has done so.

Starting ``pahq`` takes two seconds of a core, nearly all of it torch's import, and the documentation starts it some
sixty times. ``Forks`` keeps a process that has imported the libraries, and nothing of pahq; its folder ``bin`` has a
``pahq`` and a ``python`` that ask it for a fork with their own arguments, folder, variables and files. What runs in the
fork is what would have run: the same module, found the same way.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "numpy", "pandas", "scipy.stats", "pydantic", "hydra", "matplotlib.figure", "safetensors.torch")
CLIENT = """#!{python} -SE
import array, json, os, socket, sys
asked = {{"program": os.path.abspath(sys.argv[0]), "arguments": sys.argv[1:]}}
asked |= {{"folder": os.getcwd(), "variables": dict(os.environ)}}
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
text = json.dumps(asked).encode()
server.sendmsg([len(text).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(text)
sys.exit(int(server.recv(16) or b"1"))
"""


class Forks:
    """A context: the server runs inside it."""

    def __init__(self, folder: Path) -> None:
        self.bin, self._address = folder / "bin", str(folder / "socket")
        self.bin.mkdir(parents=True)
        for name in ("pahq", "python"):
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, address=self._address))
            (self.bin / name).chmod(0o755)

    def __enter__(self) -> Forks:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._address)
            listening.listen()
            command = [sys.executable, "-m", "support.forks"]
            place = {"PYTHONPATH": str(Path(__file__).parents[1])}
            self._server = subprocess.Popen(command, stdin=listening, env=os.environ | place, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)  # and every fork that still runs
        self._server.wait()


def serve() -> None:
    """Fork for whoever connects to the socket that is standard input."""
    sys.path = [path for path in sys.path if path not in ("", str(Path(__file__).parents[1]))]
    for name in LIBRARIES:
        __import__(name)
    for name in [name for name in sys.modules if name.split(".")[0] in ("support", "pahq")]:
        del sys.modules[name]
    listening = socket.socket(fileno=0)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listening, *running.values()], [], [], 0.02 if running else None)
        for child, client in list(running.items()):
            if client in ready:  # whoever asked has gone: a client sends nothing more
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if client in ready else os.WNOHANG)
            if ended:
                _answer(running.pop(child), os.waitstatus_to_exitcode(status))
        if listening not in ready:
            continue
        client, _ = listening.accept()
        size, (rights, *_), *_ = client.recvmsg(8, socket.CMSG_SPACE(12))
        asked, files = json.loads(_exactly(client, int.from_bytes(size, "big"))), array.array("i", rights[2])
        child = os.fork()
        if child == 0:
            for number, file in enumerate(files):
                os.dup2(file, number)
            for held in (listening, client, *running.values()):
                held.detach() if held is listening else held.close()
            for file in files:
                os.close(file)
            _run(**asked)
        for file in files:
            os.close(file)
        running[child] = client


def _answer(client: socket.socket, status: int) -> None:
    with client, suppress(OSError):  # whoever asked may be gone
        client.sendall(str(128 - status if status < 0 else status).encode())  # by a signal: as a shell says it


def _exactly(client: socket.socket, size: int) -> bytes:
    text = b""
    while len(text) < size:
        text += client.recv(size - len(text))
    return text


def _run(program: str, arguments: list[str], folder: str, variables: dict[str, str]) -> None:
    """What the program would do, ``python`` or ``pahq``; never returns. Python beside it is the one of the fork too."""
    name, sys.executable = os.path.basename(program), str(Path(program).parent / "python")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    own = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = own
    if any((Path(path) / "sitecustomize.py").exists() for path in own):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    status: Any = 0
    try:
        if name == "pahq":
            sys.argv = [name, *arguments]
            runpy.run_module("pahq", run_name="__main__", alter_sys=False)
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path.insert(0, folder)
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path.insert(0, folder)
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int):
        status = 0 if status is None else sys.stderr.write(f"{status}\n") and 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
