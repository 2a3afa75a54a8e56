"""Fetching from a hub, against a small one on this machine: resume, checksums, mirror, cache, one-sentence refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from support.places import ROOT

from pahq.errors import PahqError
from pahq.model import load_model, save_model
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.sources.hub import fetch
from pahq.model.weights import ModelConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny"
PIECE = 10 << 20


class Hub:
    """What the hub answers to the requests that a download makes; ``requests`` keeps (method, path, Range)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sha256: dict[str, str] = {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut_at: int | None = None  # the next weights sent stop after so many bytes
        self.down = False  # files are answered with 503
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fetched(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file's content."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.requests.append((request.command, path, request.headers["Range"]))
        if path == f"/api/models/{NAME}/revision/{COMMIT}":
            return self.send_json(request, {"id": NAME, "sha": COMMIT, "siblings": self.listing("rfilename", "blobId")})
        if path.startswith(f"/api/models/{NAME}/tree/{COMMIT}"):
            return self.send_json(request, [{"type": "file"} | file for file in self.listing("path", "oid")])
        name = path.rsplit("/", 1)[-1]
        if path != f"/{NAME}/resolve/{COMMIT}/{name}" or name not in self.files:
            return self.send(request, 404, b"")
        if self.down and request.command == "GET":
            return self.send(request, 503, b"")
        content, status = self.files[name], 200
        etag = self.sha256[name] if self.large(name) else git_sha1(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(request, status, content[start:], headers, cut=self.large(name))
        return None

    @staticmethod
    def large(name: str) -> bool:
        return name.endswith(".safetensors")

    def listing(self, path: str, blob: str) -> list[dict[str, object]]:
        found = []
        for name, content in self.files.items():
            entry: dict[str, object] = {path: name, blob: git_sha1(content), "size": len(content)}
            if self.large(name):
                hashed = {"sha256": self.sha256[name], "oid": self.sha256[name]}
                entry["lfs"] = hashed | {"size": len(content), "pointerSize": 130}
            found.append(entry)
        return found

    def send_json(self, request: BaseHTTPRequestHandler, value: object) -> None:
        self.send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        request.send_response(status)
        for key, value in (headers or {}).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut and self.cut_at is not None:
            body, self.cut_at = body[: self.cut_at], None
            request.close_connection = True
        request.wfile.write(body)


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model of 14 MB: huggingface_hub writes pieces of 10 MiB."""
    sizes = {"d_model": 6, "d_head": 3, "d_mlp": 5, "d_vocab": 600_000, "d_vocab_out": 600_000, "context": 5}
    config = ModelConfig(layers=1, heads=2, kv_heads=2, norm="layer", tied_embedding=True, **sizes)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in tensor_shapes(config).items()}
    folder = tmp_path_factory.mktemp("repository")
    save_model(model_from_tensors(config, tensors), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"training_args.bin": b"no weights"}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(dict(files))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def get(hub: Hub, cache: Path) -> Path:
    return fetch(NAME, COMMIT, cache=cache, endpoint=hub.url)


def partials(cache: Path) -> list[Path]:
    return list(cache.glob("*/blobs/*.pahq-partial"))


def test_a_model_is_fetched_whole_and_then_no_more(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = get(hub, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}  # not the pickle
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert load_model(folder).digest == hub.sha256["model.safetensors"]
    assert "model.safetensors: 100%" in capfd.readouterr().err
    assert not partials(tmp_path)
    before = len(hub.requests)
    assert get(hub, tmp_path) == folder
    assert len(hub.requests) == before


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = PIECE + 500
    folder = get(hub, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert hub.fetched("model.safetensors") == [None, f"bytes={PIECE}-"]


def test_another_call_goes_on_where_one_was_cut(hub: Hub, tmp_path: Path) -> None:
    size = len(hub.files["model.safetensors"])
    blobs = tmp_path / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hub.sha256['model.safetensors']}.pahq-partial"
    partial.write_bytes(hub.files["model.safetensors"][:700])
    hub.down = True
    with pytest.raises(PahqError, match=r"the hub refused 'org/tiny' at revision 0123456789ab \(.*503") as caught:
        get(hub, tmp_path)
    assert "\n" not in str(caught.value)
    assert partial.stat().st_size == 700 < size
    hub.down = False
    folder = get(hub, tmp_path)
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert hub.fetched("model.safetensors")[-1] == "bytes=700-"


def test_a_killed_process_loses_nothing_that_it_had(hub: Hub, tmp_path: Path) -> None:
    """The server stops in mid-file and keeps the line open; the process is killed; the next one asks for the rest."""
    content = hub.files["model.safetensors"]
    code = f"""
import os, signal, sys
from pathlib import Path
import huggingface_hub.file_download as downloads
plain = downloads.http_get
def killed(url, into, **options):
    into.write({content[:600]!r})
    into.flush()
    os.kill(os.getpid(), signal.SIGKILL)
downloads.http_get = killed
from pahq.model.sources.hub import fetch
fetch({NAME!r}, {COMMIT!r}, cache=Path({str(tmp_path)!r}), endpoint={hub.url!r})
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    [left] = partials(tmp_path)
    assert left.stat().st_size == 600
    get(hub, tmp_path)
    assert hub.fetched("model.safetensors") == ["bytes=600-"]
    assert not partials(tmp_path)


def test_a_download_of_another_checksum_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    good = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(PahqError, match=r"model.safetensors of hub model 'org/tiny' does not have the sha256"):
        get(hub, tmp_path)
    assert not partials(tmp_path)
    hub.files["model.safetensors"] = good
    assert (get(hub, tmp_path) / "model.safetensors").read_bytes() == good


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_cached_file_that_changed_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    blob = (get(hub, tmp_path) / name).resolve()
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + b"!")
    with pytest.raises(PahqError, match=f"{name} of hub model 'org/tiny' does not have the checksum .* delete .*blobs"):
        get(hub, tmp_path)
    blob.unlink()
    assert (get(hub, tmp_path) / name).read_bytes() == good


def test_a_cache_filled_by_hand_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    """Plain files below snapshots/, as a copy on another machine leaves them."""
    folder = tmp_path / "models--org--tiny" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    assert get(hub, tmp_path) == folder
    assert hub.requests == []


def test_a_repository_of_pickles_is_refused_with_the_way_out(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "model_final.pth": b"pickle"}
    with pytest.raises(PahqError, match=r"no safetensors weights at 0123456789ab; .*pickle.*docs/models.md") as caught:
        get(hub, tmp_path)
    assert "\n" not in str(caught.value)
    assert hub.fetched("model_final.pth") == []


def test_a_hub_that_cannot_be_reached_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(PahqError, match=r"^hub model 'org/tiny' is not in the cache and the hub cannot be reached \("):
        get(hub, tmp_path)


def test_an_unknown_model_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(PahqError, match="the hub refused 'org/other' at revision 0123456789ab") as caught:
        fetch("org/other", COMMIT, cache=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value)


def models(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``pahq models`` on the fake hub's model, by environment variables alone."""
    command = [sys.executable, "-m", "pahq", "models", NAME, "--revision", COMMIT, "--out", str(tmp_path / "out.json")]
    settings = {"HF_HUB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)


def test_the_command_line_takes_a_mirror_and_then_goes_offline(hub: Hub, tmp_path: Path) -> None:
    refused = models(tmp_path, HF_HUB_OFFLINE="1")
    assert refused.returncode == 2
    assert refused.stderr == (
        "pahq: error: hub model 'org/tiny' is not in the cache, and HF_HUB_OFFLINE forbids fetching it\n"
    )
    mirrored = models(tmp_path, HF_ENDPOINT=hub.url)
    assert mirrored.returncode == 0, mirrored.stderr
    assert json.loads((tmp_path / "out.json").read_text())["digest"] == hub.sha256["model.safetensors"]
    assert "model.safetensors: 100%" in mirrored.stderr
    (tmp_path / "out.json").unlink()
    asked = len(hub.requests)
    offline = models(tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert json.loads((tmp_path / "out.json").read_text())["digest"] == hub.sha256["model.safetensors"]
    assert len(hub.requests) == asked
