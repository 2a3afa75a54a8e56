"""A stand-in for Kubernetes' server: it knows one pod, and runs each Job's command here as a process of its own.

It shows that what is handed over can be run and is told apart rightly; not what a real cluster would do with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

JOBS, PODS = "/apis/batch/v1/namespaces/default/jobs", "/api/v1/namespaces/default/pods"
OF_OTHERS = "not-to-be-deleted"  # a Job that the server does not let us delete


def pod(folder: Path) -> dict[str, Any]:
    """The pod of profiles/kubernetes/run.yaml as a server would tell it, its volume mounted at ``folder``."""
    token = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    return {
        "metadata": {"name": "driver", "uid": "0-1"},
        "spec": {
            "serviceAccountName": "pahq",
            "securityContext": {"runAsUser": 1000},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [
                {
                    "name": "pahq",
                    "image": "registry.example/pahq:0.2.0",
                    "env": [{"name": "HOME", "value": "/data/.home"}],
                    "resources": {"limits": {"memory": "4Gi"}},
                    "volumeMounts": [{"name": "data", "mountPath": str(folder)}, token],
                }
            ],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "pahq"}},
                {"name": "kube-api-access-x", "projected": {"sources": []}},
            ],
        },
    }


class Server(ThreadingHTTPServer):
    """``bodies``: every Job that was made, by its name."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pod = pod(folder)
        self.bodies: dict[str, dict[str, Any]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.lock = Lock()

    @property
    def variables(self) -> dict[str, str]:
        """What ``submit`` and the others need to find it."""
        return {"PAHQ_KUBERNETES": f"http://127.0.0.1:{self.server_port}", "PAHQ_POD": "driver"}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == f"{PODS}/driver":
            return self.answer(200, self.server.pod)
        name = self.path.removeprefix(f"{JOBS}/")
        if name not in self.server.running:
            return self.answer(404, {})
        ended = self.server.running[name].poll()
        told = {None: {"active": 1}, 0: {"succeeded": 1}}.get(ended, {"failed": 1})
        return self.answer(200, self.server.bodies[name] | {"status": told})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            name = f"{body['metadata']['generateName']}{len(self.server.bodies)}"
            self.server.bodies[name] = body
        [container] = body["spec"]["template"]["spec"]["containers"]
        self.server.running[name] = subprocess.Popen(
            container["command"], cwd=container["workingDir"], start_new_session=True, stderr=subprocess.DEVNULL
        )
        self.answer(201, body | {"metadata": {"name": name}})

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].removeprefix(f"{JOBS}/")
        if name == OF_OTHERS:
            return self.answer(403, {})
        found = self.server.running.pop(name, None)
        if found is None:
            return self.answer(404, {})
        _end(found)
        return self.answer(200, {})

    def answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Server]:
    """Within, jobs can be submitted whose folder is below ``folder``; afterwards none of them runs."""
    with Server(folder) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            for process in server.running.values():
                _end(process)
            thread.join()
