r"""Volume rendering: the image of a density and a color in space.

A ray r(t) = o + t d meets the density tau(t) >= 0 and the color c(t). What arrives is

    (1)  C = int T(t) tau(t) c(t) dt + T(far) background,
         T(t) = exp(-int_near^t tau)                                    [M] eq. (1)

Between near and far lie N parts of equal length delta, and in each part one sample, at
its middle or at random (stratified). Density and color count as constant in a part:

    (2)  C = sum_i w_i c_i + T_N background,  w_i = T_i (1 - exp(-tau_i delta)),
         T_i = exp(-sum_{j < i} tau_j delta)                            [M] eq. (3)

so that sum_i w_i + T_N = 1, whatever the densities are. [M] takes for delta the
distance to the next sample; with the length of the part the parts tile the ray, and a
density that is constant in each of them is rendered exactly.

The two regularizers of densities that are learned from images alone are below, per
pixel, to be averaged by whoever uses them.

Sources:
    [M] Mildenhall et al. 2020, "NeRF: Representing Scenes as Neural Radiance Fields for
        View Synthesis"; Max 1995, "Optical Models for Direct Volume Rendering", eq. (6)
        and (8).
    [V] Verbin et al. 2022, "Ref-NeRF: Structured View-Dependent Appearance for Neural
        Radiance Fields".
    [P] Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddpm_jax.errors import UserError
from ddpm_jax.scenes.cameras import Rays
from ddpm_jax.scenes.shading import Light, shade, unit

Field = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
"""(params, points [..., 3]) -> density [...], per unit of length, color [..., 3].

The method `apply` of a `fields.FieldSpec`, or any function like it.
"""


class Rendered(NamedTuple):
    """What rays [..., 3] saw, by N samples each.

    Attributes:
        color: [..., 3], background included.
        opacity: [...], A = sum_i w_i, in [0, 1].
        depth: [...], the mean distance at which light ends; what passes ends at far.
        normal: [..., 3], sum_i w_i n_i, of length A at most; None if not asked for.
        weights: [..., N], w_i of eq. (2).
        distances: [..., N], t of the samples.
        normals: [..., N, 3], n_i = -grad tau / |grad tau|, or None.
    """

    color: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array | None
    weights: jax.Array
    distances: jax.Array
    normals: jax.Array | None


# --- Where along a ray ----------------------------------------------------------------


def ball_bounds(rays: Rays, radius: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Find where rays enter and leave a ball around the origin.

    Args:
        rays: leaves [..., 3].
        radius: of the ball.

    Returns:
        Distances near and far, [...], not negative; equal, at the point that is nearest
        to the origin, for a ray that misses it, which then sees the background.
    """
    middle = -jnp.sum(rays.origin * rays.direction, axis=-1)
    # Of the foot of the perpendicular itself, not |o|^2 - middle^2: no cancellation.
    foot = rays.origin + middle[..., None] * rays.direction
    square = radius**2 - jnp.sum(foot**2, axis=-1)
    half = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return jnp.maximum(middle - half, 0.0), jnp.maximum(middle + half, 0.0)


def sample_distances(
    near: jax.Array, far: jax.Array, num_samples: int, key: jax.Array | None = None
) -> jax.Array:
    """Take one sample in each of N equal parts of [near, far].

    Args:
        near: [...].
        far: [...], not below near.
        num_samples: N.
        key: of a sample drawn evenly in its part ([M] eq. (2)); None for its middle.

    Returns:
        Rising distances [..., N].
    """
    shape = (*near.shape, num_samples)
    within: jax.Array | float = 0.5
    if key is not None:
        within = jax.random.uniform(key, shape, near.dtype)
    share = (jnp.arange(num_samples, dtype=near.dtype) + within) / num_samples
    return near[..., None] + (far - near)[..., None] * share


# --- Compositing ----------------------------------------------------------------------


def ray_weights(density: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the weights of samples, and what passes all: eq. (2).

    Args:
        density: [..., N], not negative.
        length: of the parts of the ray, broadcasts to [..., N].

    Returns:
        Weights w_i [..., N], and the transmittance T_N [...]. They sum to 1.
    """
    thickness = density * length
    behind = jnp.cumsum(thickness, axis=-1)
    before = jnp.concatenate(
        [jnp.zeros_like(behind[..., :1]), behind[..., :-1]], axis=-1
    )
    weights = jnp.exp(-before) * -jnp.expm1(-thickness)
    return weights, jnp.exp(-behind[..., -1])


def density_normals(
    field: Field, params: Any, points: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Evaluate a field with the normals of its density.

    Args:
        field: of density and color.
        params: its parameters.
        points: [..., 3].

    Returns:
        Density [...], color [..., 3], and normals [..., 3], -grad tau / |grad tau|,
        which point to where the density falls and are 0 where it is constant.

    Source: [P] section 3.1; Srinivasan et al. 2021, "NeRV", eq. (4).
    """
    density, backward, color = jax.vjp(
        lambda at: field(params, at), points, has_aux=True
    )
    (gradient,) = backward(jnp.ones_like(density))
    return density, color, unit(-gradient)


def render(
    field: Field,
    params: Any,
    rays: Rays,
    key: jax.Array | None = None,
    num_samples: int = 64,
    *,
    bounds: tuple[jax.Array, jax.Array] | None = None,
    background: ArrayLike = 1.0,
    light: Light | None = None,
    with_normals: bool = False,
) -> Rendered:
    """Render what rays see of a field, eq. (2).

    It is differentiable in the parameters, of which light and normals need second
    derivatives of the field, and in the rays.

    Args:
        field: of density and color, such as `apply` of a `FieldSpec`.
        params: its parameters.
        rays: leaves [..., 3].
        key: of the stratified samples; None for the middles of the parts.
        num_samples: N, of each ray.
        bounds: distances near and far [...]; None for where the ray is in the ball of
            radius 1.
        background: color behind everything, broadcasts to [..., 3]; 1 is white.
        light: what shades the color, of leaves that broadcast to [..., 3] and [...];
            None for the color as it is.
        with_normals: compute normals, which light does in any case.

    Raises:
        UserError: there are no samples.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples} renders nothing; use 1 or more.")
    near, far = ball_bounds(rays) if bounds is None else bounds
    distances = sample_distances(near, far, num_samples, key)
    direction = rays.direction[..., None, :]
    points = rays.origin[..., None, :] + distances[..., None] * direction
    normals = None
    if light is not None or with_normals:
        density, color, normals = density_normals(field, params, points)
    else:
        density, color = field(params, points)
    if light is not None and normals is not None:
        color = shade(color, normals, _of_samples(light))
    length = (far - near)[..., None] / num_samples
    weights, passed = ray_weights(density, length)
    opacity = jnp.sum(weights, axis=-1)
    behind = jnp.asarray(background, color.dtype) * passed[..., None]
    return Rendered(
        color=jnp.sum(weights[..., None] * color, axis=-2) + behind,
        opacity=opacity,
        depth=jnp.sum(weights * distances, axis=-1) + passed * far,
        normal=None
        if normals is None
        else jnp.sum(weights[..., None] * normals, axis=-2),
        weights=weights,
        distances=distances,
        normals=normals,
    )


def _of_samples(light: Light) -> Light:
    """Give the leaves of a light of rays an axis for samples."""
    ambient, textureless = (
        jnp.asarray(leaf)[..., None] for leaf in (light.ambient, light.textureless)
    )
    return Light(light.direction[..., None, :], ambient, textureless)


# --- Regularizers ---------------------------------------------------------------------


def opacity_entropy(opacity: jax.Array) -> jax.Array:
    """Compute the entropy of pixels that are covered or not, in nats.

    -A log A - (1 - A) log(1 - A): 0 where a ray is stopped or passes, log 2 in fog. It
    does not prefer an empty scene, as the penalty of [P] on the opacity does.

    Args:
        opacity: A, in [0, 1], [...].

    Returns:
        [...].

    Source: the code of stable-dreamfusion (Tang 2022), `loss_entropy`, there in bits.
    """
    # Its slope is infinite at both ends, where an image is as it should be.
    a = jnp.clip(opacity, 1e-5, 1.0 - 1e-5)
    return -a * jnp.log(a) - (1.0 - a) * jnp.log1p(-a)


def opacity_size(opacity: jax.Array) -> jax.Array:
    """Penalize covered pixels, sqrt(A^2 + 0.01): [P], appendix, against fog.

    It is smallest for an empty scene, and has made scenes vanish where it weighs much.

    Args:
        opacity: A, in [0, 1], [...].

    Returns:
        [...].
    """
    return jnp.sqrt(opacity**2 + 0.01)


def orientation(
    weights: jax.Array, normals: jax.Array, directions: jax.Array
) -> jax.Array:
    """Penalize normals of what is seen that look away: sum_i w_i max(0, n_i . d)^2.

    The surface that a camera sees faces it. Where the density is a fog, or falls in the
    wrong direction, samples count that face away. The gradient acts on the normals
    alone, or else what is seen would be hidden rather than turned.

    Args:
        weights: w_i, [..., N].
        normals: n_i, [..., N, 3].
        directions: of the rays, [..., 3].

    Returns:
        [...].

    Source: [V] eq. (11), with the weights stopped as in [P], appendix.
    """
    away = jnp.sum(normals * directions[..., None, :], axis=-1)
    stopped = jax.lax.stop_gradient(weights)
    return jnp.sum(stopped * jnp.maximum(away, 0.0) ** 2, axis=-1)
