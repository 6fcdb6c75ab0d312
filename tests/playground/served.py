"""A playground served in a process of its own."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds, for what takes a few
ENV = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}


@contextmanager
def serving(workdir=None, **environment):
    """Start the playground at a free port; give its process and address."""
    named = [] if workdir is None else [f"--workdir={workdir}"]
    arguments = ["-m", "ddpm_jax.playground", *named, "--port=0"]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**ENV, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        said = process.stdout.readline()
        address = re.match(r"(http://127\.0\.0\.1:\d+)", said)
        assert address, f"{said}{process.stderr.read() if process.poll() else ''}"
        yield process, address[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)
