"""Noise schedules: how much signal and how much noise each step of the chain holds.

A *level* is one point of the forward process, `x = alpha * x0 + sigma * eps`. Every
schedule, be it a table of betas or a function of the log-SNR, is a map from the time t
that the network is told to a level; nothing downstream knows which kind it was.

Steps are numbered 1..T in the papers. The network is told t = step - 1, so 0..T-1, as
in the code of Ho et al. and in every published checkpoint, and t = -1 is the clean
image (alpha = 1, sigma = 0). Tables are computed in float64 NumPy and cast once.

Sources:
    [H] Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", and the beta
        schedules of its published code.
    [N] Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".
    [J] Jabri, Fleet, Chen 2022, "Scalable Adaptive Computation for Iterative
        Generation", the sigmoid schedule.
    [K] Kingma et al. 2021, "Variational Diffusion Models": schedules as log-SNR.
    [S] Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models": sub-sequences.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError


class Level(NamedTuple):
    """A point of the forward process `x = alpha * x0 + sigma * eps`.

    The leaves share one shape: `[]` while sampling, `[B]` while training, `[N + 1]` for
    a grid. Noise grows with t.
    """

    t: jax.Array  # what the network is told; nothing else reads it
    alpha: jax.Array  # signal, 1 at the clean end
    sigma: jax.Array  # noise, 0 at the clean end

    @property
    def logsnr(self) -> jax.Array:
        """log(alpha^2 / sigma^2): +inf for the clean image, -inf for pure noise."""
        return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))


class Schedule(NamedTuple):
    """A map from time to level, and back.

    Attributes:
        at: t -> Level. Integers -1..T-1 for tables, reals in [-1, T-1] for log-SNR
            functions. t = -1 is the clean end for both.
        inverse: logsnr -> t, real; between the entries of a table it interpolates.
        draw: u in [0, 1) -> t, uniform over the noisy levels if u is uniform.
        num_levels: T, the number of noisy levels (of nominal steps, if continuous).
    """

    at: Callable[[jax.Array], Level]
    inverse: Callable[[jax.Array], jax.Array]
    draw: Callable[[jax.Array], jax.Array]
    num_levels: int


# --- Tables of betas: beta_t is the variance of the Markov step q(x_t | x_{t-1}) ------


def linear_betas(T: int, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Rise linearly from start to end: [H], section 4. Returns float64 [T]."""
    return np.linspace(start, end, T, dtype=np.float64)


def quadratic_betas(T: int, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Rise linearly in the square root ("quad" in [H]'s code). Returns float64 [T]."""
    return np.linspace(start**0.5, end**0.5, T, dtype=np.float64) ** 2


def constant_betas(T: int, value: float = 0.02) -> np.ndarray:
    """Take the same beta at every step ("const" in [H]'s code). Returns float64 [T]."""
    return np.full(T, value, dtype=np.float64)


def jsd_betas(T: int) -> np.ndarray:
    """Return 1/T, 1/(T-1), ..., 1: [H]'s "jsd", float64 [T].

    alpha_bar falls on a straight line and the last level is pure noise. It is the
    schedule of Sohl-Dickstein et al. 2015, "Deep Unsupervised Learning using
    Nonequilibrium Thermodynamics", for binary data, which erases 1/T of the signal a
    step.
    """
    return 1.0 / np.arange(T, 0, -1, dtype=np.float64)


def warmup_betas(
    T: int, start: float = 1e-4, end: float = 0.02, *, fraction: float
) -> np.ndarray:
    """Rise linearly over a fraction of the steps, then stay: float64 [T].

    Source: [H]'s code; "warmup10" and "warmup50" are the fractions 0.1 and 0.5.
    """
    num_rising = int(T * fraction)
    rising = np.linspace(start, end, num_rising, dtype=np.float64)
    return np.concatenate([rising, np.full(T - num_rising, end, dtype=np.float64)])


def betas_from_alpha_bar(
    alpha_bar: Callable[[np.ndarray], np.ndarray], T: int, max_beta: float = 0.999
) -> np.ndarray:
    """Discretise a curve alpha_bar(u), u in [0, 1]: float64 [T].

    beta_t = min(1 - alpha_bar(t/T) / alpha_bar((t-1)/T), max_beta): [N], eq. (17) and
    the clipping described below it.
    """
    curve = alpha_bar(np.arange(T + 1, dtype=np.float64) / T)
    return np.minimum(1.0 - curve[1:] / curve[:-1], max_beta)


def cosine_betas(T: int, s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Let alpha_bar fall as a squared cosine: [N], eq. (17). Returns float64 [T]."""
    return betas_from_alpha_bar(
        lambda u: np.cos((u + s) / (1.0 + s) * np.pi / 2) ** 2, T, max_beta
    )


def sigmoid_betas(
    T: int,
    start: float = -3.0,
    end: float = 3.0,
    tau: float = 1.0,
    max_beta: float = 0.999,
) -> np.ndarray:
    """Let alpha_bar fall as a rescaled sigmoid: [J], appendix. Returns float64 [T]."""

    def sigmoid(x: np.ndarray | float) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-np.asarray(x, dtype=np.float64)))

    first, last = sigmoid(start / tau), sigmoid(end / tau)

    def alpha_bar(u: np.ndarray) -> np.ndarray:
        return (last - sigmoid((start + u * (end - start)) / tau)) / (last - first)

    return betas_from_alpha_bar(alpha_bar, T, max_beta)


# --- Schedules ------------------------------------------------------------------------


def from_betas(betas: np.ndarray) -> Schedule:
    """Build the schedule of a table of betas.

    Args:
        betas: [T], the variances of the Markov steps, each in (0, 1]; only the last may
            be 1.

    Raises:
        UserError: if a beta lies outside (0, 1], or one before the last is 1.
    """
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or betas.size < 2:
        raise UserError(
            f"betas have shape {betas.shape}; give one axis of at least two steps."
        )
    bad = ~((betas > 0) & (betas <= 1))
    bad[:-1] |= betas[:-1] == 1
    if bad.any():
        first = int(np.argmax(bad))
        raise UserError(
            f"beta at step {first + 1} of {betas.size} is {betas[first]:g}; every beta "
            "must lie in (0, 1), and only the last may be 1."
        )
    num_levels = betas.size
    # log alpha_bar, so that neither end loses digits: sigma^2 = -expm1(log alpha_bar).
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-betas))
    log_alpha_bar = np.concatenate([[0.0], log_alpha_bar])  # entry 0 is the clean end
    alpha = jnp.asarray(np.exp(0.5 * log_alpha_bar), jnp.float32)
    sigma = jnp.asarray(np.sqrt(-np.expm1(log_alpha_bar)), jnp.float32)
    with np.errstate(divide="ignore"):
        logsnr = log_alpha_bar[1:] - np.log(-np.expm1(log_alpha_bar[1:]))
    # jnp.interp wants finite, rising abscissae: the table from noise to signal.
    rising_logsnr = jnp.asarray(np.maximum(logsnr, -1e4)[::-1], jnp.float32)
    falling_t = jnp.asarray(np.arange(num_levels)[::-1], jnp.float32)

    def at(t: jax.Array) -> Level:
        entry = jnp.asarray(t) + 1
        return Level(
            t=jnp.asarray(t, jnp.float32),
            alpha=jnp.take(alpha, entry, mode="clip"),
            sigma=jnp.take(sigma, entry, mode="clip"),
        )

    def inverse(logsnr: jax.Array) -> jax.Array:
        return jnp.interp(logsnr, rising_logsnr, falling_t)

    def draw(u: jax.Array) -> jax.Array:
        return jnp.minimum((u * num_levels).astype(jnp.int32), num_levels - 1)

    return Schedule(at, inverse, draw, num_levels)


def from_logsnr(
    logsnr: Callable[[jax.Array], jax.Array],
    inverse: Callable[[jax.Array], jax.Array],
    num_levels: int = 1000,
) -> Schedule:
    """Build a continuous, variance-preserving schedule from a log-SNR function.

    alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr): [K], eq. (2) to (4).

    Args:
        logsnr: u in [0, 1] -> log-SNR, strictly falling.
        inverse: log-SNR -> u.
        num_levels: T; the network is told t = T u - 1, so that 0..T-1 keep the meaning
            they have in a table.
    """

    def at(t: jax.Array) -> Level:
        t = jnp.asarray(t, jnp.float32)
        value = logsnr((t + 1.0) / num_levels)
        clean = t <= -1.0
        return Level(
            t=t,
            alpha=jnp.where(clean, 1.0, jnp.sqrt(jax.nn.sigmoid(value))),
            sigma=jnp.where(clean, 0.0, jnp.sqrt(jax.nn.sigmoid(-value))),
        )

    def to_t(value: jax.Array) -> jax.Array:
        return inverse(value) * num_levels - 1.0

    def draw(u: jax.Array) -> jax.Array:
        return (1.0 - u) * num_levels - 1.0  # 1 - u is in (0, 1]: never the clean end

    return Schedule(at, to_t, draw, num_levels)


def scale_time(schedule: Schedule, scale: float) -> Schedule:
    """Tell the network t * scale, and change nothing else.

    [N] trains T = 4000 with 1000 / T, so that the time embedding sees 0..1000 whatever
    T is.
    """

    def at(t: jax.Array) -> Level:
        level = schedule.at(t)
        return level._replace(t=level.t * scale)

    return schedule._replace(at=at)


def linear_logsnr(
    logsnr_max: float = 10.0, logsnr_min: float = -10.0, num_levels: int = 1000
) -> Schedule:
    """Let the log-SNR fall on a straight line: [K], the schedule of its section 6."""
    span = logsnr_min - logsnr_max
    return from_logsnr(
        lambda u: logsnr_max + span * u, lambda v: (v - logsnr_max) / span, num_levels
    )


def cosine_logsnr(
    logsnr_max: float = 15.0, logsnr_min: float = -15.0, num_levels: int = 1000
) -> Schedule:
    """Let alpha fall as a cosine, truncated at both ends.

    logsnr(u) = -2 log tan(a u + b): Kingma et al. and Salimans and Ho 2022,
    "Progressive Distillation", section 2, as truncated in Hoogeboom et al. 2023,
    "simple diffusion", section 3.1.
    """
    low = np.arctan(np.exp(-0.5 * logsnr_max))
    high = np.arctan(np.exp(-0.5 * logsnr_min))

    def logsnr(u: jax.Array) -> jax.Array:
        return -2.0 * jnp.log(jnp.tan(low + u * (high - low)))

    def inverse(value: jax.Array) -> jax.Array:
        return (jnp.arctan(jnp.exp(-0.5 * value)) - low) / (high - low)

    return from_logsnr(logsnr, inverse, num_levels)


# --- Grids: which levels an N-step sampler visits (N in 1..T, as `grid` checks) -------


def linear_steps(T: int, num_steps: int) -> np.ndarray:
    """Space the times evenly, both ends included: int [N], rising from 0 to T-1."""
    return _distinct(_both_ends(T - 1, num_steps), T)


def quadratic_steps(T: int, num_steps: int) -> np.ndarray:
    """Crowd the times near the image, t ~ i^2: [S], appendix D.2. int [N], rising."""
    return _distinct((T - 1) * _both_ends(1, num_steps) ** 2, T)


def leading_steps(T: int, num_steps: int) -> np.ndarray:
    """Start at t = 0 and jump by T/N: [S], the linear tau. int [N], rising.

    The noisiest level is left out unless N = T, which costs contrast at few steps (Lin
    et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed").
    """
    return _distinct(np.floor(np.arange(num_steps) * T / num_steps), T)


def trailing_steps(T: int, num_steps: int) -> np.ndarray:
    """End at t = T-1 and jump down by T/N: Lin et al. 2024, table 2. int [N]."""
    return _distinct(T - 1 - np.arange(num_steps)[::-1] * T / num_steps, T)


def _both_ends(last: float, num_steps: int) -> np.ndarray:
    """Go evenly from 0 to last; a single step is the last, where sampling starts."""
    return np.linspace(0 if num_steps > 1 else last, last, num_steps)


def _distinct(times: np.ndarray, T: int) -> np.ndarray:
    """Round rising times to integers in 0..T-1, no two equal.

    Rounding can make neighbours equal, which would give a step of no noise and a
    division by zero; each is pushed past the one before it, then back below T.
    """
    num_steps = len(times)
    offsets = np.arange(num_steps)
    times = np.rint(times).astype(np.int64)
    times = np.maximum.accumulate(times - offsets) + offsets
    return np.minimum(times, T - num_steps + offsets)


def grid(
    schedule: Schedule,
    num_steps: int,
    spacing: Callable[[int, int], np.ndarray] = trailing_steps,
) -> Level:
    """Lay out the levels of an N-step sampler, noisiest first.

    Every pair (t, s) a sampler sees is two neighbours of this one table, so that no
    sampler can take a wrong previous step.

    Args:
        schedule: of T levels.
        num_steps: N, from 1 to T. N = T is the full chain, whatever the spacing.
        spacing: `*_steps` function.

    Returns:
        Level with leaves [N + 1]; entry N is the clean end.

    Raises:
        UserError: if N is not in 1..T.
    """
    T = schedule.num_levels
    if not 1 <= num_steps <= T:
        raise UserError(
            f"num_steps={num_steps} for a schedule of T={T} levels; use 1 to {T}."
        )
    times = spacing(T, num_steps)
    return schedule.at(jnp.asarray(np.concatenate([times[::-1], [-1]])))
