"""Time grids: which levels an N-step sampler visits, noisiest first.

A *spacing* chooses N of the T times of a schedule: `(T, num_steps) -> int [N]`, rising,
no two equal, and all T times if N = T. `grid` makes levels of them. The continuous
grids, `karras_grid` and `logsnr_grid`, lie between the entries of a table as well.

Sources:
    [S] Song, Meng, Ermon 2021, "Denoising Diffusion Implicit Models": sub-sequences.
    [N] Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", and
        its published code.
    [K] Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
        Models".
    [L] Lu et al. 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model
        Sampling in Around 10 Steps".
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError


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


def section_steps(counts: Sequence[int]) -> Callable[[int, int], np.ndarray]:
    """Cut the T times into equal sections and take so many evenly from each.

    The counts-per-section respacing of [N]'s code, which gives every level that theirs
    gives: the first T mod n of the n sections are one longer, a section's steps include
    both its ends, and a single step is its first.

    Args:
        counts: steps of each section, the cleanest section first, the noisiest last;
            each at least 1.

    Returns:
        A spacing for N = sum(counts). It raises UserError for any other N, and if a
        section has fewer levels than steps.
    """
    counts = tuple(counts)
    listed = ",".join(map(str, counts))

    def spacing(T: int, num_steps: int) -> np.ndarray:
        if num_steps != sum(counts) or min(counts, default=0) < 1:
            raise UserError(
                f"sections {listed} make {sum(counts)} steps, not "
                f"num_steps={num_steps}; use counts of 1 or more that add up to it."
            )
        parts = np.array_split(np.arange(T), len(counts))
        for part, count in zip(parts, counts, strict=True):
            if count > len(part):
                raise UserError(
                    f"sections {listed} ask for {count} steps of a section of "
                    f"{len(part)} levels (T={T}); use {len(part)} or fewer there."
                )
        return np.concatenate(
            [_spread(part, count) for part, count in zip(parts, counts, strict=True)]
        )

    return spacing


def _spread(section: np.ndarray, count: int) -> np.ndarray:
    """Take `count` of a section's times, evenly, both ends included.

    The stride is added up step by step, as [N]'s code does: places that fall halfway
    between two levels are common, and then the last bit decides.
    """
    stride = (len(section) - 1) / (count - 1) if count > 1 else 1.0
    places = np.concatenate([[0.0], np.cumsum(np.full(count - 1, stride))])
    return section[np.rint(places).astype(np.int64)]


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
        UserError: if N is not in 1..T, or the spacing leaves out the noisiest level of
            a schedule that does not preserve the variance.
    """
    T = schedule.num_levels
    if not 1 <= num_steps <= T:
        raise UserError(
            f"num_steps={num_steps} for a schedule of T={T} levels; use 1 to {T}."
        )
    times = spacing(T, num_steps)
    if times[-1] != T - 1:
        _check_unit_start(schedule, int(times[-1]), num_steps)
    return schedule.at(jnp.asarray(np.concatenate([times[::-1], [-1]])))


def _check_unit_start(schedule: Schedule, t: int, num_steps: int) -> None:
    """Refuse to start from N(0, I) where x has another scale.

    A path that preserves the variance has x near N(0, I) short of its end as well.

    Raises:
        UserError: alpha^2 + sigma^2 is not 1 at t.
    """
    with jax.ensure_compile_time_eval():
        square_norm = float(schedule.at(jnp.asarray(t)).square_norm)
    if square_norm != 1.0:
        raise UserError(
            f"this spacing of num_steps={num_steps} starts at t={t}, where "
            f"alpha^2 + sigma^2 is {square_norm:.3g} and x is no N(0, I); use one that "
            "starts from the noisiest level, such as trailing."
        )


def karras_grid(schedule: Schedule, num_steps: int, rho: float = 7.0) -> Level:
    """Space r = sigma / alpha evenly in r^(1/rho): [K], eq. (5).

    Args:
        schedule: its noisiest and cleanest levels are sigma_max and sigma_min.
        num_steps: N, 1 or more. A single step starts from the noisiest level.
        rho: 7 crowds the levels near the image; 1 spaces r itself evenly.

    Returns:
        Level with leaves [N + 1]; entry N is the clean end.

    Raises:
        UserError: if N < 1, or the schedule ends in pure noise.
    """
    return _continuous_grid(
        schedule, num_steps, lambda r: r ** (1 / rho), lambda w: w**rho
    )


def logsnr_grid(schedule: Schedule, num_steps: int) -> Level:
    """Space the log-SNR evenly, as [L], section 3.3; else like `karras_grid`."""
    return _continuous_grid(schedule, num_steps, np.log, np.exp)


def _continuous_grid(
    schedule: Schedule,
    num_steps: int,
    warp: Callable[[float], float],
    unwarp: Callable[[np.ndarray], np.ndarray],
) -> Level:
    """Space warp(r) evenly between the schedule's ends, in float64."""
    if num_steps < 1:
        raise UserError(f"num_steps={num_steps}; use 1 or more.")
    T = schedule.num_levels
    # Numbers, not tracers, even where the caller is being compiled.
    with jax.ensure_compile_time_eval():
        ends = jax.tree.map(np.asarray, schedule.at(jnp.array([T - 1, 0])))
        if ends.alpha[0] == 0:
            raise UserError(
                "this schedule ends in pure noise, where a grid in sigma / alpha or in "
                "the log-SNR has no finite start; use a spacing of the table, such as "
                "trailing."
            )
        first, last = ends.sigma.astype(np.float64) / ends.alpha
        r = unwarp(np.linspace(warp(first), warp(last), num_steps))
        between = schedule.at_logsnr(-2.0 * np.log(r))
        t, square_norm = np.asarray(between.t), np.asarray(between.square_norm)
    # alpha and sigma from r in float64. Without the factor, which is 1 where the
    # schedule preserves the variance, they are 1 / cosh u and tanh u of r = sinh u.
    size = np.sqrt(square_norm.astype(np.float64))
    alpha, sigma = size / np.hypot(1.0, r), size * r / np.hypot(1.0, r)
    leaves = (t.copy(), alpha.astype(np.float32), sigma.astype(np.float32))
    for leaf, exact in zip(leaves, ends, strict=True):
        leaf[-1], leaf[0] = exact[1], exact[0]  # in this order: N = 1 keeps the noise
    level = Level(*map(jnp.asarray, leaves))
    clean = schedule.at(jnp.asarray(-1))
    return jax.tree.map(lambda leaf, end: jnp.append(leaf, end), level, clean)
