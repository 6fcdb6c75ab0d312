"""Diffusion: the loss of Algorithm 1, with augmentation and conditioning.

As in Ho et al. 2020, uint8 is scaled to [-1, 1] and images are mirrored at random, both
here, on the device. A batch is {"image": uint8 [B, H, W, C], "label": int32 [B],
"text": ...}, as far as there are labels and texts. In latents the image is float32
[B, h, w, 2 c V], posterior moments of V views: see `latents`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.losses import Hint, Loss, training_loss
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.time_sampling import UNIFORM, TimeSampler
from ddpm_jax.runtime.images import to_float
from ddpm_jax.tasks.augment import random_flip
from ddpm_jax.training.task import Batch, Objective, Summary, means

Start = Callable[[jax.Array, jax.Array], jax.Array]
"""(key, image of a batch) -> x0 float32 [B, ...], what is to be noised."""

Tell = Callable[[jax.Array, Batch, jax.Array], Any]
"""(key, batch, x0 [B, ...] as the network is to draw it) -> its condition."""

NUM_QUARTILES = 4


def pixels(*, flip: bool) -> Start:
    """Start from the images themselves, half of them mirrored if asked."""

    def start(key: jax.Array, images: jax.Array) -> jax.Array:
        x0 = to_float(images)
        return random_flip(key, x0) if flip else x0

    return start


def latents(num_views: int) -> Start:
    """Start from latents drawn from their posterior, as Rombach et al. 2022 train.

    Args:
        num_views: V, how many pictures of an example were encoded, such as one and its
            mirror image; each example takes one of them. The moments of all lie one
            after the other along the last axis, mean and standard deviation of each.
    """

    def start(key: jax.Array, moments: jax.Array) -> jax.Array:
        key_view, key_noise = jax.random.split(key)
        views = jnp.stack(jnp.split(moments, num_views, axis=-1), axis=1)
        chosen = jax.random.randint(
            key_view, moments.shape[:1], 0, num_views, jnp.int32
        )
        one = jax.vmap(lambda of, view: of[view])(views, chosen)
        mean, std = jnp.split(one, 2, axis=-1)
        return mean + std * jax.random.normal(key_noise, mean.shape, mean.dtype)

    return start


_PLAIN = pixels(flip=False)


def make_objective(
    network: Callable[..., jax.Array],
    schedule: Schedule,
    loss: Loss,
    *,
    start: Start = _PLAIN,
    tell: Tell | None = None,
    times: TimeSampler = UNIFORM,
    hint: Hint | None = None,
) -> Objective:
    """Compose the objective of a run.

    Args:
        network: (params, x_t, t, cond, dropout_key) -> output.
        schedule: the forward process.
        loss: one of `diffusion.losses`.
        start: what of a batch is noised: `pixels`, by default unmirrored, or `latents`.
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
        key_loss, key_start, key_tell, key_dropout = jax.random.split(key, 4)
        x0 = start(key_start, batch["image"])
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
        member = jax.nn.one_hot(
            quartile.astype(jnp.int32), NUM_QUARTILES, dtype=jnp.float32
        )  # [B, 4]
        metrics = {
            "loss": jnp.mean(weighted),
            "quartile_sum": jnp.sum(weighted[:, None] * member, axis=0),
            "quartile_count": jnp.sum((noised.weight * member.T).T, axis=0),
        }
        memory = times.update(memory, noised.index, jax.lax.stop_gradient(losses))
        return metrics["loss"], (metrics, memory)

    return objective


def summarise(metrics: Sequence[Mapping[str, np.ndarray]]) -> Summary:
    """Average loss and gradient norm over steps, and the loss by quartile of t.

    Args:
        metrics: of each step, as the objective and the step give them; arrays [...].

    Returns:
        "loss", "loss_q0" (least noise) to "loss_q3" (nan where no level of the quartile
        was drawn), and the other scalars.
    """
    count = np.sum([one["quartile_count"] for one in metrics], axis=0)
    total = np.sum([one["quartile_sum"] for one in metrics], axis=0)
    by_quartile = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    scalars = means(metrics)
    quartiles = {f"loss_q{i}": float(v) for i, v in enumerate(by_quartile)}
    return {"loss": scalars.pop("loss"), **quartiles, **scalars}
