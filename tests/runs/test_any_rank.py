"""Diffusion on items of any rank: a file, its batches, `fit`, and samples.

The network has the form of the exact denoiser of independent Gaussians, and so learns
the mean and the deviation of each number: what is drawn has those of the data.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax import data
from ddpm_jax.codecs import Params, arrays, as_they_are
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.karras import heun
from ddpm_jax.diffusion.losses import simple_loss
from ddpm_jax.diffusion.process import EPS
from ddpm_jax.diffusion.schedules import cosine_logsnr
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.sampling.plan import Model, Record, compile_plan, sample_plan
from ddpm_jax.tasks.diffusion import make_objective, summarize
from ddpm_jax.training.fit import Fit, Run, fit
from ddpm_jax.training.step import gradient_task

SCHEDULE = cosine_logsnr(1000)
STEPS, RATE = 400, 0.05


def network(params, x_t, t, cond, dropout_key=None):
    """Predict eps as E[eps | x_t] of Gaussians with `mean` and exp(`log_std`)."""
    axes = (...,) + (None,) * (x_t.ndim - t.ndim)
    level = jax.tree.map(lambda leaf: leaf[axes], SCHEDULE.at(t))
    variance = jnp.square(level.alpha) * jnp.exp(2 * params["log_std"])
    gain = level.sigma / (variance + jnp.square(level.sigma))
    return gain * (x_t - level.alpha * params["mean"])


def train(source, workdir, num_steps):
    mesh = data_mesh()
    zeros = jnp.zeros(source.shape)
    task = gradient_task(
        lambda: {"mean": zeros, "log_std": zeros},
        make_objective(network, SCHEDULE, simple_loss(EPS), start=as_they_are),
        optax.adam(RATE),
        ema_target=0.9,
        mesh=mesh,
        summarize=summarize,
    )
    feed = make_feed(source, 128, seed=0, mesh=mesh, max_mb_on_device=1)
    plan = Fit(
        num_steps=num_steps,
        report_every=100,
        checkpoint_every=100,
        learning_rate=RATE,
        warmup_steps=0,
        preview_every=0,
        keep_every=0,
    )
    return fit(
        task, feed, jax.random.key(1), plan=plan, run=Run(workdir, {}), mesh=mesh
    )


@pytest.mark.parametrize("shape", [(2,), (3, 2, 2, 1)])
def test_samples_have_the_moments_of_the_data_and_runs_resume(tmp_path, shape):
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(-2, 2, shape), rng.uniform(0.3, 1.5, shape)
    items = (mean + std * rng.standard_normal((2000, *shape))).astype(np.float32)
    np.save(tmp_path / "a.npy", items)
    source = data.load(f"npy:{tmp_path}/a.npy")
    whole = train(source, tmp_path / "whole", STEPS).state
    train(source, tmp_path / "parts", STEPS // 2)
    resumed = train(source, tmp_path / "parts", STEPS).state
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)

    codec = arrays(source.shape)
    model = Model(
        codec,
        grid(SCHEDULE, 30),
        sampler=heun,
        denoiser=lambda params: from_network(network, params.network, EPS),
        condition=lambda params, given: None,
    )
    program = compile_plan(sample_plan(model), data_mesh(), Record(2, 3))
    rows = np.arange(4000, dtype=np.int32), {}
    (made,), finite = program.run(Params(whole.ema_params), jax.random.key(2), rows)
    found, x_t = np.asarray(made.items), made.trajectory.x_t  # rows first
    assert (found.shape, found.dtype) == ((4000, *shape), np.float32)
    assert finite["a row"].all() and x_t.shape == (3, 2, *shape)
    # Sampling errors are 0.025 of std; the rest is what training has left.
    np.testing.assert_allclose(found.mean(0), items.mean(0), atol=0.15)
    np.testing.assert_allclose(found.std(0), items.std(0), rtol=0.12)
