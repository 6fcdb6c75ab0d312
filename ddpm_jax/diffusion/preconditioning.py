r"""EDM's preconditioning: network, input and noise scaled to unit variance.

With y = x_t / alpha, r = sigma / alpha and data of standard deviation s, [K] make the
denoiser of a network F by table 1 of the paper, last column:

    (1)  D(y; r) = c_skip y + c_out F(c_in y; c_noise)
    (2)  c_skip  = s^2 / (r^2 + s^2)          c_out   = r s / sqrt(r^2 + s^2)
         c_in    = 1 / sqrt(r^2 + s^2)        c_noise = log(r) / 4

[K] have alpha = 1 throughout. y and r do not depend on how a schedule scales x, so the
same model is trained on any schedule; in its own alpha and sigma, with

    (3)  q    = sigma^2 + alpha^2 s^2         the variance of x_t,

it is the rotation below, which has neither 1 / alpha nor 1 / sigma:

    (4)  c_in y = x_t / sqrt(q),    F = (sigma x_0 - alpha s^2 eps) / (s sqrt(q))
    (5)  x_0 = (alpha s^2 x_t + sigma s sqrt(q) F) / q
         eps = (sigma x_t - alpha s sqrt(q) F) / q

The weight of the x_0-error that [K] train with, (r^2 + s^2) / (r s)^2, is 1 / c_out^2:
the mean square error of F, which is `losses.simple_loss`. Where the schedule preserves
the variance and s = 1, F is -v and the input x_t itself.

Source: [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", section 5 and table 1.
"""

import math

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.process import Parameterization, Prediction, like
from ddpm_jax.diffusion.schedules import Level


def edm(data_std: float = 0.5) -> Parameterization:
    """Make the parameterization of a preconditioned network.

    Args:
        data_std: s, the standard deviation of x_0 over all its numbers; [K] take 0.5
            for images in [-1, 1].
    """
    s = data_std

    def scales(level: Level) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return alpha s and sigma over root q, and root q."""
        root = jnp.sqrt(level.sigma**2 + (level.alpha * s) ** 2)
        return level.alpha * s / root, level.sigma / root, root

    def predict(output: jax.Array, x_t: jax.Array, level: Level) -> Prediction:
        signal, noise, root = scales(level)
        unit = x_t / like(root, x_t)
        return Prediction(
            x0=s * (like(signal, x_t) * unit + like(noise, x_t) * output),
            eps=like(noise, x_t) * unit - like(signal, x_t) * output,
        )

    def target(x0: jax.Array, eps: jax.Array, level: Level) -> jax.Array:
        signal, noise, _ = scales(level)
        return like(noise, x0) * (x0 / s) - like(signal, x0) * eps

    def network_input(x_t: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
        _, _, root = scales(level)
        # log(r) / 4; at the two ends, where it is infinite, a number far outside.
        return x_t / like(root, x_t), -0.125 * jnp.clip(level.logsnr, -80.0, 80.0)

    return Parameterization(
        "edm",
        predict,
        target,
        # |eps error|^2 = SNR |x0 error|^2, and the x0-error is c_out times that of F.
        log_factor=lambda logsnr, n: jax.nn.log_sigmoid(logsnr + 2.0 * math.log(s)),
        network_input=network_input,
    )
