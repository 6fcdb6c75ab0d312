"""The ends of a table of betas, which published schedulers may choose."""

import jax.numpy as jnp
import numpy as np
import pytest
from settings import default

from ddpm_jax import build
from ddpm_jax.build import DataInfo
from ddpm_jax.errors import UserError

INFO = DataInfo("a data set", (32, 32, 3), None, "")


def config_of(**options):
    config = default()
    config.diffusion.update(options)
    return config


@pytest.mark.parametrize(("name", "power"), [("linear", 1), ("quadratic", 2)])
def test_the_ends_of_the_betas(name, power):
    config = config_of(schedule=name, num_levels=5, beta_start=0.01, beta_end=0.25)
    level = build.schedule(config).at(jnp.arange(5))
    betas = np.linspace(0.01 ** (1 / power), 0.25 ** (1 / power), 5) ** power
    np.testing.assert_allclose(level.alpha**2, np.cumprod(1 - betas), rtol=1e-6)


def test_an_end_left_out_is_that_of_the_paper():
    one = build.schedule(config_of(beta_end=0.02)).at(jnp.arange(1000))
    other = build.schedule(config_of()).at(jnp.arange(1000))
    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_a_schedule_without_ends():
    with pytest.raises(UserError, match=r"beta_end=0.1 does nothing with .*'cosine'"):
        build.check(config_of(schedule="cosine", beta_end=0.1), INFO)
