"""The driver: one `lax.scan` over the levels, for every sampler.

The driver owns time, keys and what is recorded; the sampler owns one step. Keys are
one per image, so that image i depends on (seed, i) alone: not on the size of the batch
it is sampled in, nor on the number of devices the batch is spread over.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.denoisers import Cond, Denoiser, predict
from ddpm_jax.diffusion.process import Prediction, noise_like
from ddpm_jax.diffusion.samplers import Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

# Each image's key is split by purpose before it is split by step.
_START, _STEPS = 0, 1

fold_each = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def image_keys(key: jax.Array, indices: jax.Array) -> jax.Array:
    """Derive the keys of images `indices` [B]: typed keys [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def initial_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw x_T for images with these keys [B]: float32 [B, *shape]."""
    like_this = jax.ShapeDtypeStruct((*keys.shape, *shape), jnp.float32)
    return noise_like(fold_each(keys, _START), like_this)


def generate(
    keys: jax.Array,
    sampler: Sampler,
    denoise: Denoiser,
    x_init: jax.Array,
    levels: Level,
    *,
    cond: Cond = None,
    record: Callable[[Info], Any] | None = None,
    num_records: int = 0,
) -> tuple[jax.Array, Any]:
    """Run a sampler from the first of the levels to the last. Pure; jit it whole.

    Args:
        keys: typed keys [B], one per image, from `image_keys`.
        sampler: the method.
        denoise: the model.
        x_init: [B, ...] at levels[0]; `initial_noise` for sampling from nothing. The
            chain is of its type, or of the levels' float32 if that is wider.
        levels: leaves [N + 1], noisiest first, from `grid`.
        cond: what the denoiser is conditioned on, leaves [B, ...].
        record: Info -> pytree, of what to keep. The N steps are cut into `num_records`
            equal runs, and what is kept is the record of the last step of each run; the
            last record is thus of the finished image.
        num_records: K in 1..N if `record` is given. Memory grows with K, never with N.

    Returns:
        x [B, ...] at levels[N], and the records with leaves [K, ...] (None without).

    Raises:
        UserError: if `num_records` does not fit the number of steps, `x_init` is not
            floating point, or the denoiser returns no prediction of x.
    """
    num_steps = levels.alpha.shape[0] - 1
    t = jax.tree.map(lambda leaf: leaf[:-1], levels)
    s = jax.tree.map(lambda leaf: leaf[1:], levels)
    advance = _advance(keys, sampler, denoise, cond)
    steps = (jnp.arange(num_steps), t, s)
    x_init = jnp.asarray(x_init)
    _check_floating(x_init)
    dtype = jnp.promote_types(x_init.dtype, levels.alpha.dtype)
    state = sampler.init(x_init.astype(dtype))
    if record is None:
        state, _ = jax.lax.scan(
            lambda state, xs: (advance(state, *xs)[0], None), state, steps
        )
        return state.x, None
    if not 1 <= num_records <= num_steps:
        raise UserError(
            f"num_records={num_records} for {num_steps} steps; use 1 to {num_steps}."
        )
    state, records = _scan_recording(advance, record, num_records, state, steps)
    return state.x, records


def generate_part(
    keys: jax.Array,
    sampler: Sampler,
    denoise: Denoiser,
    state: State,
    levels: Level,
    steps: tuple[jax.Array | int, jax.Array | int],
    *,
    cond: Cond = None,
    record: Callable[[Info], Any],
) -> tuple[State, Any]:
    """Run some steps of the chain of `generate`, so that callers see it in between.

    Parts that follow each other make the steps of the whole, with the same keys: those
    of a step come from its number. Where a part begins and ends may be traced, so that
    one compiled program serves them all, and chains of any length besides, if the
    levels are padded to one shape.

    Args:
        keys: as for `generate`.
        sampler: as for `generate`.
        denoise: as for `generate`.
        state: `sampler.init(x_init)` for the first part, then what the last one left.
        levels: leaves [M + 1], those of the whole chain; what follows is not read.
        steps: (start, stop), from 0; 0 <= start < stop <= M.
        cond: as for `generate`.
        record: Info -> pytree, of what to keep of the last step.

    Returns:
        The state before step `stop`, and the record of the step before it.

    Raises:
        UserError: the chain is not floating point, or the denoiser returns no
            prediction of x.
    """
    _check_floating(state.x)
    advance = _advance(keys, sampler, denoise, cond)

    def step(index: jax.Array, state: State) -> tuple[State, Any]:
        t = jax.tree.map(lambda leaf: leaf[index], levels)
        s = jax.tree.map(lambda leaf: leaf[index + 1], levels)
        state, info = advance(state, index, t, s)
        return state, record(info)

    shapes = jax.eval_shape(step, jnp.int32(0), state)[1]
    unseen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start, stop = steps
    return jax.lax.fori_loop(
        start, stop, lambda index, carry: step(index, carry[0]), (state, unseen)
    )


def _check_floating(x: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"the chain starts from {x.dtype}, and x is floating point; draw it with "
            "initial_noise, or bring bytes to [-1, 1] with images.to_float."
        )


def _advance(
    keys: jax.Array, sampler: Sampler, denoise: Denoiser, cond: Cond
) -> Callable[..., tuple[State, Info]]:
    """Bind what all steps share; (state, index, t, s) -> (state, Info) is left."""
    keys = fold_each(keys, _STEPS)

    def bound(x: jax.Array, level: Level, also: dict | None = None) -> Prediction:
        given = cond if also is None else {**(cond or {}), **also}
        prediction = predict(denoise, x, level, given)
        # The chain keeps the type that it has, whatever a network computes in.
        return jax.tree.map(lambda leaf: leaf.astype(x.dtype), prediction)

    def advance(
        state: State, index: jax.Array, t: Level, s: Level
    ) -> tuple[State, Info]:
        return sampler.step(fold_each(keys, index), bound, state, t, s)

    return advance


def _scan_recording(
    advance: Callable, record: Callable, num_records: int, state: Any, steps: tuple
) -> tuple[Any, Any]:
    """Scan and keep K records, in a buffer that is part of the carry.

    Every step writes its record into the slot of its run, over the one before it. So
    the scan holds K records and not N, and N need not be a multiple of K.
    """
    num_steps = len(steps[0])
    slots = jnp.arange(num_steps) * num_records // num_steps
    shapes = jax.eval_shape(
        lambda state, xs: record(advance(state, *xs)[1]),
        state,
        jax.tree.map(lambda leaf: leaf[0], steps),
    )
    buffer = jax.tree.map(
        lambda leaf: jnp.zeros((num_records, *leaf.shape), leaf.dtype), shapes
    )

    def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        state, buffer = carry
        slot, step = xs
        state, info = advance(state, *step)
        buffer = jax.tree.map(
            lambda kept, new: jax.lax.dynamic_update_index_in_dim(kept, new, slot, 0),
            buffer,
            record(info),
        )
        return (state, buffer), None

    carry, _ = jax.lax.scan(body, (state, buffer), (slots, steps))
    return carry
