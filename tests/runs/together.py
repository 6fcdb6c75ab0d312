"""Start the program as several processes of this machine, and compare what it did."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from program import ROOT

SCRIPT = str(Path(__file__).with_name("hosts.py"))
# Seconds of silence after which a process counts as lost, in the tests.
HEARTBEAT = 30


def free_port(low=0, high=65536):
    """Find a port that nobody uses, in a range if need be."""
    while True:
        with socket.socket() as free:
            try:
                free.bind(("localhost", low))
            except OSError:
                low += 1
                continue
            port = free.getsockname()[1]
            assert port < high
            return port


def by_hand(port, count, i):
    """How process i of a run is started by a person."""
    return [
        f"--coordinator=localhost:{port}",
        f"--num-processes={count}",
        f"--process-id={i}",
        f"--heartbeat-timeout={HEARTBEAT}",
    ]


def slurm(port, count, i):
    """The environment that srun gives task i of a job, whose number gives the port."""
    return {
        "SLURM_JOB_ID": str(port - 61440 + 4096),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": "0",
    }


def start_hosts(lines, *, count=2, under_slurm=False, asked=None):
    """Start `count` processes of one device each; all run the same command lines."""
    port = free_port(61440, 65536) if under_slurm else free_port()
    hosts = []
    for i in range(count):
        joining = ["--distributed"] if under_slurm else by_hand(port, count, i)
        mine = [[*lines[0], *joining], *lines[1:]]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "PYTHONPATH": str(ROOT),
            **(slurm(port, count, i) if under_slurm else {}),
            **({"ASKED": f"{asked}-{i}"} if asked else {}),
        }
        hosts.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, json.dumps(mine)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return hosts


def finished_hosts(hosts, timeout=600):
    """Wait for all of them; return (status, stdout, stderr) of each."""
    try:
        said = [host.communicate(timeout=timeout) for host in hosts]
    finally:
        for host in hosts:
            host.kill()  # no effect on one that has ended
    return [
        (host.returncode, without_gloo(out), without_gloo(err))
        for host, (out, err) in zip(hosts, said, strict=True)
    ]


def without_gloo(text):
    """Leave out what the CPU backend's collectives say of themselves."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo]")
    )


def sums(workdir, step):
    """Read a checkpoint's checksums; they are verified whenever its arrays are read."""
    path = workdir / f"checkpoints/{step}/metadata/metadata.json"
    found = json.loads(path.read_text())["checksums"]
    assert len(found["params"]) > 20
    return found
