"""Post-hoc EMA: power-function averages of the parameters, of any sigma_rel.

An exponential moving average forgets at one rate, and its length must be chosen before
training. The power-function average

    ema_t = beta_t ema_{t-1} + (1 - beta_t) theta_t,    beta_t = (1 - 1/t)^(gamma + 1)

weighs theta_k, the parameters after step k, by (k^(gamma+1) - (k-1)^(gamma+1)) /
t^(gamma+1): the integral over (k-1, k] of the profile

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),    0 < tau <= t.                 (1)

The profile stretches with the run, so its length is a share of it, and nothing is left
of the initial network. That share is `std`, the paper's sigma_rel: the standard
deviation of the profile in units of t.

Snapshots of such averages, taken along the run, span a space of profiles, and one of
another length at the end of the run nearly lies in it: the average that nobody tracked
is a weighted sum of snapshots, the weights computed by least squares on the profiles,
without the parameters. A snapshot does not depend on what came after it, and
little of what came long before, so the snapshots must be spread over the run, about as
dense as the profile wanted is narrow.

Source: Karras, Aittala, Lehtinen, Hellsten, Aila, Laine 2024, "Analyzing and Improving
the Training Dynamics of Diffusion Models", section 3 and appendix C.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The mean over the run, gamma = 0; beyond it the first steps would weigh the most.
MAX_STD = math.sqrt(1 / 12)


class Profile(NamedTuple):
    """Which average: its length, and the step at which it ends."""

    step: int  # at least 1
    std: float  # in (0, MAX_STD]


def gamma_from_std(std: float) -> float:
    """Return the exponent of the profile of a given sigma_rel.

    std^-2 = (gamma + 2)^2 (gamma + 3) / (gamma + 1) is the cubic gamma^3 + 7 gamma^2 +
    (16 - std^-2) gamma + 12 - std^-2 = 0; its largest root is the exponent.

    Args:
        std: sigma_rel, in (0, `MAX_STD`].

    Raises:
        ValueError: if `std` is not in that range.

    Source: Karras et al. 2024, eq. (3) and Algorithm 2.
    """
    if not 0 < std <= MAX_STD:
        raise ValueError(f"std={std} is not in (0, {MAX_STD:.4f}]")
    precision = float(std) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision])
    return max(0.0, float(roots.real.max()))


def std_from_gamma(gamma: float) -> float:
    """Return the length of a profile: Karras et al. 2024, eq. (3)."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def update_average(average: Any, params: Any, step: jax.Array, gamma: float) -> Any:
    """Take newer parameters into a power-function average.

    Args:
        average: the EMA after `step` steps; without effect if that is 0.
        params: the parameters after `step + 1` steps.
        step: [], int32.
        gamma: exponent of the profile.

    Source: Karras et al. 2024, eq. (2).
    """
    t = step.astype(jnp.float32) + 1.0
    # 1 - beta by expm1, and used as the share of a difference: after 10^6 steps it is
    # 10^-5, of which 1 - (float32 of beta) would be wrong in the third digit.
    share = -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / t))
    return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def inner_product(
    step_a: np.ndarray | float,
    gamma_a: np.ndarray | float,
    step_b: np.ndarray | float,
    gamma_b: np.ndarray | float,
) -> np.ndarray:
    """Integrate the product of two profiles (1) over the run: [...], broadcast.

    With f the first of the two steps to come and l the last, it is (gamma_a + 1)
    (gamma_b + 1) / (gamma_a + gamma_b + 1) (f / l)^gamma_l / l.

    Source: Karras et al. 2024, appendix C and Algorithm 3.
    """
    first, last = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
    gamma_of_last = np.where(step_a < step_b, gamma_b, gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (first / last) ** gamma_of_last / last


def posthoc_weights(
    stored: Sequence[Profile], wanted: Profile
) -> tuple[np.ndarray, float]:
    """Return the weights of stored snapshots that sum to an EMA of any sigma_rel.

    The weights minimise the distance of the profiles among those that sum to 1. The
    sum is our addition to Algorithm 3: an average of equal parameters then stays what
    it is, where few snapshots would otherwise shrink all parameters by some per cent.
    It made the average built 10 to 50 times more exact (docs/ema.md).

    Args:
        stored: the snapshots there are, at least one.
        wanted: the average to build.

    Returns:
        Weights [N], float64, and what they leave: the distance of the profiles, in
        units of the norm of the one wanted.

    Source: Karras et al. 2024, Algorithm 3.
    """
    if wanted in stored:
        return np.eye(len(stored))[stored.index(wanted)], 0.0
    steps = np.array([profile.step for profile in stored], np.float64)
    gammas = np.array([gamma_from_std(profile.std) for profile in stored])
    step, gamma = float(wanted.step), gamma_from_std(wanted.std)
    gram = inner_product(steps[:, None], gammas[:, None], steps, gammas)
    # Profiles scaled to norm 1: else early and late snapshots differ by magnitudes.
    norms = np.sqrt(np.diag(gram))
    norm = math.sqrt(inner_product(step, gamma, step, gamma))
    gram = gram / np.outer(norms, norms)
    overlap = inner_product(steps, gammas, step, gamma) / (norms * norm)
    total = norm / norms  # total @ x is the sum of the weights
    # Many close snapshots are nearly dependent; lstsq leaves out what is rounding.
    solution = np.linalg.lstsq(gram, np.stack([overlap, total], axis=1), rcond=None)[0]
    x, y = solution.T
    x = x + y * (1 - total @ x) / (total @ y)
    error = math.sqrt(max(0.0, 1 - 2 * overlap @ x + x @ gram @ x))
    return x * total, error


def reconstruct(snapshots: Iterable[Any], weights: Sequence[float]) -> Any:
    """Add up weighted snapshots, holding only one of them and the sum.

    Args:
        snapshots: parameter trees, read lazily.
        weights: one for each.

    Returns:
        The sum, taken in float64, as NumPy arrays of the snapshots' dtypes.
    """
    total = dtypes = None
    for tree, weight in zip(snapshots, weights, strict=True):
        part = jax.tree.map(lambda x, w=weight: np.asarray(x, np.float64) * w, tree)
        if total is None:
            total, dtypes = part, jax.tree.map(lambda x: x.dtype, tree)
        else:
            jax.tree.map(lambda s, x: np.add(s, x, out=s), total, part)
    return jax.tree.map(lambda s, dtype: s.astype(dtype), total, dtypes)
