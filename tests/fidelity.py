"""Parts of torch-fidelity, each imported for itself.

Importing the whole package would import torchvision, which these parts do not need.
"""

import importlib
import sys
import types

import pytest


def part(name):
    """Import one module of torch-fidelity; the test is skipped where there is none."""
    if "torch_fidelity" not in sys.modules:
        spec = importlib.util.find_spec("torch_fidelity")
        if spec is None:
            pytest.skip("pip install --no-deps torch-fidelity")
        package = types.ModuleType("torch_fidelity")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["torch_fidelity"] = package
    return importlib.import_module(f"torch_fidelity.{name}")
