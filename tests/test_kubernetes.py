"""The Kubernetes profile: its jobs' specification, what it tells Snakemake, and a whole run (`make kubernetes`)."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import kubernetes
from support.places import ROOT

PROFILE = ROOT / "profiles" / "kubernetes"
SETTINGS: dict[str, Any] = yaml.safe_load((PROFILE / "config.yaml").read_text())
RUN = list(yaml.safe_load_all((PROFILE / "run.yaml").read_text()))
WORDS = ("--rule", "cells", "--cores", "1", "--memory", "1500", "--minutes", "10", "--gpus", "0")


def call(server: kubernetes.Server, name: str, *words: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(PROFILE / name), *words],
        cwd=folder,
        env=os.environ | server.variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def valid(body: dict[str, Any]) -> None:
    """Against Kubernetes' own schema, where it is installed (pip install kubernetes-validate)."""
    if importlib.util.find_spec("kubernetes_validate"):
        import kubernetes_validate

        kubernetes_validate.validate(body, "1.31", strict=True)


def test_a_job_is_like_its_pod_and_asks_for_what_was_estimated(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\necho done > here\n")
    with kubernetes.cluster(tmp_path) as server:
        name = call(server, "submit", *WORDS[:-1], "2", "job.sh", folder=tmp_path)
        while (told := call(server, "status", name, folder=tmp_path)) == "running":
            time.sleep(0.05)
        body = server.bodies[name]
    assert told == "success"
    assert (tmp_path / "here").read_text() == "done\n"
    spec = body["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert container["image"] == "registry.example/pahq:0.2.0"
    assert container["env"] == [{"name": "HOME", "value": "/data/.home"}]
    most = {"memory": "1500Mi", "nvidia.com/gpu": 2}
    assert container["resources"] == {"requests": most | {"cpu": 1}, "limits": most}
    assert (spec["activeDeadlineSeconds"], body["spec"]["backoffLimit"]) == (600, 0)
    assert "activeDeadlineSeconds" not in body["spec"]  # it would run while the Job waits for a node
    assert [one["name"] for one in spec["volumes"]] == ["data"]  # and not what proves that a pod may submit
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {"runAsUser": 1000}
    assert body["metadata"]["ownerReferences"][0]["uid"] == "0-1"
    valid(body)


def test_failure_cancelling_and_a_folder_on_no_volume_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("exit 3")
    (tmp_path / "long.sh").write_text("sleep 60")
    with kubernetes.cluster(tmp_path) as server:
        bad, long = (call(server, "submit", *WORDS, f"{name}.sh", folder=tmp_path) for name in ("bad", "long"))
        server.running[bad].wait()
        assert call(server, "status", bad, folder=tmp_path) == "failed"
        assert call(server, "status", long, folder=tmp_path) == "running"
        cancelled = ["cancel", kubernetes.OF_OTHERS, "no-such-job", long]
        lost, outside = {"PAHQ_KUBERNETES": "http://127.0.0.1:9"}, dict[str, str]()
        for words, variables, code, sentence in (
            (["submit", *WORDS, str(tmp_path / "bad.sh")], server.variables, 1, "/ is on no volume that other pods"),
            (cancelled, server.variables, 1, f"{kubernetes.OF_OTHERS}?propagationPolicy=Background with 403"),
            (["status", bad], lost, 0, "is asked again later"),
            (["status", bad], outside, 0, "this is no pod with a service account"),
            (["cancel", bad], outside, 1, "cancel: this is no pod with a service account"),
        ):
            command = [sys.executable, str(PROFILE / words[0]), *words[1:]]
            done = subprocess.run(command, cwd="/", env=os.environ | variables, capture_output=True, text=True)
            assert sentence in done.stderr
            assert "Traceback" not in done.stderr
            assert done.returncode == code
        assert call(server, "status", long, folder=tmp_path) == "failed"


def test_the_profile_says_what_the_plugin_and_the_commands_know() -> None:
    commands = {name: shlex.split(SETTINGS[f"cluster-generic-{name}-cmd"]) for name in ("submit", "status", "cancel")}
    for name, words in commands.items():
        assert words[0] == f"/app/profiles/kubernetes/{name}"  # where the Dockerfile puts the project
        assert os.access(PROFILE / name, os.X_OK)
    assert commands["submit"][1::2] == list(WORDS[::2])
    named = {word[len("{resources.") : -1] for word in commands["submit"] if word.startswith("{resources.")}
    assert named == set(SETTINGS["default-resources"])  # so that every job has them
    if importlib.util.find_spec("snakemake_executor_plugin_cluster_generic"):
        from snakemake_executor_plugin_cluster_generic import ExecutorSettings

        known = {f"cluster-generic-{field.name.replace('_', '-')}" for field in fields(ExecutorSettings)}
        assert {key for key in SETTINGS if key.startswith("cluster-generic")} <= known


def test_what_starts_a_run_is_valid_and_may_do_what_jobs_need() -> None:
    for body in RUN:
        valid(body)
    by_kind = {body["kind"]: body for body in RUN}
    rights = {(name, verb) for rule in by_kind["Role"]["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert rights == {("jobs", "create"), ("jobs", "get"), ("jobs", "delete"), ("pods", "get")}
    spec = by_kind["Job"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert by_kind["Job"]["spec"]["backoffLimit"] == 0  # a pod that somebody deletes does not come again
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert container["workingDir"].startswith(container["volumeMounts"][0]["mountPath"])
    assert (
        spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == by_kind["PersistentVolumeClaim"]["metadata"]["name"]
    )


@pytest.mark.skipif("PAHQ_WHOLE_KUBERNETES" not in os.environ, reason="make kubernetes runs it: it takes minutes")
def test_an_experiment_runs_through_the_profile(tmp_path: Path) -> None:
    """From a folder of a volume as in a pod; only where the commands lie is said otherwise."""
    here = {key: str(SETTINGS[key]).replace("/app/", f"{ROOT}/") for key in SETTINGS if key.startswith("cluster")}
    quick = ["--seconds-between-status-checks", "1", "--latency-wait", "10", "--jobs", "2"]
    said = [word for key, value in here.items() for word in (f"--{key}", value)]
    words = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(PROFILE), *said, *quick]
    sizes = ("random_circuits=5", "inflated=5")
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    with kubernetes.cluster(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, *words, "--config", "experiment=smoke", "wandb=disabled", *sizes],
            cwd=tmp_path,
            env=variables | server.variables,
            capture_output=True,
            text=True,
        )
        bodies = list(server.bodies.values())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results" / "report.html").is_file()
    by_rule = {body["metadata"]["annotations"]["pahq/rule"]: body for body in bodies}
    for body in bodies:
        valid(body)
    asked = [
        by_rule[rule]["spec"]["template"]["spec"]["containers"][0]["resources"] for rule in by_rule if "cells" in rule
    ]
    assert asked
    assert all(one["limits"]["memory"] != "4000Mi" for one in asked)  # estimated, and not the profile's default
    assert json.loads(next(tmp_path.glob("results/cells/*/*/result.json")).read_text())["tests"] > 0
