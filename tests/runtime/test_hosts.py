"""Starting as one process of several: what cannot work is one line, and soon."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from together import free_port

from ddpm_jax.cli import main

HAND = ["--coordinator=node1:8476", "--num-processes=2", "--process-id=0"]
REFUSED = [
    (["--distributed", HAND[0]], "--distributed detects --coordinator by"),
    ([HAND[0]], "--coordinator given without --num-processes and --process-id"),
    (HAND[1:], "--num-processes and --process-id given without --coordinator"),
    (["--coordinator=node1", *HAND[1:]], "is not HOST:PORT"),
    (["--coordinator=node1:port", *HAND[1:]], "is not HOST:PORT"),
    (["--coordinator=:8476", *HAND[1:]], "is not HOST:PORT"),
    (["--coordinator=node1:99999", *HAND[1:]], "is not HOST:PORT"),
    ([HAND[0], "--num-processes=0", HAND[2]], "--num-processes=0 is too small"),
    ([HAND[0], "--num-processes=two", HAND[2]], "--num-processes=two is not a whole"),
    ([*HAND[:2], "--process-id=2"], "is not one of 2 processes; use 0 to 1"),
    ([*HAND[:2], "--process-id=-1"], "is not one of 2 processes"),
    (["--start-timeout=5"], "--start-timeout is for runs of several processes"),
    ([*HAND, "--heartbeat-timeout=0"], "--heartbeat-timeout=0 is too short"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_flags_that_do_not_fit_together_are_one_line(capsys, flags, message):
    assert main(["--config=configs/digits.py", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and re.search(message, line), line


def test_nobody_there_is_one_line_within_the_time_given(tmp_path):
    """A coordinator that is not there, others that do not come, and no cluster."""
    starts = {
        "no answer from the coordinator, localhost:": 1,
        "not all of 2 processes came": 0,
        "found no run of several processes": None,
    }
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = {}
    for said, i in starts.items():
        flags = ["--distributed"]
        if i is not None:
            where = f"--coordinator=localhost:{free_port()}"
            flags = [where, "--num-processes=2", f"--process-id={i}"]
        flags += [f"--workdir={tmp_path / 'run'}", "--start-timeout=2"]
        running[said] = subprocess.Popen(
            [sys.executable, "main.py", "--config=configs/digits.py", *flags],
            cwd=Path(__file__).parents[2],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
    for said, process in running.items():
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        (line,) = err.strip().splitlines()
        assert line.startswith("error: ") and said in line, line
    assert not (tmp_path / "run").exists()
