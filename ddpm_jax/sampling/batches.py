"""Drawing many images: batches of one compiled program, pictures of the chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.samplers import Info, Sampler
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import interrupts
from ddpm_jax.runtime.devices import (
    gather_params,
    gathered,
    replicated,
    round_up,
    rows,
    spread,
)
from ddpm_jax.runtime.images import to_float, to_uint8

Draw = Callable[[Any, jax.Array, np.ndarray, Any], tuple]
"""(params, key, indices [B], cond) -> (uint8 [B, H, W, C], finite [B], Film)."""


See = Callable[[jax.Array], jax.Array]
"""Points of a chain [B, ...] -> the images [B, H, W, C] they stand for, [-1, 1]."""


class Film(NamedTuple):
    """The reverse chain of the first images of a batch, uint8 [K, F, H, W, C]."""

    x_t: Any  # the chain itself: first the noise, last the finished image
    x0: Any  # what the network took that image to be; K - 1 frames, none at T


def _as_it_is(params: Any) -> See:
    del params
    return lambda x: x


def make_draw(
    denoiser_of: Callable[[Any], Denoiser],
    sampler: Sampler,
    levels: Level,
    *,
    shape: tuple[int, ...],
    film_frames: int,
    film_images: int,
    mesh: Mesh,
    encode: Callable[[Any, Cond], Cond] = lambda params, cond: cond,
    see_of: Callable[[Any], See] = _as_it_is,
    store: See = to_uint8,
) -> Draw:
    """Compile-ready drawing of a batch, its rows spread over the mesh.

    Args:
        denoiser_of: params -> Denoiser.
        sampler: the method.
        levels: leaves [N + 1].
        shape: of what is drawn: (H, W, C) of an image, (h, w, c) of its latents.
        film_frames: K >= 2; at most one more than the number of steps is used.
        film_images: F; at most the size of the batch is used.
        mesh: from `devices.data_mesh`.
        encode: (params, cond) -> cond, once before the chain: what need not be read
            anew at every step.
        see_of: params -> what makes images of latents; by default x is an image.
        store: makes of decoded items what is kept of them, such as uint8 of images.
    """
    num_records = min(film_frames, levels.alpha.shape[0]) - 1

    def record(info: Info) -> Film:
        return Film(info.x_s[:film_images], info.prediction.x0[:film_images])

    def draw(
        params: Any, key: jax.Array, indices: jax.Array, cond: Cond
    ) -> tuple[jax.Array, jax.Array, Film]:
        params = gather_params(mesh, params)
        keys, see = image_keys(key, indices), see_of(params)
        x_init = initial_noise(keys, shape)
        x, film = generate(
            keys,
            sampler,
            denoiser_of(params),
            x_init,
            levels,
            cond=encode(params, cond),
            record=record,
            num_records=num_records,
        )
        noise = x_init[:film_images][None]
        film = film._replace(x_t=jnp.concatenate([noise, film.x_t]))
        film = Film(*(jax.lax.map(lambda x: store(see(x)), part) for part in film))
        images = see(x)
        finite = jnp.isfinite(images).all(axis=range(1, images.ndim))
        return store(images), finite, film

    everywhere, by_row = replicated(mesh), rows(mesh)
    compiled = jax.jit(
        draw,
        in_shardings=(None, everywhere, by_row, by_row),  # parameters as they lie
        out_shardings=(by_row, by_row, everywhere),
    )

    def spread_out(
        params: Any, key: jax.Array, indices: np.ndarray, cond: Cond
    ) -> tuple[jax.Array, jax.Array, Film]:
        on_devices = jax.tree.map(lambda part: spread(part, by_row), (indices, cond))
        return compiled(params, key, *on_devices)

    return spread_out


def draw_batch(
    draw: Draw,
    params: Any,
    key: jax.Array,
    *,
    start: int,
    batch_size: int,
    num_images: int,
    cond: Cond = None,
    noise: np.ndarray | None = None,
) -> tuple[np.ndarray, Film]:
    """Draw the images from `start` on, as far as one batch goes; (key, i) makes i.

    The batch is rounded up to a multiple of the devices and filled up at the end, and
    the surplus dropped, so that one program serves.

    Args:
        draw: from `make_draw`.
        params: of the network.
        key: from which image i takes `fold_in(key, i)`.
        start: the first image, from 0.
        batch_size: B.
        num_images: N, of all batches.
        cond: what the network is told, leaves [N, ...]; None for nothing.
        noise: int32 [N], the number whose noise each image takes; None: its own.

    Returns:
        Images uint8 [min(B, N - start), H, W, C], and the film of their first rows.

    Raises:
        UserError: if an image is not finite, which as bytes would pass for black.
    """
    indices = np.arange(start, start + round_up(batch_size), dtype=np.int32)
    count = min(len(indices), num_images - start)
    known = np.minimum(indices, num_images - 1)
    told = jax.tree.map(lambda leaf: leaf[known], cond)
    numbers = indices if noise is None else noise[known]
    images, finite, film = draw(params, key, numbers, told)
    if not gathered(finite)[:count].all():
        raise UserError(
            f"an image among {start} to {start + count - 1} is not finite; draw in "
            "float32 and clipped, or from an earlier checkpoint (sample.step)."
        )
    film = Film(*(gathered(part)[:, :count] for part in film))
    return gathered(images)[:count], film


def draw_images(
    draw: Draw,
    params: Any,
    key: jax.Array,
    *,
    num_images: int,
    batch_size: int,
    cond: Cond = None,
    noise: np.ndarray | None = None,
    on_batch: Callable[[int], Any] = lambda count: None,
) -> tuple[np.ndarray, Film]:
    """Draw any number of images, batch after batch; see `draw_batch`.

    Args:
        draw: from `make_draw`.
        params: of the network.
        key: of all images.
        num_images: N.
        batch_size: B.
        cond: what the network is told, leaves [N, ...]; None for nothing.
        noise: int32 [N], the number whose noise each image takes; None: its own.
        on_batch: called with the number of images finished by each batch.

    Returns:
        Images uint8 [N, H, W, C], and the film of the first batch.

    Raises:
        UserError: as `draw_batch` does.
    """
    finished: list[np.ndarray] = []
    film: Film | None = None
    done = 0
    while done < num_images:
        interrupts.check()
        images, first_rows = draw_batch(
            draw,
            params,
            key,
            start=done,
            batch_size=batch_size,
            num_images=num_images,
            cond=cond,
            noise=noise,
        )
        film = film or first_rows
        finished.append(images)
        done += len(images)
        on_batch(len(images))
    assert film is not None  # at least one image was asked for
    return np.concatenate(finished), film


def forward_film(
    key: jax.Array,
    images: np.ndarray,
    schedule: Schedule,
    num_frames: int,
    *,
    encode: See = lambda x: x,
    decode: See = lambda x: x,
    load: Callable[[Any], Any] = to_float,
    store: Callable[[Any], Any] = to_uint8,
) -> np.ndarray:
    """Destroy real images step by step, as q(x_t | x_0) does.

    One draw of noise is used for a whole row, so that the eye can follow a picture
    into it.

    Args:
        key: of the noise.
        images: uint8 [F, H, W, C].
        schedule: the forward process.
        num_frames: K >= 2, the clean images first, then evenly in t up to T.
        encode: from images in [-1, 1] to what is noised.
        decode: from that to images.
        load: from items as they are stored to floating point.
        store: its inverse.

    Returns:
        uint8 [K, F, H, W, C].
    """
    # In NumPy what it can do: an operation of JAX is a program to load.
    x0 = encode(jnp.asarray(load(images)))
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    times = jnp.linspace(-1, schedule.num_levels - 1, num_frames).round()
    noised = [add_noise(x0, eps, schedule.at(t.astype(jnp.int32))) for t in times]
    return np.asarray(store(np.stack([np.asarray(decode(x)) for x in noised])))
