"""Jobs of Snakemake as Jobs of Kubernetes, each like the pod that Snakemake itself runs in. Python's own library alone.

``submit``, ``status`` and ``cancel`` beside this file are what Snakemake calls. A job has the image and the volumes of
the pod that submits it, and cores, memory, minutes and GPUs of its own. So its working folder is the same one on the
same volume, and a search that is killed goes on from its journal there. Snakemake's own executor for Kubernetes gives
every job an empty folder instead, and carries declared outputs alone from one to the next; journals are none.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LIKE = ("imagePullSecrets", "nodeSelector", "runtimeClassName", "securityContext", "tolerations")  # of the pod
LIKE_CONTAINER = ("env", "envFrom", "image", "imagePullPolicy", "securityContext")
KEPT = 24 * 3600  # seconds that a Job can be looked at after its end


class ClusterError(Exception):
    """What went wrong, in one sentence."""


@dataclass(frozen=True)
class Asked:
    """What a job asks for: memory in MiB, a limit in minutes."""

    rule: str
    cores: int
    memory: int
    minutes: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """Kubernetes as a pod sees it: the server's address, the pod's namespace and name, and what proves who asks."""

    server: str
    namespace: str
    pod: str
    token: str | None = None
    authority: Path | None = None

    @classmethod
    def here(cls, variables: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Cluster:
        """Of the pod that this runs in. PAHQ_KUBERNETES, the address of a `kubectl proxy`, goes before."""
        pod = variables.get("PAHQ_POD") or variables.get("HOSTNAME", "")
        if "PAHQ_KUBERNETES" in variables:
            return cls(variables["PAHQ_KUBERNETES"], variables.get("PAHQ_NAMESPACE", "default"), pod)
        if "KUBERNETES_SERVICE_HOST" not in variables or not account.is_dir():
            raise ClusterError("this is no pod with a service account; profiles/kubernetes/run.yaml starts one")
        host, port = variables["KUBERNETES_SERVICE_HOST"], variables.get("KUBERNETES_SERVICE_PORT", "443")
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        name, token = ((account / file).read_text().strip() for file in ("namespace", "token"))
        return cls(server, name, pod, token, account / "ca.crt")

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The server's answer; ClusterError where it refuses, KeyError where what is asked for is not there."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}{path}", data, headers, method=method)
        trusted = None if self.authority is None else ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=60, context=trusted) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise KeyError(path) from None
            said = error.read().decode(errors="replace")[:500]
            raise ClusterError(f"Kubernetes answered {method} {path} with {error.code}: {said}") from None
        except OSError as error:
            raise ClusterError(f"Kubernetes does not answer {method} {path}: {error}") from None

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    def own_pod(self) -> dict[str, Any]:
        try:
            return self.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}")
        except KeyError:
            raise ClusterError(
                f"no pod {self.pod!r} in {self.namespace}; PAHQ_POD names the one that submits"
            ) from None


def job(pod: Mapping[str, Any], script: str, folder: str, asked: Asked) -> dict[str, Any]:
    """The Job that runs ``script`` in ``folder``, like ``pod``; ClusterError if that folder is on no volume of it."""
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    mounts = [one for one in container.get("volumeMounts", ()) if not one["mountPath"].startswith(str(ACCOUNT.parent))]
    volumes = [one for one in spec.get("volumes", ()) if one["name"] in {mount["name"] for mount in mounts}]
    lasting = {one["name"] for one in volumes if not {"emptyDir", "configMap", "secret", "projected"} & set(one)}
    places = [one["mountPath"] for one in mounts if one["name"] in lasting]
    if not any(Path(folder).is_relative_to(place) for place in places):
        raise ClusterError(f"{folder} is on no volume that other pods could mount; start Snakemake in a folder of one")
    most: dict[str, Any] = {"memory": f"{asked.memory}Mi"}
    if asked.gpus:
        most["nvidia.com/gpu"] = asked.gpus
    inside = {name: container[name] for name in LIKE_CONTAINER if name in container} | {
        "name": "job",
        "command": ["/bin/sh", "-c", script],
        "workingDir": folder,
        "volumeMounts": mounts,
        "resources": {"requests": {**most, "cpu": asked.cores}, "limits": most},
    }
    like = {name: spec[name] for name in LIKE if name in spec}
    own = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "generateName": "pahq-",
            "labels": {"app": "pahq"},
            "annotations": {"pahq/rule": asked.rule},
            "ownerReferences": [own],  # a pod that is deleted takes its jobs along
        },
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again, with more
            "ttlSecondsAfterFinished": KEPT,
            "template": {
                "metadata": {"labels": {"app": "pahq"}},
                "spec": like
                | {
                    "restartPolicy": "Never",
                    "activeDeadlineSeconds": 60 * asked.minutes,  # on the Job it would count waiting for a node, too
                    "automountServiceAccountToken": False,
                    "containers": [inside],
                    "volumes": volumes,
                },
            },
        },
    }


def state(found: Mapping[str, Any]) -> str:
    """``success``, ``failed`` or ``running``, in Snakemake's words, of a Job as the server tells it."""
    status = found.get("status", {})
    ends = {one["type"] for one in status.get("conditions", ()) if one["status"] == "True"}
    if "Complete" in ends or status.get("succeeded"):
        return "success"
    return "failed" if "Failed" in ends or status.get("failed") else "running"
