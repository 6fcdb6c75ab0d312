"""Self-conditioning: who is shown which hint, in training and in sampling.

Networks here are formulas that let the hint be read off their output.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import karras, losses, multistep, process, samplers, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import EPS, X0, Prediction, V
from ddpm_jax.diffusion.self_conditioning import self_condition_half, self_conditioned
from ddpm_jax.diffusion.variational_bound import variational_bound

SCHEDULE = schedules.from_betas(schedules.cosine_betas(50))
X = np.random.default_rng(0).uniform(-1, 1, (5, 2, 3)).astype(np.float32)


def network(params, x_t, t, cond):
    """An output that depends on everything the network is told."""
    hint = (cond or {}).get("self_conditioning", jnp.zeros_like(x_t))
    label = (cond or {}).get("label", jnp.zeros(len(x_t)))
    return params * x_t + 0.5 * hint + 0.1 * label[:, None, None] + 0.01 * like(t)


def like(value):
    return jnp.asarray(value)[..., None, None]


def draw(kind, cond=None, size=5):
    """The hint of a batch, what it was asked of, and its level."""
    level = SCHEDULE.at(jnp.array([0, 10, 25, 40, 48])[:size])
    x_t = X[:size]
    made = self_condition_half(kind)(network, jnp.float32(0.3), x_t, level, cond)
    return made, x_t, level


@pytest.mark.parametrize("kind", [EPS, X0, V], ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [5, 4, 1])
def test_every_second_row_is_shown_its_own_clamped_x0(kind, size):
    made, x_t, level = draw(kind, size=size)
    told = np.asarray(made["self_conditioning"])
    output = 0.3 * x_t + 0.01 * like(level.t)
    alpha, sigma = (like(np.asarray(leaf, np.float64)) for leaf in level[1:])
    x0 = {
        "eps": (x_t - sigma * output) / alpha,
        "x0": output,
        "v": alpha * x_t - sigma * output,
    }[kind.name]
    np.testing.assert_allclose(told[::2], np.clip(x0, -1, 1)[::2], atol=1e-5)
    np.testing.assert_array_equal(told[1::2], 0)
    if kind is EPS and size == 5:  # of nearly pure noise eps says an x0 of 20
        assert np.abs(x0[4]).max() > 10 and np.abs(told[4]).max() == 1


def test_the_first_look_is_told_the_conditions_and_they_are_kept():
    labels = jnp.arange(5.0)
    made, x_t, level = draw(X0, {"label": labels})
    np.testing.assert_array_equal(made["label"], labels)
    told = 0.3 * x_t + 0.1 * like(np.arange(5)) + 0.01 * like(level.t)
    np.testing.assert_allclose(
        made["self_conditioning"][::2], np.clip(told, -1, 1)[::2], rtol=1e-6
    )


def test_a_learned_variance_is_no_part_of_the_hint():
    def doubled(*args):
        output = network(*args)
        return jnp.concatenate([output, 7 + output], axis=-1)

    level = SCHEDULE.at(jnp.arange(5))
    both = [
        self_condition_half(V, learns_variance=learned)(
            f, jnp.float32(0.3), X, level, None
        )["self_conditioning"]
        for learned, f in ((True, doubled), (False, network))
    ]
    np.testing.assert_array_equal(*both)


def test_the_objective_is_the_mean_of_both_looks_and_the_hint_is_a_constant():
    """Loss and gradient of a batch against two by hand: even rows told their own x0 as
    a number, odd rows told zeros."""
    x0 = jnp.asarray(X)

    def total(params, hint):
        loss, noised = losses.training_loss(
            jax.random.key(1),
            network,
            params,
            x0,
            schedule=SCHEDULE,
            loss=losses.simple_loss(X0),
            self_conditioning=hint,
        )
        return jnp.sum(loss), noised

    params = jnp.float32(0.3)
    (value, noised), gradient = jax.value_and_grad(total, has_aux=True)(
        params, self_condition_half(X0)
    )
    x_t, t = np.asarray(noised.x_t, np.float64), like(np.asarray(noised.t.t))
    first = 0.3 * x_t + 0.01 * t
    even = like(np.arange(5) % 2 == 0)
    shown = np.where(even, np.clip(first, -1, 1), 0)
    error = 0.3 * x_t + 0.5 * shown + 0.01 * t - X
    np.testing.assert_allclose(value, np.sum(error**2) / 6, rtol=1e-5)
    # d/d params through the second look alone: 2 error x_t.
    np.testing.assert_allclose(gradient, np.sum(2 * error * x_t) / 6, rtol=1e-4)
    through = np.sum(2 * error * (x_t + even * 0.5 * x_t * (np.abs(first) < 1))) / 6
    assert abs(through - gradient) > 0.01  # as it would be without the stop


# --- Sampling -------------------------------------------------------------------------


def told_and_said(sampler, num_steps=6):
    """The hints a sampler gives, and the x0 it is told, step by step."""
    levels = grid(SCHEDULE, num_steps)
    keys = image_keys(jax.random.key(0), jnp.arange(3))

    def denoise(x_t, level, cond=None):
        x0 = jnp.tanh(x_t) + 0.5 * cond["self_conditioning"]  # beyond 1 at times
        eps = process.eps_from_x0(x0, x_t, level)
        # What a denoiser says besides reaches `record`: here what it was told.
        return Prediction(x0, eps, fraction=cond["self_conditioning"])

    x, records = generate(
        keys,
        self_conditioned(sampler),
        denoise,
        initial_noise(keys, (2, 3)),
        levels,
        cond={"label": jnp.zeros(3, jnp.int32)},
        record=lambda info: (info.prediction.fraction, info.prediction.x0, info.x_s),
        num_records=num_steps,
    )
    return (x, *(np.asarray(record) for record in records))


@pytest.mark.parametrize(
    "sampler",
    [samplers.ancestral(), samplers.ddim(0.5), karras.heun(), multistep.dpmpp_2m()],
    ids=["ancestral", "ddim", "heun", "dpmpp_2m"],
)
def test_each_step_is_told_the_clamped_x0_of_the_last(sampler):
    x, told, said, x_s = told_and_said(sampler)
    np.testing.assert_array_equal(told[0], 0)
    np.testing.assert_array_equal(told[1:], np.clip(said[:-1], -1, 1))
    assert np.abs(said).max() > 1 and np.abs(told).max() == 1
    np.testing.assert_array_equal(x, x_s[-1])


@pytest.mark.parametrize(
    "sampler", [samplers.ddim(0.5), karras.heun(), multistep.dpmpp_2m()]
)
def test_a_network_that_ignores_its_hint_is_sampled_as_without(sampler):
    keys = image_keys(jax.random.key(0), jnp.arange(3))

    def denoise(x_t, level, cond=None):
        x0 = jnp.tanh(x_t)
        return Prediction(x0, process.eps_from_x0(x0, x_t, level))

    with_hints, without = (
        generate(keys, method, denoise, initial_noise(keys, (2, 3)), grid(SCHEDULE, 6))[
            0
        ]
        for method in (self_conditioned(sampler), sampler)
    )
    # Two programs, whose compiler may round a product and a sum once or twice.
    np.testing.assert_allclose(with_hints, without, rtol=0, atol=1e-6)


def test_the_bound_is_that_of_the_network_without_a_hint():
    keys, x0 = image_keys(jax.random.key(0), jnp.arange(5)), jnp.asarray(X)
    seen = []

    def spy(params, x_t, t, cond):
        seen.append(cond)
        return network(params, x_t, t, cond)

    bound = variational_bound(
        keys, from_network(spy, jnp.float32(0.3), V), x0, grid(SCHEDULE, 50)
    )
    assert seen == [None] and np.isfinite(bound.total).all()
