"""A Slurm of one node on this machine, from Debian's packages, while a test runs. It needs root and no systemd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
PACKAGES = "slurmctld slurmd slurm-client munge"
CONFIGURATION = Path("/etc/slurm/slurm.conf")  # no other place: what SLURM_CONF names does not reach a job's srun
MARK = "# Written by PAHQ's tests"
CONTENT = """{mark}; it goes when they end.
ClusterName=pahq
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
KillWait=5
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, in one sentence; empty where there can be one."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "Slurm's daemons need root here"
    if CONFIGURATION.exists() and not CONFIGURATION.read_text().startswith(MARK):
        return f"{CONFIGURATION} is there: this machine has a Slurm of its own, which is left alone"
    return ""


@contextmanager
def one_node(folder: Path) -> Iterator[None]:
    """Within, jobs can be submitted; afterwards daemons and configuration are gone."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    said = {"mark": MARK, "host": socket.gethostname().split(".")[0], "folder": folder, "memory": memory * 9 // 10}
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(CONTENT.format(**said, cpus=os.cpu_count()))
    started: list[subprocess.Popen[bytes]] = []
    try:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            started.append(
                subprocess.Popen(["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", "-F"])
            )
            _wait(["munge", "-n"])
        started.append(subprocess.Popen(["/usr/sbin/slurmctld", "-D", "-c"], stderr=subprocess.DEVNULL))
        _wait(["sinfo"])
        started.append(subprocess.Popen(["/usr/sbin/slurmd", "-D"], stderr=subprocess.DEVNULL))
        _wait(["srun", "-N1", "true"])
        yield
    finally:
        subprocess.run(["scancel", "--full", "--user=root"], capture_output=True)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        CONFIGURATION.unlink()


def _wait(command: list[str], seconds: float = 30.0) -> None:
    """Until the command succeeds."""
    deadline = time.monotonic() + seconds
    while (done := subprocess.run(command, capture_output=True, text=True, timeout=60)).returncode:
        assert time.monotonic() < deadline, f"{' '.join(command)}: {done.stderr}"
        time.sleep(0.2)
