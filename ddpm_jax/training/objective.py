"""From a batch of pictures to a number to descend: Algorithm 1 with its trimmings.

The trimmings are those of Ho et al. 2020: uint8 scaled to [-1, 1] and random horizontal
flips, both done here, on the device; and what a conditional model is told of each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.losses import Hint, Loss, training_loss
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.times import UNIFORM, TimeSampler
from ddpm_jax.images import to_float

Batch = dict[str, jax.Array]
"""{"image": uint8 [B, H, W, C], "label": int32 [B], "text": ...}, as far as there are
labels and texts."""

Tell = Callable[[jax.Array, Batch, jax.Array], Any]
"""(key, batch, x0 [B, H, W, C] as the network is to draw it) -> its condition."""

Objective = Callable[
    [Any, jax.Array, Batch, Any], tuple[jax.Array, tuple[dict[str, jax.Array], Any]]
]
"""(params, key, batch, memory) -> (loss [], (metrics, memory))."""

NUM_QUARTILES = 4


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image [B, H, W, C] left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def make_objective(
    network: Callable[..., jax.Array],
    schedule: Schedule,
    loss: Loss,
    *,
    flip: bool = False,
    tell: Tell | None = None,
    times: TimeSampler = UNIFORM,
    hint: Hint | None = None,
) -> Objective:
    """Compose the objective of a run.

    Args:
        network: (params, x_t, t, cond, dropout_key) -> output.
        schedule: the forward process.
        loss: one of `diffusion.losses`.
        flip: mirror half of the images.
        tell: what a conditional model is told, such as `conditioning.tell`; None for
            one that is told nothing.
        times: how training levels are drawn; its memory is that of the objective.
        hint: of a self-conditioned network, `self_conditioning.hints`.

    Returns:
        The objective. It is the mean of the examples' losses, each times the weight of
        its draw, and so estimates the mean over even levels whatever `times` is. Its
        metrics are this loss, and by quartile of t the sum of weight times loss and the
        sum of weights, `quartile_sum` and `quartile_count` [4]: their quotient is the
        mean over the levels of the quartile, again whatever `times` is. Without
        importance the weights are 1, and it is the plain mean of those examples.
    """

    def objective(params: Any, key: jax.Array, batch: Batch, memory: Any) -> tuple:
        key_loss, key_flip, key_tell, key_dropout = jax.random.split(key, 4)
        x0 = to_float(batch["image"])
        if flip:
            x0 = random_flip(key_flip, x0)
        losses, noised = training_loss(
            key_loss,
            lambda *args: network(*args, key_dropout),
            params,
            x0,
            schedule=schedule,
            loss=loss,
            cond=None if tell is None else tell(key_tell, batch, x0),
            times=times,
            memory=memory,
            hint=hint,
        )
        weighted = noised.weight * losses
        # Continuous times begin at -1, within the first quartile.
        quartile = jnp.maximum(noised.index, 0) * NUM_QUARTILES // schedule.num_levels
        member = jax.nn.one_hot(quartile.astype(jnp.int32), NUM_QUARTILES)  # [B, 4]
        metrics = {
            "loss": jnp.mean(weighted),
            "quartile_sum": jnp.sum(weighted[:, None] * member, axis=0),
            "quartile_count": jnp.sum((noised.weight * member.T).T, axis=0),
        }
        memory = times.update(memory, noised.index, jax.lax.stop_gradient(losses))
        return metrics["loss"], (metrics, memory)

    return objective
