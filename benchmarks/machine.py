"""Provenance of a measurement: hardware, versions, date, revision, load."""

import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain")
TORCH_PACKAGES = ("torch", "diffusers", "denoising-diffusion-pytorch")


def describe(command: str) -> dict[str, Any]:
    """Describe this machine and program as plain data, to stand beside a figure."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "hardware": hardware(),
        "devices": devices(),
        "versions": versions(PACKAGES),
        # Of the last minute, before anything was measured: a busy machine gives
        # figures that are not valid, and the record should show it.
        "load_before": round(os.getloadavg()[0], 2),
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS")
            if name in os.environ
        },
    }


def devices() -> dict[str, Any]:
    """Say what JAX computes on: `threads` are the cores that its CPU devices share."""
    first = jax.devices()[0]
    return {
        "count": jax.device_count(),
        "kind": first.device_kind,
        "platform": first.platform,
        "threads": num_cores(),
    }


def num_cores() -> int:
    """Count the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def hardware() -> dict[str, Any]:
    """Name the processor, the memory, and the accelerators if JAX has any."""
    found = {"cpu": _cpu_model(), "cores": num_cores(), "memory_gib": _memory_gib()}
    accelerators = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    if accelerators:
        found["accelerators"] = accelerators
    return found


def _cpu_model() -> str:
    """Name the processor; virtual machines hide the model, and then numbers tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {
        name.strip(): value.strip()
        for name, _, value in (x.partition(":") for x in lines)
    }
    name = fields.get("model name", platform.machine())
    numbers = [fields.get(key) for key in ("cpu family", "model")]
    return f"{name} (family {numbers[0]}, model {numbers[1]})" if all(numbers) else name


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """Return the git revision, with "+changes" if files differ from it; "" if none."""

    def git(*words: str) -> str:
        root = Path(__file__).parents[1]
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def peak_memory() -> dict[str, int]:
    """Return the peak so far, bytes: of devices if they tell, and of the process."""
    found = {"process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if one]
    if peaks:  # the CPU backend keeps no count
        found["device_peak"] = max(peaks)
    return found


def compiled_memory(compiled: Any) -> dict[str, int]:
    """Return what XLA laid out for one device of a compiled program, bytes."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    names = ("argument", "output", "alias", "temp")
    sizes = {name: getattr(analysis, f"{name}_size_in_bytes") for name in names}
    # Donated arguments live on as outputs and would be counted twice.
    total = sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"]
    return {**sizes, "total": total}
