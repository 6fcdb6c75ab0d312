"""CONTRIBUTING.md names files that are there, and its steps lead to the end."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import build, config, data, specs
from ddpm_jax.build import names
from ddpm_jax.data import sources
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.schedules import Table

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
DIGITS = build.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")


def test_every_file_is_there():
    paths = re.findall(r"`([\w./-]+/[\w./-]*|[\w.-]+\.(?:py|md|yaml))`", TEXT)
    paths = [path for path in paths if path != ".venv"]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (names, "SAMPLERS"),
        (specs, "register"),
        (schedules, "Table ScheduleSpec"),
        (build, "model"),
        (sources, "load"),
        (data, "Dataset"),
    ],
)
def test_every_name_is_there(module, wanted):
    assert all(hasattr(module, name) and name in TEXT for name in wanted.split())


@pytest.fixture
def cfg():
    made = config.default()
    made.network.channels = made.network.num_groups = 4
    made.network.channel_multipliers = (1, 1)
    made.network.attention_resolutions = ()
    made.schedule.num_levels = made.preview_steps = 10
    return made


def test_a_schedule_needs_no_more_than_its_steps(cfg, monkeypatch):
    monkeypatch.setattr(specs, "_known", dict(specs._known))

    @specs.register
    @dataclasses.dataclass(frozen=True)
    class Halving(Table):
        def betas(self):
            return np.full(self.num_levels, 0.5)

    cfg.diffusion.schedule = "halving"
    build.check(cfg, DIGITS)
    alpha = build.schedule(cfg).at(jnp.arange(10)).alpha
    np.testing.assert_allclose(alpha**2, 0.5 ** np.arange(1, 11), rtol=1e-6)


def test_a_network_is_built_in_one_place(cfg):
    """A stranger's module goes through `network`, the only thing others know of it."""

    class Twice:
        def apply(self, variables, x_t, t, cond, *, train, rngs):
            assert not train
            return variables["params"] * x_t + t[:, None, None, None]

    apply = build.network(Twice())
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    out = apply(2.0, x, jnp.arange(3.0), None)
    np.testing.assert_allclose(out, 2 * x + np.arange(3)[:, None, None, None])
