"""The program under test: its smallest recipe, and how to start it."""

import os
import subprocess
import sys
from pathlib import Path

TINY = str(Path(__file__).with_name("tiny.py"))
ROOT = Path(__file__).parents[2]


def start(*arguments, num_devices=1):
    """Start main.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(num_devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
