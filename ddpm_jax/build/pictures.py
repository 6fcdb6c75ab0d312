"""From a config to pictures as conditions: how they are made, and of which images.

What is sent to the devices is small: an image as bytes, "source" uint8 [B, H, W, C],
and the key of its noise or mask, "source_key" uint32 [B, 2]. `lay_out_picture` makes of
them, there, what the network is shown.
"""

import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.keys import sample_key
from ddpm_jax.build.latents import refuse_latents
from ddpm_jax.build.source import DataInfo, dataset
from ddpm_jax.conditioning import image_maps as pictures
from ddpm_jax.conditioning.image_maps import PictureOf
from ddpm_jax.config import from_json, to_json
from ddpm_jax.data.pipeline import gather
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.operators import average_pool, grey_operator
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import psnr, to_float

SOURCE, SOURCE_KEY = "source", "source_key"
_DATA = "data:"


def picture_of(config: ConfigDict, num_channels: int) -> PictureOf | None:
    """Make what turns images of C channels into what the network is shown, if any."""
    options = config.model
    table = {
        "": lambda: None,
        "low_res": lambda: pictures.low_res(
            options.picture_factor, num_channels, options.picture_noise
        ),
        "grey": pictures.grey,
        "masked": lambda: pictures.masked(num_channels),
    }
    return table[options.picture]()


def picture_channels(config: ConfigDict, num_channels: int) -> int:
    """Count the channels that a picture adds to images of C; 0 without."""
    made = picture_of(config, num_channels)
    return 0 if made is None else made.num_channels


def example_picture(config: ConfigDict, info: DataInfo) -> dict[str, Any] | None:
    """Make a picture of one black image, for its shape; None for other models."""
    made = picture_of(config, info.item_shape[-1])
    if made is None:
        return None
    x0 = jnp.zeros((1, *info.image_shape), jnp.float32)
    return made.make(jax.random.split(jax.random.key(0), 1), x0, None)


def mode_of(config: ConfigDict) -> str | None:
    """Return the editing mode that a model was trained for, None if for none."""
    return names.PICTURE_MODES.get(config.model.picture)


def lay_out_picture(config: ConfigDict, cond: Any) -> Any:
    """Make of images and their keys the picture that the network is shown.

    Args:
        config: of the model, and with `sample.picture_noise`.
        cond: a condition, perhaps with "source" and "source_key", leaves [B, ...].

    Returns:
        The condition with the picture in their place; without them, as it was.
    """
    if not cond or SOURCE not in cond:
        return cond
    rest = {name: part for name, part in cond.items() if name != SOURCE}
    keys = jax.random.wrap_key_data(rest.pop(SOURCE_KEY))
    x0 = to_float(cond[SOURCE])
    made = picture_of(config, x0.shape[-1])
    assert made is not None  # only models that are shown a picture are given one
    return {**rest, **made.make(keys, x0, config.sample.picture_noise)}


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
    images = examples(config, info).images
    numbers = jnp.arange(len(images))
    keys = pictures.picture_keys(image_keys(sample_key(config), numbers))
    return {SOURCE: images, SOURCE_KEY: np.asarray(jax.random.key_data(keys))}


def shown(config: ConfigDict, cond: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Make what the network is shown into pictures for a person.

    Args:
        config: as of `lay_out_picture`.
        cond: with what `source_rows` gave, leaves [N, ...].

    Returns:
        The pictures, float [N, H, W, C], and the images they are made of, uint8.
    """
    rows = {name: cond[name] for name in (SOURCE, SOURCE_KEY)}
    num_channels = rows[SOURCE].shape[-1]

    @jax.jit
    def make(rows: dict[str, Any]) -> jax.Array:
        picture = lay_out_picture(config, rows)[pictures.PICTURE]
        return pictures.show(picture, num_channels)

    return np.asarray(make(rows)), rows[SOURCE]


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
    model = config.model
    kinds = {
        "low_res": lambda: average_pool(model.picture_factor),
        "grey": lambda: grey_operator(3, pictures.LUMA),
    }
    if model.picture not in kinds:
        return None
    shrink = kinds[model.picture]().apply
    a, b = to_float(jnp.asarray(drawn)), to_float(jnp.asarray(given))
    wanted = shrink(b) if b.shape == a.shape else b
    errors = np.square(np.asarray(shrink(a) - wanted, np.float64))
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
            f"data:test, or --mode={mode_of(config)} for a picture of your own."
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
