"""A rough map of the density of points; sampling/test_plane.py has the fine one."""

import contextlib
import functools

import pytest

from ddpm_jax.sampling import plane


@contextlib.contextmanager
def rough_map():
    """Map the density on few pixels, in few steps; it takes seconds, not minutes."""
    options = {"density_map": {"num_pixels": 32}, "model_density": {"num_steps": 4}}
    with pytest.MonkeyPatch.context() as patch:
        for name, quick in options.items():
            made = functools.partial(getattr(plane, name), **quick)
            patch.setattr(plane, name, made)
        yield
