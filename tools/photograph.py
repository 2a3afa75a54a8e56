"""Photographs a page of ``pahq show --out FILE.html`` in a headless Chromium.

    python tools/photograph.py circuit.html circuit.png [light|dark]
    python tools/photograph.py sweep.html#0.1 sweep.png

Chromium is spoken to through pipes, so that no package is needed for it; the tests of the page use the same browser.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run")


class Browser:
    """One tab. ``errors`` are what the console was told of, ``requests`` the addresses that the page asked for."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1400, 900), *, dark: bool = False) -> None:
        assert FOUND is not None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number, self._held = 0, b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [FOUND, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        moved = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        tabs = self._ask("Target.getTargets")["targetInfos"]
        target = next(tab["targetId"] for tab in tabs if tab["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{room}.enable")
        width, height = size
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path, place: str = "") -> None:
        self._ask("Page.navigate", url=page.resolve().as_uri() + place)
        while not self.tell("document.readyState === 'complete' && location.protocol === 'file:'"):
            time.sleep(0.05)

    def tell(self, expression: str) -> Any:
        """What a JavaScript expression is worth on the page; AssertionError with its words where it throws."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._ask("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def move(self, x: float, y: float) -> None:
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def photograph(self, out: Path) -> None:
        taken = io.BytesIO(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))
        Image.open(taken).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            out, "png", optimize=True
        )

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._in], [], [], 60)
            assert ready, "Chromium says nothing"
            read = os.read(self._in, 1 << 20)
            assert read, "Chromium has ended"
            self._held += read
        message, _, self._held = self._held.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(values["exceptionDetails"].get("exception", values)))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.errors.append(str(values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait()


def main(argv: Sequence[str]) -> int:
    """``PAGE FILE [light|dark]``. 0, or 2 on bad input and where there is no Chromium."""
    if len(argv) not in (2, 3) or (len(argv) == 3 and argv[2] not in ("light", "dark")):
        print("usage: python tools/photograph.py PAGE.html[#PLACE] FILE.png [light|dark]", file=sys.stderr)
        return 2
    name, mark, place = argv[0].partition("#")
    if FOUND is None or not Path(name).exists():
        print(f"photograph: there is no {'Chromium' if FOUND is None else name}", file=sys.stderr)
        return 2
    dark = argv[2:] == ["dark"]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Browser(Path(folder), (1280, 860), dark=dark) as browser,
    ):
        browser.open(Path(name), mark + place)
        time.sleep(0.5)  # until what is drawn on the canvas is there
        browser.photograph(Path(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
