"""From a config to image maps as conditions: how they are made, and of which images."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.keys import sample_key
from ddpm_jax.build.latents import refuse_latents
from ddpm_jax.build.source import DataInfo, dataset
from ddpm_jax.conditioning.grey import Grey
from ddpm_jax.conditioning.image_maps import ImageMap, Source
from ddpm_jax.conditioning.low_res import LowRes
from ddpm_jax.conditioning.masked import Masked
from ddpm_jax.config import from_json, to_json
from ddpm_jax.data.pipeline import gather
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import psnr, to_float

_DATA = "data:"


def picture_of(config: ConfigDict, num_channels: int) -> ImageMap | None:
    """Build the conditioner that makes maps of images of C channels, if there is one.

    Raises:
        UserError: an option is out of range.
    """
    options = config.model
    table: dict[str, Callable[[], ImageMap | None]] = {
        "": lambda: None,
        "low_res": lambda: LowRes(
            options.picture_factor,
            num_channels,
            options.picture_noise,
            options.frequency_shift,
        ),
        "grey": Grey,
        "masked": lambda: Masked(num_channels),
    }
    return table[options.picture]()


def mode_of(config: ConfigDict) -> str | None:
    """Return the editing mode that a model was trained for, None if for none."""
    return names.PICTURE_MODES.get(config.model.picture)


class Examples(NamedTuple):
    """Real images of which pictures are made, one for each image to draw."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray | None  # int32 [N]
    texts: tuple[str, ...] | None


def examples(config: ConfigDict, info: DataInfo) -> Examples:
    """Read the images of which a drawing takes its pictures: the first, in turn.

    Raises:
        UserError: the data are not at hand, or are others than the model's.
    """
    section = json.dumps(to_json(config)["data"])
    split = config.sample.picture.removeprefix(_DATA) or None
    return _examples(section, split, config.sample.num_images, info.image_shape)


@functools.lru_cache(maxsize=2)
def _examples(
    section: str, split: str | None, count: int, image_shape: tuple[int, ...]
) -> Examples:
    source = dataset(from_json({"data": json.loads(section)}), split)
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


def source_rows(config: ConfigDict, info: DataInfo) -> dict[str, Any]:
    """Lay out what a drawing makes its pictures of; nothing for other models.

    Args:
        config: its `sample` says of which images.
        info: of the model.

    Raises:
        UserError: as `examples`.
    """
    if not config.model.picture:
        return {}
    conditioner = picture_of(config, info.image_shape[-1])
    assert conditioner is not None  # by the line above
    images = examples(config, info).images
    keys = image_keys(sample_key(config), jnp.arange(len(images)))
    rows = conditioner.from_request(keys, images, config.sample.picture_noise)
    return {config.model.picture: rows}


def shown(config: ConfigDict, cond: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Make what the network is shown into pictures for a person.

    Args:
        config: of the model.
        cond: with what `source_rows` gave, leaves [N, ...].

    Returns:
        The pictures, float [N, H, W, C], and the images they are made of, uint8.
    """
    rows: Source = cond[config.model.picture]
    conditioner = picture_of(config, rows.image.shape[-1])
    assert conditioner is not None  # an image-conditional model has one
    made = jax.jit(lambda rows: conditioner.show(conditioner.from_source(rows)))(rows)
    return np.asarray(made), rows.image


def consistency(
    config: ConfigDict, drawn: np.ndarray, given: np.ndarray
) -> float | None:
    """Tell how far images agree with what they were drawn from.

    Enlarged pictures are averaged over the blocks of a pixel again, coloured ones made
    grey; what is known of a masked picture is kept exactly, and has no measure.

    Args:
        config: of the model.
        drawn: uint8 [N, H, W, C].
        given: the images that the pictures were made of, of the same shape, or the
            small pictures themselves; uint8.

    Returns:
        The PSNR in dB, its mean over images; None for other models.

    Source: Saharia et al. 2021, "Image Super-Resolution via Iterative Refinement",
        table 2, "consistency".
    """
    conditioner = picture_of(config, drawn.shape[-1])
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


def check_picture(config: ConfigDict, info: DataInfo) -> None:
    """Refuse a picture that cannot be made of the data, or that does not fit the model.

    Raises:
        UserError: for the first rule that does not hold.
    """
    model, kind = config.model, config.model.picture
    if kind not in names.PICTURES:
        listed = ", ".join(word for word in names.PICTURES if word)
        raise UserError(
            f"config.model.picture={kind!r} is not known; use {listed}, or leave it "
            "out."
        )
    if kind:
        refuse_latents(config, f"config.model.picture={kind!r}")
    _check_low_res(config, info)
    if kind == "grey" and info.image_shape[-1] != 3:
        raise UserError(
            f"config.model.picture='grey' with images of {info.image_shape[-1]} "
            "channel(s); it wants colour images (3 channels)."
        )
    asked, most = config.sample.picture_noise, model.picture_noise
    if not 0 <= asked <= most:
        raise UserError(
            f"config.sample.picture_noise={asked} is not in [0, {most:g}], what the "
            "model was trained with; use 0 for none."
        )
    source = config.sample.picture
    if source and not kind:
        raise UserError(
            f"config.sample.picture={source!r}, but this model was trained without "
            "pictures; leave the option out."
        )
    if source and not source.startswith(_DATA):
        raise UserError(
            f"config.sample.picture={source!r} is not known; use data:SPLIT, such as "
            f"data:test, or edit {mode_of(config)} for a picture of your own."
        )


def _check_low_res(config: ConfigDict, info: DataInfo) -> None:
    model = config.model
    factor, noise = model.picture_factor, model.picture_noise
    if not 0 <= noise <= 1:
        raise UserError(
            f"config.model.picture_noise={noise} is not in [0, 1]; 0 is none, 1 as "
            "much as leaves nothing of the picture."
        )
    if model.picture == "low_res":
        height, width, _ = info.image_shape
        if factor < 2 or height % factor or width % factor:
            raise UserError(
                f"config.model.picture_factor={factor} does not divide images of "
                f"{height}x{width}; use a divisor of both sides, 2 or more."
            )
    elif noise:
        raise UserError(
            f"config.model.picture_noise={noise} does nothing with picture "
            f"{model.picture!r}; leave it out, or use low_res."
        )
