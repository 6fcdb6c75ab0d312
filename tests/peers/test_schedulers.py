"""The process and the samplers against the schedulers of Hugging Face diffusers.

Both are fed the same data, network output and noise. Theirs, whose tables are float32
and lose digits in 1 - alpha_bar, is given the same betas in float64, so that what is
left between the two is our own rounding. Four conventions of ours differ on
purpose; the tests at the end pin each, so that a change on either side shows.

1. After clipping x_0 our eps is made to agree with it. Their DDIM keeps the network's
   eps unless told `use_clipped_model_output=True`.
2. `leading` steps are floor(i T / N); theirs are i floor(T / N), which leaves the noisy
   end out when N does not divide T.
3. A grid gives a step its own neighbour as the cleaner level. Their DDIM subtracts
   floor(T / N), which is not the next time on a "linspace" grid.
4. Times that fall halfway between two integers may round to the other one on a
   `trailing` grid, for ours count from 0 and theirs from 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import grids, process, schedules
from ddpm_jax.diffusion.denoisers import clip_x0, from_network
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import EPS, X0, V, noise_like
from ddpm_jax.diffusion.samplers import State, ancestral, ddim
from ddpm_jax.diffusion.schedules import from_betas

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
scheduling_ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")

BETAS = {
    "linear": schedules.linear_betas(1000),
    "squaredcos_cap_v2": schedules.cosine_betas(1000),
}
SPACINGS = {
    "leading": grids.leading_steps,
    "trailing": grids.trailing_steps,
    "linspace": grids.linear_steps,
}
KINDS = {"epsilon": EPS, "sample": X0, "v_prediction": V}
VARIANCES = {
    "fixed_small": process.small_variance,
    "fixed_large": process.large_variance,
    "learned_range": process.learned_variance,
}
SHAPE = (2, 4, 4, 3)
ROOM = 2e-6  # for images of size one
KEYS = image_keys(jax.random.key(0), jnp.arange(2))


def normal(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_float64(peer, betas=BETAS["linear"]):
    """Give a scheduler the same tables with more digits."""
    peer.betas = torch.from_numpy(betas)
    peer.alphas = 1 - peer.betas
    peer.alphas_cumprod = torch.cumprod(peer.alphas, 0)
    return peer


def to_torch(x):
    """[B, H, W, C] to [B, C, H, W], in float64."""
    return torch.from_numpy(np.array(x, np.float64)).movedim(-1, 1)


def to_numpy(x):
    return x.movedim(1, -1).numpy()


def network(output):
    """A network that says the same whatever it sees."""
    return lambda params, x_t, t, cond: jnp.asarray(output)


def levels_of(schedule, t, s):
    return schedule.at(jnp.array(int(t))), schedule.at(jnp.array(int(s)))


def our_step(sampler, schedule, kind, output, x_t, t, s, *, clip, learned=False):
    denoise = from_network(network(output), None, kind, learns_variance=learned)
    denoise = clip_x0(denoise) if clip else denoise
    t, s = levels_of(schedule, t, s)
    x_t = jnp.asarray(x_t)
    state, info = sampler.step(
        KEYS, lambda x, level: denoise(x, level, None), State(x_t), t, s
    )
    return np.asarray(state.x), np.asarray(info.prediction.x0)


# --- Tables and forward process -------------------------------------------------------


@pytest.mark.parametrize("name", BETAS)
def test_betas_and_alpha_bars(name):
    peer = diffusers.DDPMScheduler(beta_schedule=name)
    np.testing.assert_allclose(BETAS[name], peer.betas, rtol=2e-5)  # theirs are float32
    level = from_betas(BETAS[name]).at(jnp.arange(1000))
    np.testing.assert_allclose(level.alpha**2, peer.alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize("name", BETAS)
def test_add_noise_and_velocity(name):
    times = np.array([0, 1, 300, 650, 999])
    shape = (5, 4, 4, 3)
    x0, eps = normal(0, shape), normal(1, shape)
    level = from_betas(BETAS[name]).at(jnp.asarray(times))
    peer = in_float64(diffusers.DDPMScheduler(), BETAS[name])
    arguments = to_torch(x0), to_torch(eps), torch.from_numpy(times)
    theirs = to_numpy(peer.add_noise(*arguments))
    np.testing.assert_allclose(process.add_noise(x0, eps, level), theirs, atol=1e-6)
    theirs = to_numpy(peer.get_velocity(*arguments))
    np.testing.assert_allclose(V.target(x0, eps, level), theirs, atol=1e-6)


# --- One step -------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
def test_ddpm_step(monkeypatch, variance, prediction, clip):
    """Full chain: t = 0 (no noise), 1, 10, 500, 900; the noise is that of our keys."""
    peer = in_float64(
        diffusers.DDPMScheduler(
            variance_type=variance, prediction_type=prediction, clip_sample=clip
        )
    )
    noise = to_torch(noise_like(KEYS, jnp.zeros(SHAPE)))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
    learned = variance == "learned_range"
    output = normal(2, (*SHAPE[:-1], 6 if learned else 3))
    schedule = from_betas(BETAS["linear"])
    for t in (0, 1, 10, 500, 900):
        x_t = normal(t)
        theirs = peer.step(to_torch(output), t, to_torch(x_t))
        x, x0 = our_step(
            ancestral(VARIANCES[variance]),
            schedule,
            KINDS[prediction],
            output,
            x_t,
            t,
            t - 1,
            clip=clip,
            learned=learned,
        )
        # x_0 from eps divides by alpha, which is 0.02 at t = 900.
        room = 1e-6 * max(1.0, np.abs(x0).max())
        np.testing.assert_allclose(x0, to_numpy(theirs.pred_original_sample), atol=room)
        np.testing.assert_allclose(x, to_numpy(theirs.prev_sample), atol=ROOM)


@pytest.mark.parametrize("name", BETAS)
def test_posterior_variance(name):
    peer = in_float64(diffusers.DDPMScheduler(), BETAS[name])
    schedule = from_betas(BETAS[name])
    for t in (1, 2, 50, 500, 998, 999):
        small, large = (
            VARIANCES[kind](*levels_of(schedule, t, t - 1))
            for kind in ("fixed_small", "fixed_large")
        )
        for ours, kind in ((small, "fixed_small"), (large, "fixed_large")):
            theirs = peer._get_variance(t, variance_type=kind)
            np.testing.assert_allclose(ours, theirs, rtol=5e-5)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", KINDS)
def test_ddim_step(eta, spacing, prediction):
    """Three steps of a 50-step grid, the last included; times are equal throughout."""
    peer = in_float64(
        diffusers.DDIMScheduler(
            prediction_type=prediction, clip_sample=False, timestep_spacing=spacing
        )
    )
    peer.set_timesteps(50)
    schedule = from_betas(BETAS["linear"])
    times = grid(schedule, 50, SPACINGS[spacing]).t
    np.testing.assert_array_equal(times[:-1], peer.timesteps)
    noise = to_torch(noise_like(KEYS, jnp.zeros(SHAPE)))
    output = normal(3)
    for i in (5, 30, 49):
        x_t = normal(i)
        theirs = peer.step(
            to_torch(output),
            int(times[i]),
            to_torch(x_t),
            eta=eta,
            variance_noise=noise if eta else None,
        )
        x, _ = our_step(
            ddim(eta),
            schedule,
            KINDS[prediction],
            output,
            x_t,
            times[i],
            times[i + 1],
            clip=False,
        )
        np.testing.assert_allclose(x, to_numpy(theirs.prev_sample), atol=ROOM)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_respaced_ddpm_chain(monkeypatch, spacing):
    """Their DDPM looks its neighbour up, as ours does: equal on every grid."""
    peer = in_float64(
        diffusers.DDPMScheduler(timestep_spacing=spacing, clip_sample=False)
    )
    peer.set_timesteps(20)
    schedule = from_betas(BETAS["linear"])
    times = grid(schedule, 20, SPACINGS[spacing]).t
    np.testing.assert_array_equal(times[:-1], peer.timesteps)
    noise = to_torch(noise_like(KEYS, jnp.zeros(SHAPE)))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise)
    output = normal(4)
    for i in (3, 12, 18, 19):
        t, s = times[i], times[i + 1]
        x_t = normal(i)
        theirs = peer.step(to_torch(output), int(t), to_torch(x_t)).prev_sample
        x, _ = our_step(ancestral(), schedule, EPS, output, x_t, t, s, clip=False)
        np.testing.assert_allclose(x, to_numpy(theirs), atol=ROOM)


# --- Conventions that differ on purpose -----------------------------------------------


def test_clipped_ddim_uses_the_eps_of_the_clipped_x0():
    peer = in_float64(
        diffusers.DDIMScheduler(clip_sample=True, timestep_spacing="trailing")
    )
    peer.set_timesteps(50)
    schedule = from_betas(BETAS["linear"])
    output, x_t = normal(5), normal(6)
    x, x0 = our_step(ddim(0.0), schedule, EPS, output, x_t, 599, 579, clip=True)
    assert np.any(np.abs(x0) == 1)
    same, other = (
        to_numpy(
            peer.step(
                to_torch(output), 599, to_torch(x_t), use_clipped_model_output=choice
            ).prev_sample
        )
        for choice in (True, False)
    )
    np.testing.assert_allclose(x, same, atol=ROOM)
    assert np.max(np.abs(x - other)) > 0.1


def test_leading_steps_reach_further_when_n_does_not_divide_t():
    peer = diffusers.DDIMScheduler(timestep_spacing="leading")
    peer.set_timesteps(600)
    ours = grids.leading_steps(1000, 600)[::-1]
    assert peer.timesteps[0] == 599 and ours[0] == 998


def test_steps_of_a_linspace_grid_end_at_its_next_time():
    """Theirs, from t = 999 on a grid 999, 979, 958, ...: to 999 - 20 both times."""
    peer = in_float64(
        diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    )
    peer.set_timesteps(50)
    schedule = from_betas(BETAS["linear"])
    times = grid(schedule, 50, grids.linear_steps).t
    np.testing.assert_array_equal(times[:-1], peer.timesteps)
    assert times[1:3].tolist() == [979, 958]
    output, x_t = normal(7), normal(8)
    theirs = to_numpy(peer.step(to_torch(output), 979, to_torch(x_t)).prev_sample)
    own, _ = our_step(ddim(0.0), schedule, EPS, output, x_t, 979, 958, clip=False)
    as_theirs, _ = our_step(ddim(0.0), schedule, EPS, output, x_t, 979, 959, clip=False)
    np.testing.assert_allclose(as_theirs, theirs, atol=ROOM)
    assert np.max(np.abs(own - theirs)) > 1e-3


def test_trailing_steps_round_halves_from_the_other_side():
    """16 steps of 62.5: halfway times differ by one, the others not at all."""
    peer = diffusers.DDIMScheduler(timestep_spacing="trailing")
    peer.set_timesteps(16)
    off = grids.trailing_steps(1000, 16)[::-1] - peer.timesteps.numpy()
    halfway = np.arange(16)[::-1] * 62.5 % 1 == 0.5
    assert np.any(off != 0) and np.all(np.abs(off) <= halfway[::-1])
    for num_steps in (1, 4, 10, 20, 25, 50, 100, 250, 1000):
        peer.set_timesteps(num_steps)
        ours = grids.trailing_steps(1000, num_steps)[::-1]
        np.testing.assert_array_equal(ours, peer.timesteps)
