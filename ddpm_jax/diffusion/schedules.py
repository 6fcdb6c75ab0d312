"""Noise schedules: how much signal and how much noise each step of the chain holds.

A *level* is one point of the forward process, `x = alpha * x0 + sigma * eps`. Every
schedule, be it a table of betas or a function of the log-SNR, is a map from the time t
that the network is given to a level; nothing downstream depends on its kind, nor on
whether it preserves the variance, alpha^2 + sigma^2 = 1, as all in this module do but
`straight`.

Steps are numbered 1..T in the papers. The network is given t = step - 1, so 0..T-1, as
in the code of Ho et al. and in every published checkpoint, and t = -1 is the clean
image (alpha = 1, sigma = 0). Tables are computed in float64 NumPy and cast once.

Sources:
    [H] Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", and the beta
        schedules of its published code.
    [N] Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".
    [J] Jabri, Fleet, Chen 2022, "Scalable Adaptive Computation for Iterative
        Generation", the sigmoid schedule.
    [K] Kingma et al. 2021, "Variational Diffusion Models": schedules as log-SNR.
    [L] Lipman et al. 2023, "Flow Matching for Generative Modeling", the path of its
        optimal transport; Liu, Gong, Liu 2023, "Flow Straight and Fast", the same.
    [E] Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution
        Image Synthesis" (Stable Diffusion 3), the shift.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import limits
from ddpm_jax.diffusion.picklable import Picklable, picklable
from ddpm_jax.errors import UserError


class Level(NamedTuple):
    """A point of the forward process `x = alpha * x0 + sigma * eps`.

    The leaves share one shape: `[]` while sampling, `[B]` while training, `[N + 1]` for
    a grid. Noise grows with t.
    """

    t: jax.Array  # the time that the network is given; nothing else reads it
    alpha: jax.Array  # signal, 1 at the clean end
    sigma: jax.Array  # noise, 0 at the clean end

    @property
    def logsnr(self) -> jax.Array:
        """log(alpha^2 / sigma^2): +inf for the clean image, -inf for pure noise."""
        return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    @property
    def square_norm(self) -> jax.Array:
        """alpha^2 + sigma^2: exactly 1 where the schedule preserves the variance.

        What lies within 2e-6 of 1 is rounding, and becomes 1, by which a product or a
        quotient keeps its bits.
        """
        square = self.alpha**2 + self.sigma**2
        return jnp.where(jnp.abs(square - 1.0) < 2e-6, 1.0, square)


class _Functions(NamedTuple):
    at: Callable[[jax.Array], Level]
    at_logsnr: Callable[[jax.Array], Level]
    inverse: Callable[[jax.Array], jax.Array]
    draw: Callable[[jax.Array], jax.Array]
    num_levels: int


class Schedule(Picklable, _Functions):
    """A map from time to level, and back.

    The levels are any with alpha = 1 and sigma = 0 at the clean end, a falling log-SNR,
    and alpha near 0 and sigma near 1 at the noisiest, where the chain starts from
    N(0, I). In between, alpha^2 + sigma^2 need not be 1.

    Attributes:
        at: t -> Level. Integers -1..T-1 for tables, reals in [-1, T-1] for log-SNR
            functions. t = -1 is the clean end for both; a function is clean below it
            too, as far as one step. Any other t is refused with a UserError where its
            value is known, and gives NaN where it is traced.
        at_logsnr: log-SNR of any shape -> Level, between the entries of a table too;
            +inf is the clean level. Its t is the real one of that log-SNR,
            interpolated in a table; beyond the noisiest level t stays T - 1.
        inverse: logsnr -> t, real; between the entries of a table it interpolates.
        draw: u in [0, 1) -> t, uniform over the noisy levels if u is uniform.
        num_levels: T, the number of noisy levels (of nominal steps, if continuous).
    """


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


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale a table so that its last level is pure noise: float64 [T].

    sqrt(alpha_bar) is shifted and stretched so that the first level stays and the last
    becomes 0. A schedule that leaves some signal in x_T is trained on images whose mean
    is left in the noise, and then sampled from noise whose mean is 0. The last level
    needs a network that predicts x0 or v.

    Args:
        betas: [T], at least two levels.

    Source: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are
        Flawed", Algorithm 1.
    """
    root = np.sqrt(np.cumprod(1.0 - np.asarray(betas, dtype=np.float64)))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = np.concatenate([[1.0], root**2])
    return 1.0 - alpha_bar[1:] / alpha_bar[:-1]


# --- Schedules ------------------------------------------------------------------------

_ROUNDING = 1e-6  # of a real t, as a share of T


def _check_times(t: jax.Array, least: int, num_levels: int) -> None:
    """Refuse times outside of a schedule, where their values are known."""
    if isinstance(t, jax.core.Tracer) or not t.size:
        return
    last = num_levels - 1
    values = np.asarray(t)  # NumPy: an operation of JAX would be traced under jit
    low, high = float(values.min()), float(values.max())
    if not (least <= low and high <= last + _ROUNDING * num_levels):
        wrong = low if not least <= low else high
        raise UserError(
            f"t={wrong:g} is outside of the schedule, which has t = -1 (clean) to "
            f"{last}; use those."
        )


def _log_alpha_bar(betas: np.ndarray) -> np.ndarray:
    """Compute log alpha_bar [T] without loss of digits at either end.

    sigma^2 = -expm1(log alpha_bar).
    """
    with np.errstate(divide="ignore"):
        return np.cumsum(np.log1p(-betas))


@partial(jax.jit, inline=True)  # one small program where nothing is traced
def _entries(alpha: jax.Array, sigma: jax.Array, t: jax.Array) -> Level:
    """Look levels up in tables [T + 1] whose first entry is the clean end."""
    entry = t + 1
    there = (entry >= 0) & (entry < len(alpha))
    return Level(
        t=t.astype(jnp.float32),
        alpha=jnp.where(there, jnp.take(alpha, entry, mode="clip"), jnp.nan),
        sigma=jnp.where(there, jnp.take(sigma, entry, mode="clip"), jnp.nan),
    )


def _preserving_variance(
    inverse: Callable[[jax.Array], jax.Array], num_levels: int
) -> Callable[[jax.Array], Level]:
    """Make a `Schedule.at_logsnr` with alpha^2 + sigma^2 = 1.

    alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr): [K], eq. (4).

    Args:
        inverse: logsnr -> t.
        num_levels: T.
    """

    def at_logsnr(logsnr: jax.Array) -> Level:
        logsnr = jnp.asarray(logsnr, jnp.float32)
        clean = logsnr == jnp.inf
        t = inverse(jnp.where(clean, 0.0, logsnr))
        t = jnp.clip(t, -1.0, num_levels - 1.0)
        return Level(
            t=jnp.where(clean, -1.0, t),
            alpha=jnp.sqrt(jax.nn.sigmoid(logsnr)),
            sigma=jnp.sqrt(jax.nn.sigmoid(-logsnr)),
        )

    return at_logsnr


@picklable
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
    log_alpha_bar = np.concatenate([[0.0], _log_alpha_bar(betas)])  # 0: the clean end
    # NumPy arrays, which are numbers also where the caller is being traced.
    alpha = np.exp(0.5 * log_alpha_bar).astype(np.float32)
    sigma = np.sqrt(-np.expm1(log_alpha_bar)).astype(np.float32)
    with np.errstate(divide="ignore"):
        logsnr = log_alpha_bar[1:] - np.log(-np.expm1(log_alpha_bar[1:]))
    # jnp.interp wants finite, rising abscissae: the table from noise to signal.
    rising_logsnr = np.maximum(logsnr, -1e4)[::-1].astype(np.float32)
    falling_t = np.arange(num_levels)[::-1].astype(np.float32)

    def at(t: jax.Array) -> Level:
        t = jnp.asarray(t)
        if not jnp.issubdtype(t.dtype, jnp.integer):
            raise UserError(
                f"a table of betas has levels at whole t only, and t is {t.dtype}; "
                "give integers, or a log-SNR to Schedule.at_logsnr."
            )
        _check_times(t, -1, num_levels)
        return _entries(alpha, sigma, t)

    def inverse(logsnr: jax.Array) -> jax.Array:
        return jnp.interp(logsnr, rising_logsnr, falling_t)

    def draw(u: jax.Array) -> jax.Array:
        return jnp.minimum((u * num_levels).astype(jnp.int32), num_levels - 1)

    return Schedule(
        at, _preserving_variance(inverse, num_levels), inverse, draw, num_levels
    )


@picklable
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
        num_levels: T; the network is given t = T u - 1, so that 0..T-1 keep the meaning
            they have in a table.
    """

    def at(t: jax.Array) -> Level:
        t = jnp.asarray(t, jnp.float32)
        _check_times(t, -2, num_levels)
        value = logsnr((t + 1.0) / num_levels)
        value = jnp.where(t < num_levels - 1 + _ROUNDING * num_levels, value, jnp.nan)
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

    return Schedule(at, _preserving_variance(to_t, num_levels), to_t, draw, num_levels)


@picklable
def scale_time(schedule: Schedule, scale: float) -> Schedule:
    """Give the network t * scale, and change nothing else.

    [N] trains T = 4000 with 1000 / T, so that the time embedding sees 0..1000 whatever
    T is.
    """

    def at(t: jax.Array) -> Level:
        level = schedule.at(t)
        return level._replace(t=level.t * scale)

    def at_logsnr(logsnr: jax.Array) -> Level:
        level = schedule.at_logsnr(logsnr)
        return level._replace(t=level.t * scale)

    return schedule._replace(at=at, at_logsnr=at_logsnr)


@picklable
def linear_logsnr(
    logsnr_max: float = 10.0, logsnr_min: float = -10.0, num_levels: int = 1000
) -> Schedule:
    """Let the log-SNR fall on a straight line: [K], the schedule of its section 6."""
    span = logsnr_min - logsnr_max
    return from_logsnr(
        lambda u: logsnr_max + span * u, lambda v: (v - logsnr_max) / span, num_levels
    )


@picklable
def cosine_logsnr(
    logsnr_max: float = 15.0, logsnr_min: float = -15.0, num_levels: int = 1000
) -> Schedule:
    """Let alpha fall as a cosine, truncated at both ends.

    logsnr(u) = -2 log tan(a u + b): Kingma et al. and Salimans and Ho 2022,
    "Progressive Distillation", section 2, as truncated in Hoogeboom et al. 2023,
    "simple diffusion", section 3.1.
    """
    low = float(np.arctan(np.exp(-0.5 * logsnr_max)))
    high = float(np.arctan(np.exp(-0.5 * logsnr_min)))

    def logsnr(u: jax.Array) -> jax.Array:
        return -2.0 * jnp.log(jnp.tan(low + u * (high - low)))

    def inverse(value: jax.Array) -> jax.Array:
        return (jnp.arctan(jnp.exp(-0.5 * value)) - low) / (high - low)

    return from_logsnr(logsnr, inverse, num_levels)


# --- The straight path ----------------------------------------------------------------


@picklable
def straight(
    num_levels: int = 1000, *, shift: float = 1.0, alpha_min: float = 0.0
) -> Schedule:
    """Go straight from image to noise: alpha = 1 - sigma, of flow matching, [L].

    With a shift of 1 sigma rises evenly, sigma = u = (t + 1) / T; another one makes it
    shift u / (1 + (shift - 1) u), [E] eq. (23), so that more of the times are noisy:
    what pictures of more pixels, in which the same noise hides less, need.

    The network is given t = T u - 1 as of a log-SNR function, so that 0..T-1 keep the
    meaning they have in a table.

    Args:
        num_levels: T.
        shift: 1 for even times; [E] take 3 at 1024x1024.
        alpha_min: the signal at t = T - 1. At 0 it is pure noise, as in [L], where
            grids in the log-SNR and the adaptive sampler have no start.
    """
    # The last u, before the shift: alpha = (1 - u) / (1 + (shift - 1) u) = alpha_min.
    left = alpha_min * shift / (1.0 - alpha_min + alpha_min * shift)
    last = 1.0 - left

    def at(t: jax.Array) -> Level:
        t = jnp.asarray(t, jnp.float32)
        _check_times(t, -2, num_levels)
        # 1 - u without the difference, which would lose the digits of a small signal.
        signal = left + last * (num_levels - 1.0 - t) / num_levels
        noise = last * (t + 1.0) / num_levels
        beyond = t >= num_levels - 1 + _ROUNDING * num_levels
        signal = jnp.where(beyond, jnp.nan, jnp.maximum(signal, left))
        total = signal + shift * noise
        clean = t <= -1.0
        return Level(
            t=t,
            alpha=jnp.where(clean, 1.0, signal / total),
            sigma=jnp.where(clean, 0.0, shift * noise / total),
        )

    def inverse(logsnr: jax.Array) -> jax.Array:
        alpha, sigma = jax.nn.sigmoid(0.5 * logsnr), jax.nn.sigmoid(-0.5 * logsnr)
        u = sigma / (sigma + shift * alpha)
        return u / last * num_levels - 1.0

    def at_logsnr(logsnr: jax.Array) -> Level:
        logsnr = jnp.asarray(logsnr, jnp.float32)
        return Level(
            t=jnp.clip(inverse(logsnr), -1.0, num_levels - 1.0),
            alpha=jax.nn.sigmoid(0.5 * logsnr),
            sigma=jax.nn.sigmoid(-0.5 * logsnr),
        )

    def draw(u: jax.Array) -> jax.Array:
        return (1.0 - u) * num_levels - 1.0  # 1 - u is in (0, 1]: never the clean end

    return Schedule(at, at_logsnr, inverse, draw, num_levels)


# --- Specs ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """A noise schedule, by what makes one; `build` makes it.

    Attributes:
        num_levels: T, the number of noise levels.
        t_range: the network is given t * t_range / T, as in [N]; None for t itself.
        is_table: whether there are levels at whole t only.
        preserves_variance: whether alpha^2 + sigma^2 = 1 at all of them.
    """

    is_table: ClassVar[bool] = False
    preserves_variance: ClassVar[bool] = True

    num_levels: int = 1000
    t_range: int | None = None

    def __post_init__(self) -> None:
        limits.between(self, "num_levels", 2, 1_000_000)
        limits.at_least(self, 1, "t_range")

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the image at t = T - 1, in float32."""
        return False

    def unscaled(self) -> Schedule:
        """Make the schedule that gives the network t itself."""
        raise NotImplementedError

    def build(self) -> Schedule:
        """Make the schedule."""
        built = self.unscaled()
        if self.t_range is None:
            return built
        return scale_time(built, self.t_range / self.num_levels)


@dataclasses.dataclass(frozen=True)
class Table(ScheduleSpec):
    """A schedule that is a table of betas.

    Attributes:
        zero_terminal_snr: rescale the table to end in pure noise.
    """

    is_table: ClassVar[bool] = True

    zero_terminal_snr: bool = False

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        raise NotImplementedError

    def _rescaled(self) -> np.ndarray:
        betas = self.betas()
        return zero_terminal_snr(betas) if self.zero_terminal_snr else betas

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the image at t = T - 1, in float32."""
        return bool(np.float32(np.exp(0.5 * _log_alpha_bar(self._rescaled())[-1])) == 0)

    def unscaled(self) -> Schedule:
        """Make the schedule that gives the network t itself."""
        return from_betas(self._rescaled())


@dataclasses.dataclass(frozen=True)
class _WithEnds(Table):
    """A table between two betas.

    Attributes:
        beta_start: the first beta.
        beta_end: the last beta.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta_start", "beta_end"):
            beta = getattr(self, name)
            if not 0 < beta < 1:
                raise UserError(
                    f"{name}={beta} is not in (0, 1); the paper's betas go from 1e-4 "
                    "to 0.02."
                )
        if self.beta_start > self.beta_end:
            raise UserError(
                f"beta_start={self.beta_start:g} is above beta_end={self.beta_end:g}; "
                "betas rise along the chain; lower the start."
            )


@dataclasses.dataclass(frozen=True)
class Linear(_WithEnds):
    """Betas that rise linearly; see `linear_betas`."""

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return linear_betas(self.num_levels, self.beta_start, self.beta_end)


@dataclasses.dataclass(frozen=True)
class Quadratic(_WithEnds):
    """Betas whose square root rises linearly; see `quadratic_betas`."""

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return quadratic_betas(self.num_levels, self.beta_start, self.beta_end)


@dataclasses.dataclass(frozen=True)
class Warmup(_WithEnds):
    """Betas that rise linearly over some steps, then stay; see `warmup_betas`.

    Attributes:
        fraction: share of the steps over which they rise.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction <= 1:
            raise UserError(f"fraction={self.fraction} is not in [0, 1].")

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return warmup_betas(
            self.num_levels, self.beta_start, self.beta_end, fraction=self.fraction
        )


@dataclasses.dataclass(frozen=True)
class Constant(Table):
    """The same beta at every step; see `constant_betas`.

    Attributes:
        beta: of every step.
    """

    beta: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise UserError(f"beta={self.beta} is not in (0, 1); use such as 0.02.")

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return constant_betas(self.num_levels, self.beta)


@dataclasses.dataclass(frozen=True)
class Jsd(Table):
    """Betas 1/T, 1/(T-1), ..., 1; see `jsd_betas`."""

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return jsd_betas(self.num_levels)


@dataclasses.dataclass(frozen=True)
class Cosine(Table):
    """alpha_bar falls as a squared cosine; see `cosine_betas`."""

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return cosine_betas(self.num_levels)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Table):
    """alpha_bar falls as a sigmoid; see `sigmoid_betas`."""

    def betas(self) -> np.ndarray:
        """Return the variances of the Markov steps before they are rescaled: [T]."""
        return sigmoid_betas(self.num_levels)


@dataclasses.dataclass(frozen=True)
class _LogSNR(ScheduleSpec):
    """A continuous schedule between two log-SNRs, that of no noise first.

    Attributes:
        logsnr_max: log-SNR of the clean end.
        logsnr_min: log-SNR of the noisy end.
    """

    logsnr_max: float = 10.0
    logsnr_min: float = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Beyond, alpha or sigma is 0 in float32, and the log-SNR is lost.
        if not -80 <= self.logsnr_min < self.logsnr_max <= 80:
            raise UserError(
                f"logsnr_max={self.logsnr_max} and logsnr_min={self.logsnr_min} are no "
                "falling range within 80 to -80; use such as 10 and -10."
            )


@dataclasses.dataclass(frozen=True)
class LinearLogSNR(_LogSNR):
    """The log-SNR falls on a straight line; see `linear_logsnr`."""

    def unscaled(self) -> Schedule:
        """Make the schedule that gives the network t itself."""
        return linear_logsnr(self.logsnr_max, self.logsnr_min, self.num_levels)


@dataclasses.dataclass(frozen=True)
class CosineLogSNR(_LogSNR):
    """alpha falls as a cosine, truncated at both ends; see `cosine_logsnr`."""

    logsnr_max: float = 15.0
    logsnr_min: float = -15.0

    def unscaled(self) -> Schedule:
        """Make the schedule that gives the network t itself."""
        return cosine_logsnr(self.logsnr_max, self.logsnr_min, self.num_levels)


@dataclasses.dataclass(frozen=True)
class Straight(ScheduleSpec):
    """alpha = 1 - sigma, the path of flow matching; see `straight`.

    Attributes:
        shift: how many more of the times are noisy; 1 for evenly rising noise.
        alpha_min: the signal that is left at the noisy end; 0 for pure noise.
    """

    preserves_variance: ClassVar[bool] = False

    shift: float = 1.0
    alpha_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.positive(self, "shift", such_as="Stable Diffusion 3 has 3")
        limits.share(self, "alpha_min")

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the image at t = T - 1, in float32."""
        return bool(np.float32(self.alpha_min) == 0)

    def unscaled(self) -> Schedule:
        """Make the schedule that gives the network t itself."""
        return straight(self.num_levels, shift=self.shift, alpha_min=self.alpha_min)
