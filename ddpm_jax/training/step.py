"""One step of training: gradient, optimizer, moving average; a pure function.

Source: Ho et al. 2020, appendix B, for the moving average of the parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ddpm_jax.runtime.devices import gather_params, replicated, rows, shard_like_params
from ddpm_jax.training.ema import gamma_from_std, update_average
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Batch, Objective, Step, Task


def ema_decay(step: jax.Array, target: float) -> jax.Array:
    """Warm the decay of the moving average up: min(target, (1 + step) / (10 + step)).

    The step is [], int32. With a constant 0.9999 the average is mostly the random
    initial network for the first 10,000 steps, and early samples are noise for no other
    reason.
    """
    step = step.astype(jnp.float32)
    return jnp.minimum(target, (1.0 + step) / (10.0 + step))


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    carry: Any = (),
    num_profiles: int = 0,
) -> TrainState:
    """Start a run: the averages start as the parameters themselves.

    Args:
        params: the initial parameters.
        optimizer: optax's.
        carry: what the objective carries into the first step, a tree of arrays.
        num_profiles: how many further averages to keep: as many as the `ema_stds` given
            to `make_train_step`.
    """

    def copy() -> Any:
        # A copy, not an alias: the state is donated, and a buffer only once.
        return jax.tree.map(jnp.copy, params)

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=copy(),
        opt_state=optimizer.init(params),
        ema_profiles=tuple(copy() for _ in range(num_profiles)),
        carry=carry,
    )


def gradient_in_parts(
    objective: Objective,
    num_parts: int,
    keep: Callable[[Any], Any] = lambda tree: tree,
) -> Callable[[Any, jax.Array, Batch, Any], tuple[Any, tuple[dict, Any]]]:
    """Differentiate an objective, accumulating the gradient over parts of the batch.

    Part i is every `num_parts`-th row from row i, so that each device works on rows it
    has, and on the same rows however many devices there are. Its noise is sampled with
    the key of the step folded with i: another sample than that of the whole batch, from
    the same distribution.

    Args:
        objective: (params, key, batch, carry) -> (loss, (metrics, carry)), a mean
            over rows. What it carries passes from part to part.
        num_parts: how many, a divisor of the batch; 1 for the plain gradient.
        keep: applied to the gradient of each part: where its sum is kept.

    Returns:
        (params, key, batch, carry) -> (gradient, (metrics, carry)), gradient and
        metrics being means over the parts.
    """
    differentiate = jax.grad(objective, has_aux=True)
    if num_parts == 1:
        return differentiate

    def in_parts(params: Any, key: jax.Array, batch: Batch, carry: Any) -> tuple:
        def split(array: jax.Array) -> jax.Array:
            pairs = array.reshape(-1, num_parts, *array.shape[1:])
            return pairs.swapaxes(0, 1)  # [num_parts, B / num_parts, ...]

        def add(so_far: tuple, part: tuple) -> tuple:
            total, carry = so_far
            index, rows_of_part = part
            gradient, (metrics, carry) = differentiate(
                params, jax.random.fold_in(key, index), rows_of_part, carry
            )
            return (jax.tree.map(jnp.add, total, keep(gradient)), carry), metrics

        zero = keep(jax.tree.map(jnp.zeros_like, params))
        metrics: dict[str, jax.Array]
        (total, carry), metrics = jax.lax.scan(
            add,
            (zero, carry),
            (jnp.arange(num_parts), jax.tree.map(split, batch)),
            # XLA's CPU backend runs the gradients of convolutions many times slower
            # inside a loop (jaxlib 0.10.2), so there the loop is written out.
            unroll=jax.default_backend() == "cpu",
        )
        gradient = jax.tree.map(lambda leaf: leaf / num_parts, total)
        return gradient, (jax.tree.map(lambda m: m.mean(axis=0), metrics), carry)

    return in_parts


def gradient_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    ema_target: float,
    mesh: Mesh,
    ema_stds: tuple[float, ...] = (),
    num_parts: int = 1,
) -> Step:
    """Compose one step of a network with one loss and one optimiser.

    Args:
        objective: (params, key, batch, carry) -> (loss, (metrics, carry)).
        optimizer: optax's.
        ema_target: decay of the moving average after its warm-up.
        mesh: from `devices.data_mesh`.
        ema_stds: sigma_rel of each power-function EMA in `state.ema_profiles`.
        num_parts: the batch is worked through in so many parts, one after another, and
            the gradients averaged: less memory for the same batch.

    Returns:
        (state, key, batch) -> (state, metrics). The key is that of the run: the step
        folds its own number in, so that nothing random need be saved.
    """
    gammas = [gamma_from_std(std) for std in ema_stds]

    def train_step(
        state: TrainState, key: jax.Array, batch: Batch
    ) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(key, state.step)
        gradient, (metrics, carry) = gradient_in_parts(
            objective, num_parts, keep=lambda tree: shard_like_params(mesh, tree)
        )(gather_params(mesh, state.params), key, batch, state.carry)
        gradient = shard_like_params(mesh, gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, ema_target)
        ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
        ema_profiles = tuple(
            update_average(profile, params, state.step, gamma)
            for profile, gamma in zip(state.ema_profiles, gammas, strict=True)
        )
        metrics = {**metrics, "grad_norm": optax.tree.norm(gradient)}
        return (
            TrainState(
                state.step + 1, params, ema_params, opt_state, ema_profiles, carry
            ),
            metrics,
        )

    return train_step


def compile_step(step: Step, mesh: Mesh, placed: Any = None) -> Step:
    """Compile a step over a mesh: batch by rows, state donated.

    Args:
        step: pure.
        mesh: from `devices.data_mesh`.
        placed: the sharding of each leaf of the state, from `devices.shardings`; None
            if the state is replicated.

    Returns:
        (state, key, batch) -> (state, metrics).
    """
    everywhere = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(placed or everywhere, everywhere, rows(mesh)),
        out_shardings=(placed or everywhere, everywhere),
        donate_argnums=0,
    )


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    ema_target: float,
    mesh: Mesh,
    ema_stds: tuple[float, ...] = (),
    placed: Any = None,
    num_parts: int = 1,
) -> Step:
    """Compose `gradient_step` and compile it; the arguments are those of both."""
    step = gradient_step(
        objective,
        optimizer,
        ema_target=ema_target,
        mesh=mesh,
        ema_stds=ema_stds,
        num_parts=num_parts,
    )
    return compile_step(step, mesh, placed)


def gradient_task(
    draw: Callable[[], Any],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    ema_target: float,
    mesh: Mesh,
    ema_stds: tuple[float, ...] = (),
    carry: Any = (),
    num_parts: int = 1,
    **others: Any,
) -> Task:
    """Compose the task of a network with one loss and one optimiser.

    Args:
        draw: () -> its initial parameters.
        objective: (params, key, batch, carry) -> (loss, (metrics, carry)).
        optimizer: optax's.
        ema_target: decay of the moving average after its warm-up.
        mesh: from `devices.data_mesh`.
        ema_stds: sigma_rel of each further average.
        carry: what the objective carries from step to step, before the first one.
        num_parts: see `gradient_step`.
        others: of the task's fields: summarize, shown, preview, finish, unused.
    """
    return Task(
        draw=draw,
        start=lambda params: init_state(
            params, optimizer, carry=carry, num_profiles=len(ema_stds)
        ),
        step=gradient_step(
            objective,
            optimizer,
            ema_target=ema_target,
            mesh=mesh,
            ema_stds=ema_stds,
            num_parts=num_parts,
        ),
        **others,
    )
