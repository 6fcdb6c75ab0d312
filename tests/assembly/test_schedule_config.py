"""The ends of a table of betas, which published schedulers may choose."""

import jax.numpy as jnp
import numpy as np
import pytest
from settings import default

from ddpm_jax.errors import UserError


@pytest.mark.parametrize(("name", "power"), [("linear", 1), ("quadratic", 2)])
def test_the_ends_of_the_betas(name, power):
    made = default(
        f"schedule.kind={name}",
        "schedule.num_levels=5",
        "schedule.beta_start=0.01",
        "schedule.beta_end=0.25",
        "preview_steps=5",
    )
    level = made.task.schedule.build().at(jnp.arange(5))
    betas = np.linspace(0.01 ** (1 / power), 0.25 ** (1 / power), 5) ** power
    np.testing.assert_allclose(level.alpha**2, np.cumprod(1 - betas), rtol=1e-6)


def test_an_end_left_out_is_that_of_the_paper():
    specs = (default(*options).task for options in (["schedule.beta_end=0.02"], []))
    one, other = (spec.schedule.build().at(jnp.arange(1000)) for spec in specs)
    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_a_schedule_without_ends():
    said = (
        r"unknown option config\.schedule\.beta_end; config\.schedule \(cosine\) has "
    )
    with pytest.raises(UserError, match=said + "num_levels, t_range"):
        default("schedule.kind=cosine", "schedule.beta_end=0.1")
