"""The data of a config, and what a model must know of them."""

import dataclasses

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.assembly.translation import read_node
from ddpm_jax.codecs import Autoencoder, CodecSpec, Latents
from ddpm_jax.conditioning import Tokenizer, reopen
from ddpm_jax.conditioning.text import TextSpec
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.data.info import DataInfo, LatentInfo
from ddpm_jax.data.spec import Data
from ddpm_jax.errors import UserError

_SHOWN = 64  # captions that a checkpoint remembers, evenly from all


def data_spec(config: ConfigDict) -> Data:
    """Read the data of a recipe; see `read_node`."""
    return read_node(config, "data", Data)


def dataset(config: ConfigDict, split: str | None = None) -> data.Dataset:
    """Open the data set of a recipe; nothing is decoded yet.

    Args:
        config: all of it.
        split: another than that of the recipe; None for that.

    Raises:
        UserError: it cannot be opened, or must not be mirrored.
    """
    return data_spec(config).open(split)


def text_spec(config: ConfigDict) -> TextSpec | None:
    """Read how captions are read; None for a model without text.

    Raises:
        UserError: as `read_node`.
    """
    if "text" in config:  # of a dual encoder
        return read_node(config, "text", TextSpec)
    if "text" not in config.get("conditioners", {}):
        return None
    return read_node(config, "conditioners.text", TextSpec)


def data_info(
    source: data.Dataset,
    config: ConfigDict | None = None,
    autoencoder: Autoencoder | None = None,
) -> DataInfo:
    """Describe a data set, as a model must know it.

    Args:
        source: the data.
        config: of the model; None for one that is conditioned on no captions.
        autoencoder: in whose latents the model works; None for pixels.

    Raises:
        UserError: the model is conditioned on text, and the data have no captions, or
            its tokenizer does not fit theirs; or the autoencoder takes other images.
    """
    latents = None
    if autoencoder is not None:
        shape = autoencoder.shape_of(source.image_shape)
        latents = LatentInfo(autoencoder.name, autoencoder.fingerprint, shape)
    info = DataInfo(
        source.name,
        source.shape,
        source.label_names,
        source.fingerprint,
        latents=latents,
        dtype=str(source.dtype),
    )
    if config is None:
        return info
    text = text_spec(config)
    info = dataclasses.replace(info, chain_shape=_chain_shape(config, info))
    if text is None:
        return info
    if source.texts is None:
        raise UserError(
            f"the model is conditioned on text, and {source.name} has no captions; "
            "give each picture a 'text' in a file metadata.jsonl, or leave the "
            "conditioner out."
        )
    count = len(source.texts)
    shown = [source.texts[i * count // _SHOWN] for i in range(_SHOWN)]
    return dataclasses.replace(
        info,
        fingerprint=data_fingerprint(source, config),
        tokenizer=text.learn(source.texts).to_json(),
        captions=tuple(dict.fromkeys(shown)),
    )


def _chain_shape(config: ConfigDict, info: DataInfo) -> tuple[int, ...] | None:
    """Return the shape of what a codec of one's own makes of an item."""
    if "codec" not in config or info.latents is not None:
        return None
    spec = codec_spec(config)
    if isinstance(spec, Latents):
        return None
    shape = tuple(spec.build(info.item_shape, info.dtype).shape)
    return None if shape == info.item_shape else shape


def codec_spec(config: ConfigDict) -> CodecSpec:
    """Read what the chain is made of; see `read_node`."""
    return read_node(config, "codec", CodecSpec)


def latents_run(config: ConfigDict) -> str | None:
    """Return the folder of the autoencoder in whose latents a model works, or None."""
    return config.codec.run if config.codec.kind == "latents" else None


def data_fingerprint(source: data.Dataset, config: ConfigDict) -> str:
    """Identify the data of a model: the images, and the captions if it reads them.

    Args:
        source: the data.
        config: of the model.
    """
    if text_spec(config) is None:
        return source.fingerprint
    return fingerprint_of([source.fingerprint, *(source.texts or ())])


def num_classes(config: ConfigDict, info: DataInfo) -> int | None:
    """Count the classes of a class-conditional network, None for another."""
    conditional = "label" in config.get("conditioners", {})
    return info.num_classes if conditional else None


def tokenizer_of(info: DataInfo) -> Tokenizer:
    """Make the tokenizer that the model was trained with.

    Raises:
        UserError: it is not on this machine.
    """
    assert info.tokenizer is not None  # a text-conditional model has one
    return reopen(info.tokenizer)
