"""Importing the library is light: no device is touched, nothing optional is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_jax

PACKAGE = Path(ddpm_jax.__file__).parent
MODULES = [
    ".".join(["ddpm_jax", *path.relative_to(PACKAGE).with_suffix("").parts])
    for path in sorted(PACKAGE.rglob("*.py"))
    # The playground is for those who have installed gradio.
    if path.name != "__main__.py" and "playground" not in path.parts
]
NEVER = {"torch", "tensorflow", "keras", "sklearn", "wandb", "gradio", "diffusers"} | {
    "tensorboardX",
    "tensorflow_datasets",
    "huggingface_hub",
    "argcomplete",
    "tokenizers",
    # What is loaded where it is used, since it takes as long as JAX itself.
    "diffrax",
    "equinox",
    "matplotlib",
}

PROBE = """
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
if "jax" in sys.modules:
    import jax
    jax.config.update("jax_num_cpu_devices", 3)  # an error once there are devices
    assert jax.device_count() == 3
"""


def loaded_by(modules, path=PACKAGE.parent):
    """Import modules in a new process; return the names of all packages it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(modules=modules)],
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(path)},
        cwd=path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing():
    assert not loaded_by(["ddpm_jax"]) & (NEVER | {"jax", "numpy"})


def test_no_module_touches_a_device_or_loads_what_is_seldom_needed():
    found = loaded_by(MODULES)
    assert "jax" in found
    assert not found & NEVER


def test_the_probe_notices_a_device(tmp_path):
    (tmp_path / "touches.py").write_text("import jax\njax.devices()\n")
    with pytest.raises(AssertionError, match="jax_num_cpu_devices"):
        loaded_by(["touches"], path=tmp_path)
