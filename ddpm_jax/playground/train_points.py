"""A model of drawn points, trained and sampled in memory within seconds.

    for now in train_points(points, seed):
        now.step, now.loss          # while it trains
        now.frames                  # now and then, and last: a chain [K, N, 2]

The recipe is that of `configs/points.py`, with fewer steps. All drawings share one
compiled program: their points are an argument, repeated up to one size.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.playground.canvas import MOST
from ddpm_jax.recipe import (
    MLP,
    Cosine,
    Data,
    Diffusion,
    Fit,
    Plane,
    Stratified,
)
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import data_mesh

NUM_STEPS = 2000
_AT_ONCE = 100  # steps in one call of the program, between two looks at the clock
_LOOKS = (300, 700, 1200)  # steps after which samples are shown
NUM_SAMPLES = 400
NUM_FRAMES = 41  # of a chain, its start among them


class Now(NamedTuple):
    """How far the training of a drawing has come.

    Attributes:
        step: optimizer steps done.
        seconds: since it began.
        loss: mean of the last steps; None before the first.
        frames: a chain of samples, [K, N, 2], on the canvas; None where none is drawn.
    """

    step: int
    seconds: float
    loss: float | None = None
    frames: np.ndarray | None = None


class _Programs(NamedTuple):
    start: Callable[[Any], Any]
    draw: Callable[[], Any]
    advance: Callable[..., tuple[Any, jax.Array]]
    sample: Callable[..., jax.Array]


def train_points(points: np.ndarray, seed: int) -> Iterator[Now]:
    """Train a model on points, and sample from it as it learns.

    Args:
        points: [N, 2], N at most `canvas.MOST`.
        seed: of the training and of the samples.

    Yields:
        After every hundred steps, how far it is; the last has a chain.
    """
    programs, began = _programs(), time.perf_counter()
    mean, scale = points.mean(axis=0), max(float(points.std()), 1e-3)
    rows = jnp.asarray(np.resize((points - mean) / scale, (MOST, 2)))
    count = jnp.asarray(len(points))
    keys = jax.random.split(assembly.train_key(seed), 3)
    yield Now(0, 0.0)
    state = programs.start(programs.draw())
    for step in range(_AT_ONCE, NUM_STEPS + 1, _AT_ONCE):
        state, loss = programs.advance(state, keys[:2], rows, count)
        frames = None
        if step in (*_LOOKS, NUM_STEPS):
            chain = programs.sample(state.ema_params, keys[2])
            frames = np.asarray(chain, np.float64) * scale + mean
        yield Now(step, time.perf_counter() - began, float(loss), frames)


@functools.cache
def _recipe() -> tuple[Diffusion, Fit, Sample]:
    """Return what is trained, how, and how it is sampled."""
    return (
        Diffusion(
            data=Data(source="", flip=False),
            codec=Plane(),
            network=MLP(),
            schedule=Cosine(1000),
            prediction="v",
            variance="small",
            times=Stratified(),
        ),
        Fit(
            num_steps=NUM_STEPS,
            batch_size=512,
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.995,
        ),
        Sample(sampler="ddim", num_steps=40, clip=False),
    )


@functools.cache
def _programs() -> _Programs:
    """Compose the programs that all drawings share."""
    spec, fit, asked = _recipe()
    info = DataInfo("drawn points", (2,), None, "drawn", dtype="float32")
    network = assembly.model(spec, info)
    task = assembly.diffusion_task(spec, fit, info, data_mesh())
    sampler = assembly.sampler(spec, asked)
    levels = assembly.levels(spec, asked)

    def advance(
        state: Any, keys: jax.Array, rows: jax.Array, count: jax.Array
    ) -> tuple[Any, jax.Array]:
        def one(state: Any, _: None) -> tuple[Any, jax.Array]:
            of_step = jax.random.fold_in(keys[1], state.step)
            index = jax.random.randint(of_step, (fit.batch_size,), 0, count)
            state, metrics = task.step(state, keys[0], {"image": rows[index]})
            return state, metrics["loss"]

        state, losses = jax.lax.scan(one, state, None, length=_AT_ONCE)
        return state, losses.mean()

    def sample(params: Any, key: jax.Array) -> jax.Array:
        keys = image_keys(key, jnp.arange(NUM_SAMPLES))
        noise = initial_noise(keys, (2,))
        _, kept = generate(
            keys,
            sampler,
            assembly.denoiser(spec, asked, network, params),
            noise,
            levels,
            record=lambda info: info.x_s,
            num_records=NUM_FRAMES - 1,
        )
        return jnp.concatenate([noise[None], kept])

    return _Programs(
        jax.jit(task.start),
        task.draw,
        jax.jit(advance, donate_argnums=0),
        jax.jit(sample),
    )
