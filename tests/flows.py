"""Exact solutions of the probability-flow ODE, in float64, and the order of a sampler.

A level is a pair (alpha, sigma) of numbers. The ODE carries the law of x_t to that of
x_s; in one dimension, where its paths cannot cross, that alone says where each path
goes: to the same quantile.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles

from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.schedules import Level, Schedule, linear_logsnr

WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[-0.8], [0.6]], [0.05, 0.1]
GAUSSIAN_MEAN, GAUSSIAN_VALUES = np.array([0.3]), np.array([0.2])
DENOISERS = {
    "gaussian": oracles.gaussian(GAUSSIAN_MEAN, GAUSSIAN_VALUES),
    "mixture": oracles.mixture(WEIGHTS, MEANS, VARIANCES),
}


def level_of(logsnr):
    return math.sqrt(1 / (1 + math.exp(-logsnr))), math.sqrt(1 / (1 + math.exp(logsnr)))


def straight_path(num_levels=1000, last=1.0):
    """alpha = 1 - u, sigma = u, u = last (t + 1) / T: it preserves no variance.

    The path of flow matching: Lipman et al. 2023, "Flow Matching for Generative
    Modeling"; Liu et al. 2023, "Flow Straight and Fast".
    """

    def at(t):
        t = jnp.asarray(t, jnp.float32)
        signal = (1 - last) + last * (num_levels - 1 - t) / num_levels
        noise = last * (t + 1) / num_levels
        return Level(t, jnp.where(t <= -1, 1, signal), jnp.where(t <= -1, 0, noise))

    def inverse(logsnr):
        return jax.nn.sigmoid(-logsnr / 2) / last * num_levels - 1

    def at_logsnr(logsnr):
        half = jnp.asarray(logsnr, jnp.float32) / 2
        t = jnp.clip(inverse(2 * half), -1, num_levels - 1)
        return Level(t, jax.nn.sigmoid(half), jax.nn.sigmoid(-half))

    def draw(u):
        return (1 - u) * num_levels - 1

    return Schedule(at, at_logsnr, inverse, draw, num_levels)


def gaussian_flow(x, mean, values, t, s):
    """Of N(mean, diag(values)): the ODE keeps (x - alpha mean) / standard deviation."""
    std_t, std_s = (np.sqrt(a**2 * values + sigma**2) for a, sigma in (t, s))
    return s[0] * mean + (np.asarray(x, np.float64) - t[0] * mean) * std_s / std_t


def mixture_flow(x, weights, means, variances, t, s):
    """Of a mixture on the line, x [B, 1]: the same quantile, found by bisection."""
    means, variances = np.ravel(means), np.asarray(variances)
    erf = np.vectorize(math.erf)

    def below(x, level):
        alpha, sigma = level
        std = np.sqrt(alpha**2 * variances + sigma**2)
        z = (x[:, None] - alpha * means) / std
        return np.sum(np.asarray(weights) * 0.5 * (1 + erf(z / math.sqrt(2))), axis=-1)

    quantile = below(np.ravel(np.asarray(x, np.float64)), t)
    low, high = np.full(len(quantile), -10.0), np.full(len(quantile), 10.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        under = below(middle, s) < quantile
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return low[:, None]


def exact_end(data, x, t, s):
    """Where the paths of one of the two data sets above lead."""
    if data == "gaussian":
        return gaussian_flow(x, GAUSSIAN_MEAN, GAUSSIAN_VALUES, t, s)
    return mixture_flow(x, WEIGHTS, MEANS, VARIANCES, t, s)


def errors_by_steps(sampler, data, counts, schedule=None, ends=(-6.0, 6.0)):
    """Root mean square error at the last level, by the number of steps.

    The grid is even in the log-SNR and does not jump to the clean end.
    """
    schedule = schedule or linear_logsnr(*ends[::-1])
    keys = image_keys(jax.random.key(6), jnp.arange(60))
    x_init = initial_noise(keys, (1,))
    exact = exact_end(data, x_init, *map(level_of, ends))

    @jax.jit
    def run(levels):
        return generate(keys, sampler, DENOISERS[data], x_init, levels)[0]

    errors = []
    for num_steps in counts:
        x = run(schedule.at(jnp.linspace(999.0, -0.999, num_steps + 1)))
        errors.append(float(np.sqrt(np.mean((np.asarray(x, np.float64) - exact) ** 2))))
    return np.array(errors)


def fitted_order(errors, counts):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]
