"""How near a scene is to a known solid: seen from where it was not fitted, all around.

PSNR of held-out views is the measure. That of silhouettes (IoU) hides a thing with two
faces, which has the right outline from everywhere: so faces are counted, the Janus
bins. NumPy, on images [..., H, W, 3] in [0, 1].
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.errors import UserError
from ddpm_jax.scenes.cameras import Camera, from_degrees, orbit
from ddpm_jax.scenes.solids import Shading, Solid, render

NUM_BINS = 8
"""Azimuths, 45 degrees apart, among which the nearest truth is looked for."""

NUM_HELD_OUT = 16
"""Held-out views of `measure`."""

_ELEVATIONS = (0.0, 30.0, 15.0, 45.0)  # degrees, of held-out views in turn
EMPTY, FULL = 0.02, 0.98
"""Mean opacities beyond which there is no thing to see."""


class Measures(NamedTuple):
    """How near a scene is to a solid.

    Attributes:
        psnr: mean over the held-out views, dB.
        iou: of all their silhouettes.
        janus: bins of the 8 whose render is nearest to another bin's truth.
        saturated: share of the held-out views' values inside of the thing that are at a
            limit.
        empty_or_full: a scene without a thing.
    """

    psnr: float
    iou: float
    janus: int
    saturated: float
    empty_or_full: bool


def held_out_cameras(num: int = NUM_HELD_OUT) -> Camera:
    """Make cameras around the origin that stand between the bins of `janus_bins`.

    Args:
        num: how many; every second is 11.25 degrees beside one of 8 bins with 16.

    Returns:
        Leaves [num]: even azimuths from half a step on, elevations 0 to 45 degrees.
    """
    azimuths = (np.arange(num) + 0.5) * 360 / num
    return from_degrees(azimuths, np.resize(_ELEVATIONS, num))


def measure(
    solid: Solid,
    renderer: Callable[[Camera], tuple[ArrayLike, ArrayLike]],
    size: int,
    *,
    shading: Shading = "shaded",
    supersample: int = 4,
) -> Measures:
    """Compare a scene with a solid.

    Args:
        solid: the truth.
        renderer: of the scene: cameras of leaves [N] -> images [N, H, W, 3] over white
            and opacities [N, H, W].
        size: side of its images, in pixels.
        shading: of the truth.
        supersample: of the truth; as many rays as the renderer has, or its images
            differ at every edge (3 dB at 16x16).
    """
    true = functools.partial(
        render, solid, size=size, shading=shading, supersample=supersample
    )
    held_out, around = held_out_cameras(), orbit(NUM_BINS)
    images, opacities = renderer(held_out)
    truth = true(held_out)
    return Measures(
        psnr=float(psnr(images, truth.image).mean()),
        iou=opacity_iou(opacities, truth.opacity),
        janus=janus_bins(renderer(around)[0], true(around).image),
        saturated=saturated_share(images, opacities),
        empty_or_full=is_empty_or_full(opacities),
    )


def psnr(images: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the peak signal-to-noise ratio of each image, dB; inf where they agree.

    -10 log10 of the mean squared error, the peak being 1.

    Args:
        images: [..., H, W, 3] in [0, 1].
        truth: as many.
    """
    with np.errstate(divide="ignore"):
        found: np.ndarray = -10 * np.log10(_errors(images, truth))
    return found


def janus_bins(renders: ArrayLike, truths: ArrayLike) -> int:
    """Count renders that are nearer to the truth of another view than to their own.

    A scene with a face on each side, the "Janus problem", shows the front where its
    back should be.

    Args:
        renders: of a scene at evenly spaced azimuths, [K, H, W, 3].
        truths: of the solid at the same, [K, H, W, 3].
    """
    errors = _errors(np.asarray(renders)[:, None], np.asarray(truths)[None])
    return int(np.sum(errors.argmin(axis=1) != np.arange(len(errors))))


def opacity_iou(
    opacities: ArrayLike, truth: ArrayLike, threshold: float = 0.5
) -> float:
    """Return intersection over union of silhouettes, pooled; 1 if both are empty.

    Args:
        opacities: [..., H, W].
        truth: as many.
        threshold: from which on a pixel belongs to the thing.
    """
    one, two = (np.asarray(a) >= threshold for a in (opacities, truth))
    either = np.sum(one | two)
    return float(np.sum(one & two) / either) if either else 1.0


def saturated_share(
    images: ArrayLike, opacities: ArrayLike, margin: float = 0.02
) -> float:
    """Return the share of the thing's values that are at 0 or 1; 0 of no thing.

    Much guidance drives colors there. Pixels of at least half opacity count.

    Args:
        images: [..., H, W, 3] in [0, 1].
        opacities: [..., H, W].
        margin: values less than this from 0 or 1 are at the limit.
    """
    values = np.asarray(images)[np.asarray(opacities) >= 0.5]
    if not values.size:
        return 0.0
    return float(np.mean((values < margin) | (values > 1 - margin)))


def normal_error(normals: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean angle between normals, degrees, of pixels that both see whole.

    Args:
        normals: [..., H, W, 3]; where less than half of a unit vector is left, as at
            outlines that are averaged, there is none.
        truth: as many.

    Returns:
        NaN if there is no such pixel.
    """
    one, two = (np.asarray(a, np.float64) for a in (normals, truth))
    lengths = [np.linalg.norm(a, axis=-1) for a in (one, two)]
    is_seen = (lengths[0] > 0.5) & (lengths[1] > 0.5)
    if not np.any(is_seen):
        return float("nan")
    cosines = np.sum(one * two, axis=-1)[is_seen] / (lengths[0] * lengths[1])[is_seen]
    return float(np.rad2deg(np.arccos(np.clip(cosines, -1.0, 1.0))).mean())


def is_empty_or_full(opacities: ArrayLike) -> bool:
    """Say whether there is no thing to see: mean opacity below 0.02 or above 0.98."""
    return not EMPTY <= float(np.mean(np.asarray(opacities))) <= FULL


def _errors(images: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Return the mean squared errors of images, float64 [...]."""
    one, two = np.asarray(images, np.float64), np.asarray(truth, np.float64)
    if one.shape[-3:] != two.shape[-3:]:
        raise UserError(
            f"images of {one.shape[-3:]} are not comparable with {two.shape[-3:]}; "
            "render both at one size."
        )
    return np.mean((one - two) ** 2, axis=(-3, -2, -1))
