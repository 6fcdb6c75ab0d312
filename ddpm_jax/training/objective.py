"""From a batch of pictures to a number to descend: Algorithm 1 with its trimmings.

The trimmings are those of Ho et al. 2020: uint8 scaled to [-1, 1] and random horizontal
flips, both done here, on the device; and, for conditional models, the label dropped now
and then (Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", Algorithm 1).
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
"""{"image": uint8 [B, H, W, C], "label": int32 [B]}; no label if the data have none."""

Objective = Callable[
    [Any, jax.Array, Batch, Any], tuple[jax.Array, tuple[dict[str, jax.Array], Any]]
]
"""(params, key, batch, memory) -> (loss [], (metrics, memory))."""

NUM_QUARTILES = 4


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image [B, H, W, C] left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def drop_labels(
    key: jax.Array, labels: jax.Array, probability: float, null: int
) -> jax.Array:
    """Replace each label [B] by the null class with the given probability."""
    dropped = jax.random.bernoulli(key, probability, labels.shape)
    return jnp.where(dropped, null, labels)


def make_objective(
    network: Callable[..., jax.Array],
    schedule: Schedule,
    loss: Loss,
    *,
    flip: bool = False,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    times: TimeSampler = UNIFORM,
    hint: Hint | None = None,
) -> Objective:
    """Compose the objective of a run.

    Args:
        network: (params, x_t, t, cond, dropout_key) -> output.
        schedule: the forward process.
        loss: one of `diffusion.losses`.
        flip: mirror half of the images.
        num_classes: of a conditional model; its null class has this number.
        label_dropout: probability of the null class in the place of the label.
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
        key_loss, key_flip, key_label, key_dropout = jax.random.split(key, 4)
        x0 = to_float(batch["image"])
        if flip:
            x0 = random_flip(key_flip, x0)
        cond = None
        if num_classes is not None:
            labels = drop_labels(key_label, batch["label"], label_dropout, num_classes)
            cond = {"label": labels}
        losses, noised = training_loss(
            key_loss,
            lambda *args: network(*args, key_dropout),
            params,
            x0,
            schedule=schedule,
            loss=loss,
            cond=cond,
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
