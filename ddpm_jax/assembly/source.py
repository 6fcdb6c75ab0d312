"""What a model must know of its data."""

import dataclasses

from ddpm_jax import data
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.conditioning import Tokenizer, reopen
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.data.info import DataInfo, LatentInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import ContrastiveTask, Diffusion

_SHOWN = 64  # captions that a checkpoint remembers, evenly from all


def data_info(
    source: data.Dataset,
    spec: Diffusion | ContrastiveTask | None = None,
    autoencoder: Autoencoder | None = None,
) -> DataInfo:
    """Describe a data set, as a model must know it.

    Args:
        source: the data.
        spec: of the model; None for one that is conditioned on no captions.
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
    if isinstance(spec, Diffusion):
        info = dataclasses.replace(info, chain_shape=_chain_shape(spec, info))
    if spec is None or spec.text is None:
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
        fingerprint=data_fingerprint(source, spec),
        tokenizer=spec.text.learn(source.texts).to_json(),
        captions=tuple(dict.fromkeys(shown)),
    )


def _chain_shape(spec: Diffusion, info: DataInfo) -> tuple[int, ...] | None:
    """Return the shape of what a codec of one's own makes of an item."""
    if info.latents is not None or spec.latents_run is not None:
        return None
    shape = tuple(spec.codec.build(info.item_shape, info.dtype).shape)
    return None if shape == info.item_shape else shape


def data_fingerprint(source: data.Dataset, spec: Diffusion | ContrastiveTask) -> str:
    """Identify the data of a model: the images, and the captions if it reads them.

    Args:
        source: the data.
        spec: of the model.
    """
    if spec.text is None:
        return source.fingerprint
    return fingerprint_of([source.fingerprint, *(source.texts or ())])


def num_classes(spec: Diffusion, info: DataInfo) -> int | None:
    """Count the classes of a class-conditional network, None for another."""
    return info.num_classes if "label" in spec.conditioners else None


def tokenizer_of(info: DataInfo) -> Tokenizer:
    """Make the tokenizer that the model was trained with.

    Raises:
        UserError: it is not on this machine.
    """
    assert info.tokenizer is not None  # a text-conditional model has one
    return reopen(info.tokenizer)
