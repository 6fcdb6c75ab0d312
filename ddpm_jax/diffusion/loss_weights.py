"""Weights of the squared error by the signal-to-noise ratio, SNR = alpha^2 / sigma^2.

A weight w is given for the squared eps-error; the errors of one prediction are

    (1)  |eps error|^2 = SNR |x0 error|^2 = SNR / (1 + SNR) |v error|^2 / n
                       = (alpha / (alpha + sigma))^2 |u error|^2

with n = alpha^2 + sigma^2 and u = eps - x0 of "flow", so that on the network's own
output it is w, w SNR or, where the schedule preserves the variance (n = 1),
w SNR / (1 + SNR):

                     eps                    x0                       v
    even             1                      SNR                      x0 / (1 + SNR)
    truncated_snr    max(1, 1 / SNR)        max(SNR, 1)              x0 / (1 + SNR)
    min_snr          min(1, gamma / SNR)    min(SNR, gamma)          x0 / (1 + SNR)
    p2               1 / (k + SNR)^gamma    SNR / (k + SNR)^gamma    x0 / (1 + SNR)
    sigmoid_snr      b / (b + SNR)          b SNR / (b + SNR)        x0 / (1 + SNR)
    velocity         x0 / SNR               1 / max(r, floor)^2      x0 / (1 + SNR)

and for flow that of x0 over (1 + sqrt(SNR))^2; b is e^bias, and r the share of noise
sigma / (alpha + sigma) = 1 / (1 + sqrt(SNR)).

Sources: [S] Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of
Diffusion Models", section 4; [M] Hang et al. 2023, "Efficient Diffusion Training via
Min-SNR Weighting Strategy"; [P] Choi et al. 2022, "Perception Prioritized Training of
Diffusion Models"; [K] Kingma and Gao 2023, "Understanding Diffusion Objectives as the
ELBO with Simple Data Augmentation"; [H] Hoogeboom et al. 2024, "Simpler Diffusion
(SiD2): 1.5 FID on ImageNet512 with pixel-space diffusion"; [L] Li and He 2025, "Back to
Basics: Let Denoising Generative Models Denoise".
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddpm_jax import limits
from ddpm_jax.diffusion.losses import (
    Loss,
    LossContext,
    LossSpec,
    Noised,
    simple_loss,
)
from ddpm_jax.diffusion.process import Parameterization

Weight = Callable[[jax.Array], jax.Array]
"""log-SNR -> log of the weight of the eps-error, elementwise.

The logarithm, because the weights and the factors of (1) reach 0 and infinity at the
ends of a schedule where their products do not.
"""


def even(logsnr: jax.Array) -> jax.Array:
    """Give every level's eps-error the weight 1 [B], whatever the network predicts."""
    return jnp.zeros_like(logsnr)


def truncated_snr(logsnr: jax.Array) -> jax.Array:
    """Weigh the x0-error by max(SNR, 1): [S], section 4.

    It is the larger of the eps- and the x0-error, so that no level goes untrained, pure
    noise included.
    """
    return jax.nn.relu(-logsnr)


def min_snr(gamma: float = 5.0) -> Weight:
    """Weigh the x0-error by min(SNR, gamma), gamma > 0: [M].

    Pure noise has the weight 0, for x0 and v too: a schedule that ends in it leaves its
    last level untrained, and what the network predicts there follows from the level
    before.
    """
    return lambda logsnr: jnp.minimum(jnp.log(gamma) - logsnr, 0.0)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """Weigh the eps-error by 1 / (k + SNR)^gamma, k > 0: [P]."""
    return lambda logsnr: -gamma * jnp.logaddexp(jnp.log(k), logsnr)


def sigmoid_snr(bias: float = 0.0) -> Weight:
    """Weigh the eps-error by sigmoid(bias - log SNR): [K] and [H].

    The weight falls from 1 in the noise to 0 near the image, as 1 / SNR there; it is
    1/2 at a log-SNR of `bias`, so that less is spent on fine detail the lower that is.
    [K] and [H] integrate over even log-SNRs, which on the schedule `linear_logsnr` is
    what even times do; on others the density of the levels multiplies the weight.
    """
    return lambda logsnr: jax.nn.log_sigmoid(bias - logsnr)


def velocity(floor: float = 0.05) -> Weight:
    """Weigh as the error of the velocity u = eps - x0, whatever is predicted: [L].

    On the straight path x_t = (1 - r) x0 + r eps a predicted x0 is the velocity
    (x_t - x0) / r, whose error is that of x0 over r; near the image r is taken for
    `floor` at the least, in [0, 1]. On other paths r is sigma / (alpha + sigma), and
    the error of u the same.
    """
    most = -2.0 * math.log(floor) if floor else math.inf

    def weight(logsnr: jax.Array) -> jax.Array:
        # -2 log r, with 1 / r = 1 + sqrt(SNR).
        return jnp.minimum(2.0 * jax.nn.softplus(logsnr / 2.0), most) - logsnr

    return weight


def snr_weighted_loss(kind: Parameterization, weight: Weight) -> Loss:
    """Weigh the squared error of the output by a function of the level's SNR.

    The error is that of the output itself, with the factor of (1), so that nothing is
    divided by an alpha that may be 0: it is finite at pure noise, but for eps.

    Args:
        kind: what the output means, such as EPS or FLOW.
        weight: `even`, `truncated_snr`, `min_snr(gamma)`, `p2(k, gamma)`,
            `sigmoid_snr(bias)` or `velocity(floor)`.
    """
    simple = simple_loss(kind)

    def loss(output: jax.Array, noised: Noised) -> jax.Array:
        # Beyond e^80 float32 has no number left, and -inf + inf no value.
        logsnr = jnp.clip(noised.t.logsnr, -80.0, 80.0)
        factor = kind.log_factor(logsnr, noised.t.square_norm)
        log_weight = weight(logsnr) + factor
        return jnp.exp(log_weight) * simple(output, noised)

    return loss


# --- Specs ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ByLevel(LossSpec):
    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        raise NotImplementedError

    def build(self, context: LossContext) -> Loss:
        """Make the loss."""
        return snr_weighted_loss(context.kind, self.weight())


@dataclasses.dataclass(frozen=True)
class TruncatedSNR(_ByLevel):
    """See `truncated_snr`."""

    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        return truncated_snr


@dataclasses.dataclass(frozen=True)
class MinSNR(_ByLevel):
    """See `min_snr`.

    Attributes:
        gamma: the most that an x0-error weighs.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        limits.positive(self, "gamma", such_as="the paper's is 5")

    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        return min_snr(self.gamma)


@dataclasses.dataclass(frozen=True)
class P2(_ByLevel):
    """See `p2`: the weight of the eps-error is 1 / (k + SNR)^gamma.

    Attributes:
        k: the SNR around which the weight falls.
        gamma: how fast it falls; 0 gives every level the same weight.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        limits.positive(self, "k", such_as="the paper's is 1")
        limits.at_least(self, 0, "gamma")

    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        return p2(self.k, self.gamma)


@dataclasses.dataclass(frozen=True)
class SigmoidSNR(_ByLevel):
    """See `sigmoid_snr`.

    Attributes:
        bias: the log-SNR at which the eps-error weighs half.
    """

    bias: float = 0.0

    def __post_init__(self) -> None:
        # Beyond, the weight is the same at every level that float32 can tell apart.
        limits.between(self, "bias", -80, 80)

    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        return sigmoid_snr(self.bias)


@dataclasses.dataclass(frozen=True)
class Velocity(_ByLevel):
    """See `velocity`: the squared error of the velocity, whatever is predicted.

    Attributes:
        floor: the least share of noise by which the error of x0 is divided; 0 for the
            velocity's error without a bound.
    """

    floor: float = 0.05

    def __post_init__(self) -> None:
        limits.share(self, "floor")

    def weight(self) -> Weight:
        """Make the weight of the eps-error."""
        return velocity(self.floor)
