"""Compute how far RePaint is from the conditional law, exactly: a table for editing.md.

    python -m benchmarks.repaint_bias

The data are Gaussian, the denoiser is the best one, and the sampler is Algorithm 2 of
Ho et al. 2020; each step is then an affine map, so that the law of what is drawn comes
from a recursion in float64, with no sampling.
"""

import itertools

import jax
import numpy as np

from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.editing import repaint_grid
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.schedules import Level

EIGENVALUES = np.array([0.1, 0.4, 0.7, 1.0])
KNOWN = np.array([1.0, 1.0, 0.0, 0.0])
STEPS = (50, 100, 250, 1000)
VISITS = (1, 5, 10, 20, 40)


def rotated(num: int = 10) -> np.ndarray:
    """Draw covariances of these eigenvalues, in random directions: [S, D, D]."""
    rng = np.random.default_rng(0)
    size = len(EIGENVALUES)
    bases = np.linalg.qr(rng.standard_normal((num, size, size)))[0]
    return (bases * EIGENVALUES) @ bases.swapaxes(-1, -2)


def missing(
    covariances: np.ndarray, known: np.ndarray, levels: Level
) -> tuple[np.ndarray, np.ndarray]:
    """Compare what RePaint draws of N(0, covariance) with the conditional law.

    Args:
        covariances: [S, D, D].
        known: [D], 1 where the value is given.
        levels: leaves [M + 1], from `repaint_grid`.

    Returns:
        The error of the conditional mean over its distance from the unconditional one,
        root mean square over the known values, [S]; and the trace of the covariance
        over the right one, [S].
    """
    size, k, u = len(known), known > 0, known == 0
    given = np.eye(size)[:, k]  # each known value alone: the mean is linear in them
    values, basis = np.linalg.eigh(covariances)
    alphas = np.asarray(levels.alpha, np.float64)
    mean = np.zeros((len(covariances), size, k.sum()))
    spread = np.broadcast_to(np.eye(size), covariances.shape)
    for t, s in itertools.pairwise(alphas**2):
        if s < t:  # a jump: a step of the forward process
            mean = np.sqrt(s / t) * mean
            spread = s / t * spread + (1 - s / t) * np.eye(size)
            continue
        beta = 1 - t / s
        gains = np.sqrt(t) * values / (t * values + 1 - t)
        x0 = (basis * gains[:, None]) @ basis.swapaxes(-1, -2)
        step = np.sqrt(1 - beta) * (1 - s) / (1 - t) * np.eye(size)
        step = step + np.sqrt(s) * beta / (1 - t) * x0
        spread = step @ spread @ step.swapaxes(-1, -2)
        spread = spread + (1 - s) / (1 - t) * beta * np.eye(size)
        mean = np.where(k[:, None], np.sqrt(s) * given, step @ mean)
        spread = spread * np.outer(u, u) + (1 - s) * np.diag(known)
    of_known = covariances[:, k][:, :, k]
    slope = np.linalg.solve(of_known, covariances[:, k][:, :, u]).swapaxes(-1, -2)
    root = np.linalg.cholesky(of_known)

    def length(a: np.ndarray) -> np.ndarray:
        return np.sqrt(((a @ root) ** 2).sum((-1, -2)))

    right = covariances[:, u][:, :, u] - slope @ covariances[:, k][:, :, u]
    share = np.trace(spread[:, u][:, :, u], axis1=1, axis2=2)
    return (
        length(mean[:, u] - slope) / length(slope),
        share / np.trace(right, axis1=1, axis2=2),
    )


def levels_of(num_steps: int, visits: int, jump_length: int | None = None) -> Level:
    """Lay out a walk on the linear chain with T = 1000; jumps of N / 25 unless said."""
    chain = schedules.from_betas(schedules.linear_betas(1000))
    levels = jax.tree.map(np.asarray, grid(chain, num_steps))
    return repaint_grid(levels, jump_length or num_steps // 25, visits)


def table() -> str:
    """Write the table: mean (largest) missing share over the rotations, and spread."""
    lines = ["| visits | " + " | ".join(f"N = {N:,}" for N in STEPS) + " |"]
    lines.append("|---" * (1 + len(STEPS)) + "|")
    for visits in VISITS:
        row = [str(visits)]
        for num_steps in STEPS:
            levels = levels_of(num_steps, visits)
            calls = int(np.sum(np.diff(np.asarray(levels.alpha)) > 0))
            off, spread = missing(rotated(), KNOWN, levels)
            row.append(
                f"{off.mean():.0%} ({off.max():.0%}), {spread.mean():.2f}, {calls:,}"
            )
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    for jump in (1, 10, 50):
        off, _ = missing(rotated(), KNOWN, levels_of(250, 20, jump))
        print(f"N = 250, 20 visits, jumps of {jump}: {off.mean():.1%}")
