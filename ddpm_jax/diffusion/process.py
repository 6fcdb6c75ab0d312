r"""The forward process, its posterior, and what a network may predict of it.

Notation. `t` is the noisier level, `s` the cleaner one; alpha_bar of the papers is
alpha^2 here, and sigma^2 = 1 - alpha_bar where the schedule preserves the variance, as
all tables of betas do; the equations hold for any alpha and sigma, and n is what is 1
if it does. For neighbouring levels of a table, sqrt(1 - beta_t) = alpha_t / alpha_s.

    (1)  q(x_t | x_0)      = N(alpha_t x_0, sigma_t^2 I)                       [H] eq. 4
    (2)  q(x_t | x_s)      = N((alpha_t/alpha_s) x_s, sigma_t^2 c I)           [H] eq. 2
    (3)  c                 = 1 - SNR_t / SNR_s = -expm1(logsnr_t - logsnr_s)   [K]
    (4)  q(x_s | x_t, x_0) = N(mean, sigma_s^2 c I)                            [H] eq. 6
    (5)  mean = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + alpha_s c x_0  [H] eq. 7
    (6)  mean = (alpha_s/alpha_t) (x_t - sigma_t c eps)                       [H] eq. 11
    (7)  v    = alpha eps - sigma x_0;  x_0 = (alpha x_t - sigma v) / n,
                                        eps = (sigma x_t + alpha v) / n    [P] section 4
    (8)  n    = alpha^2 + sigma^2
    (9)  u    = eps - x_0;  x_0 = (x_t - sigma u) / (alpha + sigma),
                            eps = (x_t + alpha u) / (alpha + sigma)

Eq. (2) with s one step before t gives beta_t = sigma_t^2 c, and (4) gives Ho et al.'s
beta_tilde_t = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t. These two are the
"large" (times n_s / n_t, in general) and the "small" variance of the reverse step.

u is dx_t/du on the straight path alpha = 1 - u, sigma = u, the target of flow matching
[L] and rectified flow; eq. (9) reads it at any level, alpha and sigma being positive.

Conventions, here and everywhere: noise grows with t; images are float32 in [-1, 1];
arrays are `[B, ...]`, and no function of this package names height, width or channels,
so that latents, video and point sets need no change. A level's leaves are `[]` or
`[B]`.

Sources: [H] Ho et al. 2020; [K] Kingma et al. 2021, appendix A.4; [P] Salimans and Ho
2022, "Progressive Distillation for Fast Sampling of Diffusion Models"; [L] Lipman et
al. 2023, "Flow Matching for Generative Modeling".
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError


def like(value: jax.Array, x: jax.Array) -> jax.Array:
    """Give a `[]` or `[B]` value the rank of x `[B, ...]`, so that it broadcasts."""
    return jnp.reshape(value, jnp.shape(value) + (1,) * (x.ndim - jnp.ndim(value)))


def noise_like(keys: jax.Array, x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Draw standard normal noise, row i from key i alone.

    With a key of its own, an image does not depend on its batch.

    Args:
        keys: typed PRNG keys [B].
        x: [B, ...], for its shape and dtype.
    """
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


# --- Forward --------------------------------------------------------------------------


def add_noise(x0: jax.Array, eps: jax.Array, level: Level) -> jax.Array:
    """Jump from x_0 to x_t in closed form, eq. (1).

    Args:
        x0: clean data [B, ...].
        eps: standard normal noise [B, ...].
        level: leaves [] or [B].
    """
    return like(level.alpha, x0) * x0 + like(level.sigma, x0) * eps


def fraction_of_noise(t: Level, s: Level) -> jax.Array:
    """Compute c = 1 - SNR_t / SNR_s, eq. (3): how much of x_t's noise is new since s.

    The ratio of SNRs is taken as the square of one quotient rather than through the
    difference of two logarithms: in float32 it is at least as accurate (to 3e-5 of c on
    the linear table of 1000 steps, 5e-5 on the cosine one), and at the two ends
    (sigma_s = 0, alpha_t = 0) it is exactly 1 with no infinities.
    """
    ratio = (t.alpha * s.sigma) / (s.alpha * t.sigma)
    return (1.0 - ratio) * (1.0 + ratio)


def transition(t: Level, s: Level) -> tuple[jax.Array, jax.Array]:
    """Describe q(x_t | x_s), eq. (2).

    Returns:
        The factor of x_s, and the variance. For neighbours in a table these are
        sqrt(1 - beta_t) and beta_t.
    """
    return t.alpha / s.alpha, t.sigma**2 * fraction_of_noise(t, s)


def markov_step(x_s: jax.Array, eps: jax.Array, t: Level, s: Level) -> jax.Array:
    """Add noise to x_s up to the noisier x_t, a sample of q(x_t | x_s), eq. (2).

    Args:
        x_s: [B, ...].
        eps: standard normal noise [B, ...], independent of x_s.
        t: the noisier level.
        s: the cleaner level; s clean makes this `add_noise`.
    """
    factor, variance = transition(t, s)
    return like(factor, x_s) * x_s + like(jnp.sqrt(variance), x_s) * eps


# --- Posterior ------------------------------------------------------------------------


def posterior(
    x_t: jax.Array, x0: jax.Array, t: Level, s: Level
) -> tuple[jax.Array, jax.Array]:
    """Compute mean `[B, ...]` and variance of q(x_s | x_t, x_0), eq. (4) and (5)."""
    c = fraction_of_noise(t, s)
    keep = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
    mean = like(keep, x_t) * x_t + like(s.alpha * c, x_t) * x0
    return mean, s.sigma**2 * c


def posterior_mean_from_eps(
    x_t: jax.Array, eps: jax.Array, t: Level, s: Level
) -> jax.Array:
    """Compute the same mean [B, ...] from eps, eq. (6): Algorithm 2's bracket."""
    c = fraction_of_noise(t, s)
    return like(s.alpha / t.alpha, x_t) * (x_t - like(t.sigma * c, x_t) * eps)


def posterior_mean_from_v(
    x_t: jax.Array, v: jax.Array, t: Level, s: Level
) -> jax.Array:
    """Compute the same mean [B, ...] from v, eq. (5) with x_0 from eq. (7)."""
    mean, _ = posterior(x_t, x0_from_v(v, x_t, t), t, s)
    return mean


# --- What a network predicts ----------------------------------------------------------


class Prediction(NamedTuple):
    """A prediction from x_t. x0 and eps always agree: x_t = alpha x0 + sigma eps.

    Attributes:
        x0: [B, ...], the expected clean data.
        eps: [B, ...], the expected noise.
        fraction: [B, ...] or None; how far, in log space, the reverse variance lies
            from the small (0) to the large (1): Nichol and Dhariwal 2021, eq. (15).
    """

    x0: jax.Array
    eps: jax.Array
    fraction: jax.Array | None = None


def x0_from_eps(eps: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Solve eq. (1) for x_0: [B, ...]."""
    return (x_t - like(level.sigma, x_t) * eps) / like(level.alpha, x_t)


def eps_from_x0(x0: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Solve eq. (1) for eps: [B, ...]."""
    return (x_t - like(level.alpha, x_t) * x0) / like(level.sigma, x_t)


def x0_from_v(v: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Rotate back to x_0 [B, ...], eq. (7)."""
    n = level.square_norm
    return like(level.alpha / n, x_t) * x_t - like(level.sigma / n, x_t) * v


def eps_from_v(v: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Rotate back to eps [B, ...], eq. (7)."""
    n = level.square_norm
    return like(level.sigma / n, x_t) * x_t + like(level.alpha / n, x_t) * v


def v_from_x0_eps(x0: jax.Array, eps: jax.Array, level: Level) -> jax.Array:
    """Compute the velocity v = alpha eps - sigma x_0, eq. (7): [B, ...]."""
    return like(level.alpha, x0) * eps - like(level.sigma, x0) * x0


def x0_from_flow(u: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Read x_0 [B, ...] off the velocity of the straight path, eq. (9)."""
    total = level.alpha + level.sigma
    return like(1.0 / total, x_t) * x_t - like(level.sigma / total, x_t) * u


def eps_from_flow(u: jax.Array, x_t: jax.Array, level: Level) -> jax.Array:
    """Read eps [B, ...] off the velocity of the straight path, eq. (9)."""
    total = level.alpha + level.sigma
    return like(1.0 / total, x_t) * x_t + like(level.alpha / total, x_t) * u


NetworkInput = Callable[[jax.Array, Level], tuple[jax.Array, jax.Array]]
"""(x_t [B, ...], level with leaves [] or [B]) -> the network's x [B, ...], t [], [B]"""


def plain_input(x_t: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
    """Give the network x_t [B, ...] and t as they are."""
    return x_t, level.t


class Parameterization(NamedTuple):
    """What the network's output means, and what it is trained towards.

    Attributes:
        name: as a config spells it.
        predict: (output, x_t, level) -> Prediction.
        target: (x0, eps, level) -> what the output should have been, [B, ...].
        log_factor: (log-SNR, alpha^2 + sigma^2) -> log of |eps error|^2 over |output
            error|^2, elementwise; see `loss_weights`.
        network_input: what the network is given of x_t and its level.
    """

    name: str
    predict: Callable[[jax.Array, jax.Array, Level], Prediction]
    target: Callable[[jax.Array, jax.Array, Level], jax.Array]
    log_factor: Callable[[jax.Array, jax.Array], jax.Array]
    network_input: NetworkInput = plain_input


EPS = Parameterization(
    "eps",
    predict=lambda out, x_t, level: Prediction(x0_from_eps(out, x_t, level), out),
    target=lambda x0, eps, level: eps,
    log_factor=lambda logsnr, n: jnp.zeros_like(logsnr),
)
X0 = Parameterization(
    "x0",
    predict=lambda out, x_t, level: Prediction(out, eps_from_x0(out, x_t, level)),
    target=lambda x0, eps, level: x0,
    log_factor=lambda logsnr, n: logsnr,
)
V = Parameterization(
    "v",
    predict=lambda out, x_t, level: Prediction(
        x0_from_v(out, x_t, level), eps_from_v(out, x_t, level)
    ),
    target=v_from_x0_eps,
    log_factor=lambda logsnr, n: jax.nn.log_sigmoid(logsnr) - jnp.log(n),
)
FLOW = Parameterization(
    "flow",
    predict=lambda out, x_t, level: Prediction(
        x0_from_flow(out, x_t, level), eps_from_flow(out, x_t, level)
    ),
    target=lambda x0, eps, level: eps - x0,
    # alpha / (alpha + sigma) is the sigmoid of half the log-SNR.
    log_factor=lambda logsnr, n: 2.0 * jax.nn.log_sigmoid(0.5 * logsnr),
)


# --- The variance of the reverse step p(x_s | x_t) ------------------------------------

Variance = Callable[[Level, Level, Prediction | None, jax.Array | float], jax.Array]
"""(t, s, prediction, decoder_var) -> variance of p(x_s | x_t): [], [B] or [B, ...].

`decoder_var` is the variance of the first step, x_1 -> x_0, where the posterior has
none. It is 0 when sampling, since Algorithm 2 adds no noise there, and beta_tilde_2 in
the bound, which needs a decoder with some width (the choice of Ho et al.'s code).
"""


def small_variance(
    t: Level,
    s: Level,
    prediction: Prediction | None = None,
    decoder_var: jax.Array | float = 0.0,
) -> jax.Array:
    """Compute beta_tilde, the variance of the posterior, eq. (4).

    It is right if the data are a single point ([H], section 3.2).
    """
    del prediction
    return jnp.where(s.sigma > 0, s.sigma**2 * fraction_of_noise(t, s), decoder_var)


def large_variance(
    t: Level,
    s: Level,
    prediction: Prediction | None = None,
    decoder_var: jax.Array | float = 0.0,
) -> jax.Array:
    """Compute beta n_s / n_t, beta being the variance of the forward step, eq. (2).

    It is right if the data are standard normal, so that x_t has the variance n_t
    ([H], section 3.2, where n = 1).
    """
    del prediction
    return jnp.where(s.sigma > 0, _large(t, s), decoder_var)


def _large(t: Level, s: Level) -> jax.Array:
    return t.sigma**2 * fraction_of_noise(t, s) * (s.square_norm / t.square_norm)


def learned_variance(
    t: Level,
    s: Level,
    prediction: Prediction | None,
    decoder_var: jax.Array | float = 0.0,
) -> jax.Array:
    """Interpolate between small and large in log space: [B, ...].

    Raises:
        UserError: the network predicts no variance.

    Source: Nichol and Dhariwal 2021, eq. (15); fraction 0 is small, 1 is large.
    """
    if prediction is None or prediction.fraction is None:
        raise UserError(
            "the variance is to be a learned one, and the network predicts none; use "
            "small_variance or large_variance."
        )
    fraction = prediction.fraction
    small = small_variance(t, s, decoder_var=decoder_var)
    large = _large(t, s)
    # A variance of 0 has no logarithm; the `where` keeps it 0 whatever the fraction.
    log_small = jnp.log(jnp.where(small > 0, small, 1.0))
    log_variance = fraction * like(jnp.log(large), fraction) + (1.0 - fraction) * like(
        log_small, fraction
    )
    return jnp.where(like(small, fraction) > 0, jnp.exp(log_variance), 0.0)


PREDICTIONS: Mapping[str, Parameterization] = {
    kind.name: kind for kind in (EPS, X0, V, FLOW)
}
VARIANCES: Mapping[str, Variance] = {
    "small": small_variance,
    "large": large_variance,
    "learned": learned_variance,
}
