"""Image maps as conditions of samples: how they are made, and of which images."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.assembly.keys import sample_key, seed_of
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning.image_maps import Source
from ddpm_jax.data.pipeline import gather
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion, Grey, LowRes, Masked
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.images import psnr, to_float

_DATA = "data:"


MODES = {LowRes: "upscale", Grey: "colorize", Masked: "inpaint"}
"""Kind of an image map -> the way of editing that a model is trained for by it."""


def mode_of(spec: Diffusion) -> str | None:
    """Return the editing mode that a model was trained for, None if for none."""
    made = spec.image_map
    return None if made is None else MODES.get(type(made))


class Examples(NamedTuple):
    """Real images of which pictures are made, one for each image to draw."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray | None  # int32 [N]
    texts: tuple[str, ...] | None


def examples(spec: Diffusion, info: DataInfo, asked: Sample) -> Examples:
    """Read the images of which a drawing takes its pictures: the first, in turn.

    Raises:
        UserError: the data are not at hand, or are others than the model's.
    """
    split = asked.picture.removeprefix(_DATA) or None
    return _examples(spec.data, split, asked.num_images, info.image_shape)


@functools.lru_cache(maxsize=2)
def _examples(
    spec: Data, split: str | None, count: int, image_shape: tuple[int, ...]
) -> Examples:
    source = spec.open(split)
    if source.image_shape != image_shape:
        raise UserError(
            f"{source.name} has images of {source.image_shape} now, and the model was "
            f"trained with {image_shape}; restore the data."
        )
    batch = gather(source, np.arange(count) % len(source), with_text=True)
    texts = batch.get("text")
    return Examples(
        batch["image"],
        batch.get("label"),
        None if texts is None else tuple(map(str, texts)),
    )


def source_rows(spec: Diffusion, info: DataInfo, asked: Sample) -> dict[str, Any]:
    """Lay out what a drawing makes its pictures of; nothing for other models.

    Args:
        spec: of the model.
        info: of its data.
        asked: of which images.

    Raises:
        UserError: as `examples`.
    """
    conditioner = spec.image_map
    if conditioner is None:
        return {}
    images = examples(spec, info, asked).images
    keys = image_keys(sample_key(seed_of(spec, asked)), jnp.arange(len(images)))
    rows = conditioner.from_request(keys, images, asked.picture_noise)
    return {spec.map_name: rows}


def shown(spec: Diffusion, cond: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Make what the network is shown into pictures for a person.

    Args:
        spec: of the model.
        cond: with what `source_rows` gave, leaves [N, ...].

    Returns:
        The pictures, float [N, H, W, C], and the images they are made of, uint8.
    """
    rows: Source = cond[spec.map_name]
    conditioner = spec.image_map
    assert conditioner is not None  # an image-conditional model has one
    made = jax.jit(lambda rows: conditioner.show(conditioner.from_source(rows)))(rows)
    return np.asarray(made), rows.image


def consistency(spec: Diffusion, drawn: np.ndarray, given: np.ndarray) -> float | None:
    """Tell how far images agree with what they were drawn from.

    Enlarged pictures are averaged over the blocks of a pixel again, coloured ones made
    grey; what is known of a masked picture is kept exactly, and has no measure.

    Args:
        spec: of the model.
        drawn: uint8 [N, H, W, C].
        given: the images that the pictures were made of, of the same shape, or the
            small pictures themselves; uint8.

    Returns:
        The PSNR in dB, its mean over images; None for other models.

    Source: Saharia et al. 2021, "Image Super-Resolution via Iterative Refinement",
        table 2, "consistency".
    """
    conditioner = spec.image_map
    if conditioner is None:
        return None
    a, b = to_float(jnp.asarray(drawn)), to_float(jnp.asarray(given))
    found = conditioner.measure(a)
    if found is None:
        return None
    wanted = conditioner.measure(b) if b.shape == a.shape else b
    assert wanted is not None  # as for the other
    errors = np.square(np.asarray(found - wanted, np.float64))
    return psnr(errors.mean(axis=(1, 2, 3)))


def aug_level_of(spec: Diffusion, asked: Sample) -> float | None:
    """Return the augmentation level that is asked for; None of a model without."""
    made = spec.image_map
    has_levels = isinstance(made, LowRes) and made.max_aug_level
    return asked.picture_noise if has_levels else None


def check_picture(spec: Diffusion, asked: Sample) -> None:
    """Refuse what is asked of the images that a model generates from.

    Raises:
        UserError: for the first rule that does not hold.
    """
    made, noise, source = spec.image_map, asked.picture_noise, asked.picture
    most = made.max_aug_level if isinstance(made, LowRes) else 0.0
    if not 0 <= noise <= most:
        raise UserError(
            f"config.sample.picture_noise={noise} is not in [0, {most:g}], what the "
            "model was trained with; use 0 for none."
        )
    if source and made is None:
        raise UserError(
            f"config.sample.picture={source!r}, but this model was trained without "
            "pictures; leave the option out."
        )
    if source and not source.startswith(_DATA):
        raise UserError(
            f"config.sample.picture={source!r} is not known; use data:SPLIT, such as "
            f"data:test, or edit {mode_of(spec)} for a picture of your own."
        )
