"""Precision, recall, density and coverage, by balls around nearest neighbors.

The manifold of a set is the union of a ball around each vector, as large as the
distance to its k-th nearest neighbor in the set. Precision is the share of samples in
the data's manifold, recall the share of data in the samples'. Density counts how many
balls a sample lies in, and coverage how many of the data's balls hold a sample.

Distances are computed in blocks, in float64: |a|^2 + |b|^2 - 2ab of float32 would lose
in the difference the digits that order the nearest neighbors.

Sources:
    Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing
        Generative Models", eq. (1) and (2), k = 3.
    Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
        eq. (5) and (6), k = 5.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import check_features
from ddpm_jax.runtime.batching import join, map_batches

# Of a squared distance, as a share of the squares it is made of: 2 D u at the worst, u
# being 1.1e-16, for up to 4,500 features.
_ROUNDING = 1e-12
_BLOCK = 512  # rows at a time; a block against 50,000 vectors is 200 MB


class PrecisionRecall(NamedTuple):
    """Shares of the samples, and of the data, that lie in the other's manifold."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Balls a sample is in, over k (1 for the data's law); share that holds one."""

    density: float
    coverage: float


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Compute improved precision and recall of features [N, D] and [M, D].

    Raises:
        UserError: a set has no k + 1 vectors, or a number is not finite.
    """
    check_features(real, fake)
    balls_of_real, balls_of_fake = _radii(real, k), _radii(fake, k)
    in_real = _by_block(_count_balls, (fake,), real, balls_of_real)
    in_fake = _by_block(_count_balls, (real,), fake, balls_of_fake)
    return PrecisionRecall(float((in_real > 0).mean()), float((in_fake > 0).mean()))


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> DensityCoverage:
    """Compute density and coverage of features [N, D] and [M, D].

    Raises:
        UserError: the real set has no k + 1 vectors, or a number is not finite.
    """
    check_features(real, fake)
    balls = _radii(real, k)
    count = _by_block(_count_balls, (fake,), real, balls)
    # About the center that the radii were computed about, whose rounding they share.
    centre = real.mean(0, dtype=np.float64)
    holds_one = _by_block(_has_within, (real, balls), fake, centre)
    return DensityCoverage(float(count.mean() / k), float(holds_one.mean()))


def nearest(
    queries: np.ndarray, references: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest references of each query.

    Args:
        queries: [N, D].
        references: [M, D], M at least k.
        k: neighbors.

    Returns:
        Euclidean distances float64 [N, k], rising, and indices int32 [N, k].

    Raises:
        UserError: there are fewer than k references, or a number is not finite.
    """
    check_features(queries, references)
    if len(references) < k:
        raise UserError(f"{len(references)} images have no {k} neighbors; use more.")
    find = functools.partial(_nearest, k=k)
    squares, places = _by_block(find, (queries,), references)
    return np.sqrt(squares), places


def _radii(vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each vector to its k-th neighbor in the set."""
    if len(vectors) <= k:
        raise UserError(
            f"{len(vectors)} images have no {k} neighbors each; score {k + 1} or more."
        )
    # The first is the vector itself, or its equal.
    find = functools.partial(_nearest, k=k + 1)
    return _by_block(find, (vectors,), vectors)[0][:, k]


# --- Blocks ---------------------------------------------------------------------------


def _by_block(
    function: Callable[..., Any], queries: tuple[np.ndarray, ...], *others: Any
) -> Any:
    """Apply a function to blocks of queries, all of one size, and join the results.

    Args:
        function: (*blocks, *others) -> arrays with an entry for each row of the blocks.
        queries: arrays of one length, cut into blocks together.
        *others: arrays given whole.
    """
    with jax.enable_x64(True):
        on_device = [jnp.asarray(other, jnp.float64) for other in others]
        count = len(queries[0])
        blocks = map_batches(
            lambda blocks: function(*blocks, *on_device),
            lambda places: tuple(query[places].astype(np.float64) for query in queries),
            count,
            min(_BLOCK, count),
            mesh=None,  # the distances of a block fit one device
        )
        return join(blocks)


def _squared_distances(
    a: jax.Array, b: jax.Array, centre: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return |a_i - b_j|^2, [N, M], and bounds of their rounding noise.

    The nearer the center, of whatever set, the fewer digits cancel.
    """
    a, b = a - centre, b - centre
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None]
    distances = squares - 2.0 * jnp.matmul(a, b.T, precision="highest")
    noise = _ROUNDING * squares
    # What is left of two equal vectors is noise, and they are equal.
    return jnp.where(distances > noise, distances, 0.0), noise


def _is_within(
    a: jax.Array, b: jax.Array, radii: jax.Array, centre: jax.Array
) -> jax.Array:
    """Return which b_j lie at most a squared radius from a_i, or on that sphere.

    A copy of an image lies exactly on spheres of its neighbors, and two roundings of
    one distance must not decide that it is outside.
    """
    distances, noise = _squared_distances(a, b, centre)
    return distances <= radii + 2 * noise


@functools.partial(jax.jit, static_argnames="k")
def _nearest(block: jax.Array, others: jax.Array, *, k: int) -> tuple:
    """Return the k smallest squared distances [B, k], rising, and where they are."""
    distances, _ = _squared_distances(block, others, others.mean(0))
    columns = jnp.arange(len(others))
    values, places = [], []
    for _ in range(k):  # k is small, and a sort of every row would take longer
        place = distances.argmin(1)
        values.append(jnp.take_along_axis(distances, place[:, None], 1)[:, 0])
        places.append(place.astype(jnp.int32))
        distances = jnp.where(columns == place[:, None], jnp.inf, distances)
    return jnp.stack(values, 1), jnp.stack(places, 1)


@jax.jit
def _count_balls(block: jax.Array, centres: jax.Array, radii: jax.Array) -> jax.Array:
    """Count the balls that each vector of a block lies in, [B]."""
    return _is_within(block, centres, radii, centres.mean(0)).sum(1)


@jax.jit
def _has_within(
    centres: jax.Array, radii: jax.Array, others: jax.Array, centre: jax.Array
) -> jax.Array:
    """Return whether each ball of a block holds one of the others, [B]."""
    return _is_within(centres, others, radii[:, None], centre).any(1)
