"""Samplers and schedules go through pickle and copy, and do the same afterwards."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import (
    editing,
    few_steps,
    karras,
    multistep,
    ode,
    samplers,
    time_sampling,
)
from ddpm_jax.diffusion import schedules as s
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import large_variance
from ddpm_jax.diffusion.self_conditioning import self_conditioned

TABLE = s.from_betas(s.linear_betas(40, 1e-3, 0.3))
CHURN = karras.Churn(TABLE, 2.0, 4, high=3.0)
SAMPLERS = {
    "ancestral": samplers.ancestral(large_variance),
    "ddim": samplers.ddim(eta=0.5),
    "euler": karras.euler(CHURN),
    "heun": karras.heun(CHURN),
    "dpmpp_2m": multistep.dpmpp_2m(),
    "dpmpp_3m": multistep.dpmpp_3m(),
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde(),
    "unipc": multistep.unipc(3),
    "pndm": multistep.pndm(),
    "consistency": samplers.consistency(),
    "jumping": few_steps.jumping(samplers.ddim(0.5), clean_t=-1.0),
    "adaptive": ode.adaptive(TABLE, rtol=1e-3),
    "inpaint": editing.inpaint(samplers.ddim(), np.ones(2), np.array([1, 0])),
    "invert": editing.invert(3),
    "self-conditioned": self_conditioned(multistep.dpmpp_2m()),
}
KEYS = image_keys(jax.random.key(0), jnp.arange(2))


def again(made):
    return pickle.loads(pickle.dumps(made)), copy.deepcopy(made)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_remade_by_its_own_call(name):
    made = SAMPLERS[name]
    for other in again(made):
        assert type(other) is samplers.Sampler
        factory, args, kwargs = other.made_by
        assert factory is made.made_by[0] and kwargs.keys() == made.made_by[2].keys()
        assert len(args) == len(made.made_by[1])


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_a_sampler_from_pickle_draws_the_same(name):
    """Its options are kept: eta of ddim, the churn of euler."""
    denoise, x = oracles.gaussian(np.zeros(2), np.ones(2)), initial_noise(KEYS, (2,))

    def draw(sampler):
        return np.asarray(generate(KEYS, sampler, denoise, x, grid(TABLE, 4))[0])

    made = draw(SAMPLERS[name])
    np.testing.assert_array_equal(draw(again(SAMPLERS[name])[0]), made)
    plain = {"ddim": samplers.ddim(), "euler": karras.euler()}[name]
    assert np.abs(draw(plain) - made).max() > 1e-2


@pytest.mark.parametrize(
    "schedule",
    [
        TABLE,
        s.cosine_logsnr(num_levels=40),
        s.linear_logsnr(6.0, -6.0, 40),
        s.scale_time(s.scale_time(TABLE, 0.5), 0.25),
        s.straight(40, shift=2.0, alpha_min=0.01),
    ],
)
def test_a_schedule_from_pickle_has_the_same_levels(schedule):
    t = jnp.array([-1, 0, 17, 39])
    for other in again(schedule):
        assert type(other) is s.Schedule and other.num_levels == schedule.num_levels
        for found, expected in zip(other.at(t), schedule.at(t), strict=True):
            np.testing.assert_array_equal(found, expected)
        logsnr = jnp.array([-3.0, 0.5, jnp.inf])
        levels = (other.at_logsnr(logsnr), schedule.at_logsnr(logsnr))
        for found, expected in zip(*levels, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_ways_to_draw_times_are_remade():
    key = jax.random.key(1)
    stored, _ = again(time_sampling.STRATIFIED)
    np.testing.assert_array_equal(
        stored.draw(key, 4, ())[0], time_sampling.STRATIFIED.draw(key, 4, ())[0]
    )
    laws = (
        time_sampling.logit_normal(TABLE, mean=0.5),
        time_sampling.lognormal(TABLE, std=0.5),
        time_sampling.shifted(TABLE, shift=2.0),
    )
    for law in laws:
        stored, _ = again(law)
        np.testing.assert_array_equal(
            stored.draw(key, 4, ())[0], law.draw(key, 4, ())[0]
        )
    stored, _ = again(time_sampling.importance(7, length=3))
    assert stored.init().losses.shape == (7, 3)


def test_what_was_put_together_by_hand_is_an_ordinary_tuple():
    by_hand = samplers.ddim()._replace(init=samplers.State)
    assert by_hand.made_by is None
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(by_hand)
