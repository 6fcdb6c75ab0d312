"""From a request to levels and sampler, and what is refused on the way."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from settings import default

from ddpm_jax import assembly
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample

INFO = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")


SMALL = (
    *("schedule.num_levels=40", "preview_steps=10", "network.channels=8"),
    *("network.num_groups=4", "network.channel_multipliers=1,"),
    "network.attention_resolutions=",
)
SPEC = default(*SMALL).task


def check(asked, spec=SPEC):
    assembly.check(spec, INFO)
    assembly.check_sample(spec, INFO, asked)


# --- Levels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, range(40)[::-1]),
        ({"num_steps": 4}, [39, 29, 19, 9]),
        ({"spacing": "leading", "num_steps": 4}, [30, 20, 10, 0]),
        ({"spacing": "sections:2,1,3"}, [39, 33, 27, 14, 13, 0]),
        ({"spacing": "sections: 2, 1, 3", "num_steps": 6}, [39, 33, 27, 14, 13, 0]),
        ({"spacing": "sections:40"}, range(40)[::-1]),
    ],
)
def test_levels_of_a_request(options, times):
    """By hand; sections 0-13, 14-26 and 27-39."""
    asked = Sample(**options)
    assert assembly.levels(SPEC, asked).t.tolist() == [*times, -1]
    assert assembly.num_steps(SPEC, asked) == len(times)
    check(asked)


@pytest.mark.parametrize("spacing", ["karras", "logsnr"])
def test_continuous_levels_of_a_request(spacing):
    level = assembly.levels(SPEC, Sample(spacing=spacing, num_steps=7))
    r = np.asarray(level.sigma / level.alpha, np.float64)[:-1]
    warped = r ** (1 / 7) if spacing == "karras" else np.log(r)
    steps = np.diff(warped)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)
    assert level.t[0] == 39 and level.t[-2] == 0 and level.sigma[-1] == 0


def test_the_adaptive_method_needs_no_number_of_steps():
    """Its grid only says where the film is looked at."""
    for options, steps in (
        ({"film_frames": 16}, 15),
        ({"film_frames": 100}, 40),
        ({"num_steps": 3}, 3),
    ):
        asked = Sample(sampler="adaptive", **options)
        assert assembly.num_steps(SPEC, asked) == steps


# --- Samplers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "euler", "churn": 10.0},
        {"sampler": "heun", "churn": 10.0, "churn_low": 0.05, "churn_high": 5.0},
        {"sampler": "adaptive"},
    ],
    ids=lambda options: options["sampler"],
)
def test_samplers_of_a_request_draw_the_data(options):
    asked = Sample(spacing="karras", num_steps=20, **options)
    check(asked)
    denoise = oracles.finite(np.array([[0.7, -0.2]]))
    keys = image_keys(jax.random.key(0), jnp.arange(3))
    x_init = initial_noise(keys, (2,))
    sampler, levels = assembly.sampler(SPEC, asked), assembly.levels(SPEC, asked)
    run = jax.jit(lambda x: generate(keys, sampler, denoise, x, levels)[0])
    np.testing.assert_allclose(run(x_init), [[0.7, -0.2]] * 3, atol=1e-3)


def test_churn_reaches_the_sampler():
    """S_tmin, S_tmax and S_noise too: each of them changes what is drawn."""
    denoise = oracles.gaussian(np.zeros(2), np.array([0.2, 0.1]))
    keys = image_keys(jax.random.key(0), jnp.arange(3))
    x_init = initial_noise(keys, (2,))
    drawn = []
    for options in (
        {},
        {"churn": 4.0},
        {"churn": 4.0, "churn_low": 0.3},
        {"churn": 4.0, "churn_high": 0.3},
        {"churn": 4.0, "churn_noise": 1.1},
    ):
        asked = Sample(sampler="euler", num_steps=8, **options)
        sampler, levels = assembly.sampler(SPEC, asked), assembly.levels(SPEC, asked)
        drawn.append(generate(keys, sampler, denoise, x_init, levels)[0])
    for i, one in enumerate(drawn):
        assert not any(np.allclose(one, other) for other in drawn[:i])


# --- Refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_steps": 41}, "num_steps=41 is not in 1..T; use 1 to 40"),
        ({"num_steps": 0}, "num_steps=0 is not in 1..T"),
        ({"eta": 1.1}, r"eta=1.1 is not in \[0, 1\]"),
        ({"eta": -0.1}, r"eta=-0.1 is not in \[0, 1\]"),
        ({"eta": math.nan}, "eta=nan is not finite"),
        ({"spacing": "log"}, "use trailing, .*karras, logsnr, or .*sections:20,10,10"),
        ({"spacing": "sections:"}, "'sections:' is not known"),
        ({"spacing": "sections:4,x"}, "'sections:4,x' is not known"),
        ({"spacing": "sections:4,0"}, "'sections:4,0' is not known"),
        ({"spacing": "section:4,2"}, "'section:4,2' is not known"),
        ({"spacing": "sections:5,21"}, "21 steps of a section of 20 levels"),
        ({"spacing": "sections:5,5", "num_steps": 9}, "sections make 10 steps"),
        ({"sampler": "heun", "churn": -1.0}, "churn=-1.0 is not 0 or more"),
        ({"sampler": "heun", "churn": math.inf}, "churn=inf is not finite"),
        ({"sampler": "ddim", "churn": 1.0}, "use euler or heun, or leave it out"),
        ({"churn_low": -0.1}, "use 0 <= low <= high"),
        ({"churn_low": 2.0, "churn_high": 1.0}, "use 0 <= low <= high"),
        ({"churn_noise": 0.0}, "churn_noise=0.0 is not positive"),
        ({"rtol": 0.0}, "rtol=0.0 is out of reach in float32; use 1e-6 or more"),
        ({"atol": -1e-3}, "atol=-0.001 is out of reach"),
        ({"atol": math.nan}, "atol=nan is not finite"),
    ],
)
def test_what_cannot_be_sampled_is_refused_in_one_line(options, said):
    with pytest.raises(UserError) as refusal:
        check(Sample(**options))
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "adaptive"}, "cannot start from pure noise.*use another, such as"),
        ({"spacing": "karras"}, "no finite start; use a spacing of the table"),
    ],
)
def test_pure_noise_has_no_finite_sigma_over_alpha(options, said):
    spec = default(*SMALL, "schedule.kind=jsd", "prediction=v").task
    check(Sample(), spec)
    with pytest.raises(UserError, match=said):
        check(Sample(**options), spec)
