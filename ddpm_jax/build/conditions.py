"""From a config to what the network is told of an image: class, text, picture.

One dictionary, `conditioning.condition`, in training and in sampling.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import conditioning
from ddpm_jax.build.asked import prompts, sample_labels
from ddpm_jax.build.pictures import picture_of, source_rows
from ddpm_jax.build.source import DataInfo, num_classes, reader_of
from ddpm_jax.conditioning import Encoded, Reader, Tokens
from ddpm_jax.conditioning.condition import Silence, silence, tell
from ddpm_jax.conditioning.image_maps import PictureOf
from ddpm_jax.conditioning.text import interpolate
from ddpm_jax.networks.text_unet import TextUNet
from ddpm_jax.networks.unet import UNet
from ddpm_jax.tasks.diffusion import Tell

AnyUNet = UNet | TextUNet

_PICTURE = 1  # by which the key of what is told is split, which is drawn from as it is


def told(config: ConfigDict) -> tuple[str, ...]:
    """List what the network is told of an image: "label", "text", both or nothing."""
    asked = {"label": config.model.class_conditional, "text": bool(config.model.text)}
    return tuple(name for name, wanted in asked.items() if wanted)


def silent_for(network: AnyUNet) -> Silence:
    """Make the function that leaves of a condition only its shapes."""
    return silence(network.num_classes)


def teller(config: ConfigDict, info: DataInfo) -> Tell | None:
    """Make what training tells the network; None if that is nothing."""
    names = told(config)
    said: Tell | None = None
    if names:
        silent = silence(num_classes(config, info))
        said = tell(silent, config.training.label_dropout, names)
    made = picture_of(config, info.item_shape[-1])
    return said if made is None else _and_shown(said, made)


def _and_shown(said: Tell | None, made: PictureOf) -> Tell:
    """Show a picture as well, which is never left out."""

    def both(key: jax.Array, batch: Mapping[str, Any], x0: jax.Array) -> dict[str, Any]:
        cond = {} if said is None else said(key, dict(batch), x0)
        keys = jax.random.split(jax.random.fold_in(key, _PICTURE), len(x0))
        return {**cond, **made.make(keys, x0, None)}

    return both


def encode(network: AnyUNet, params: Any, cond: Any) -> Any:
    """Read the texts of a condition, so that no step of a chain need do it again."""
    if not isinstance(network, TextUNet) or cond is None:
        return cond

    def read(text: Tokens | Encoded) -> Encoded:
        if isinstance(text, Encoded):
            return text
        variables = {"params": params}
        return Encoded(*network.apply(variables, text, method="encode"))

    return {
        name: read(part) if name in ("text", "negative") else part
        for name, part in cond.items()
    }


# --- Of real images ------------------------------------------------------------------


class Captions(NamedTuple):
    """The texts of N examples, U of them distinct.

    Attributes:
        rows: leaves [U, ...].
        places: int32 [N], the row of each example.
    """

    rows: Tokens | Encoded
    places: np.ndarray


def example_cond(
    config: ConfigDict, info: DataInfo, examples: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Make what the network is told of real images, None if that is nothing.

    Args:
        config: all of it.
        info: of the model.
        examples: from `data.gather`, with their texts; arrays [N, ...].

    Returns:
        Leaves [N, ...].
    """
    cond: dict[str, Any] = {}
    for name in told(config):
        part = examples[name]
        cond[name] = part if name == "label" else _rows(reader_of(info), list(part))
    return cond or None


def captions(config: ConfigDict, info: DataInfo, texts: Sequence[str]) -> Captions:
    """Read the captions of a training set, each that is distinct once.

    Args:
        config: all of it.
        info: of the model.
        texts: N of them.

    Raises:
        UserError: they cannot be read.
    """
    listed, places = conditioning.distinct(texts)
    return Captions(reader_of(info).read(listed), places)


def _rows(reader: Reader, texts: Sequence[str]) -> Tokens | Encoded:
    """Read each distinct text once; leaves [N, ...]."""
    listed, places = conditioning.distinct(texts)
    return jax.tree.map(lambda leaf: leaf[places], reader.read(listed))


# --- What is asked for ----------------------------------------------------------------


def sample_cond(config: ConfigDict, info: DataInfo) -> dict[str, Any] | None:
    """Make what the network is told of each image to draw, leaves [num_images, ...].

    Raises:
        UserError: a label or a prompt cannot be used, or the network knows none.
    """
    labels, texts = sample_labels(config, info), prompts(config, info)
    cond: dict[str, Any] = source_rows(config, info)
    if labels is not None:
        cond["label"] = labels
    if texts is not None:
        cond |= text_cond(config, info, texts)
    return cond or None


def cond_between(
    config: ConfigDict, info: DataInfo, network: AnyUNet, params: Any
) -> dict[str, Any] | None:
    """Go from `prompt` to `prompt_to` in as many images as are to be drawn.

    Args:
        config: all of it.
        info: of the model.
        network: which may have to read the two ends.
        params: its parameters.

    Raises:
        UserError: as `sample_cond`.
    """
    cond = sample_cond(config, info)
    assert cond is not None  # `check` has refused a model without text
    ends = reader_of(info).read([config.sample.prompt, config.sample.prompt_to])
    read = jax.jit(lambda params, text: encode(network, params, {"text": text}))
    both = jax.device_get(read(params, ends))["text"]
    a, b = (jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], both) for i in (0, 1))
    shares = np.linspace(0, 1, config.sample.num_images)
    return {**cond, "text": interpolate(a, b, list(shares))}


def text_cond(
    config: ConfigDict, info: DataInfo, texts: Sequence[str]
) -> dict[str, Any]:
    """Read prompts, and the negative one beside each if there is one.

    Args:
        config: with the negative prompt.
        info: with the reader.
        texts: N of them.

    Returns:
        "text" and perhaps "negative", leaves [N, ...].

    Raises:
        UserError: a prompt cannot be read.
    """
    reader = reader_of(info)
    cond: dict[str, Any] = {"text": _rows(reader, texts)}
    if config.sample.negative_prompt:
        negative = reader.read([config.sample.negative_prompt])
        cond["negative"] = jax.tree.map(
            lambda leaf: np.repeat(leaf, len(texts), axis=0), negative
        )
    return cond
