"""What was compiled once is found by the next start, wherever its folder lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

from program import ROOT, TINY

SHORT = ("--config.training.num_steps=2", "--config.training.preview_every=2")
SHORT += ("--config.training.checkpoint_every=2", "--config.training.warmup_steps=1")


def start(workdir, cache):
    """Train and draw in a process of its own; return counts and cached files."""
    driver = Path(__file__).with_name("count_compilations.py")
    train = [f"--config={TINY}", f"--workdir={workdir}", *SHORT]
    draw = ["sample", f"{workdir}"]
    given = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT),
        "DDPM_JAX_CACHE": str(cache),
    }
    done = subprocess.run(
        [sys.executable, str(driver), *train, "+", *draw],
        env=given | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.rpartition("counted ")[2])
    return counted, {path.name for path in (cache / "xla").glob("*-cache")}


def test_a_second_start_compiles_nothing(tmp_path):
    first, stored = start(tmp_path / "one", tmp_path / "cache")
    assert first["cache_misses"] > 20
    assert len(stored) == first["cache_misses"]  # also what took no time
    second, still = start(tmp_path / "another", tmp_path / "cache")
    assert second["cache_misses"] == 0
    assert second["cache_hits"] == second["compile_requests_use_cache"] > 20
    assert still == stored
