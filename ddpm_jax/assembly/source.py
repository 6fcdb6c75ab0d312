"""What a model must know of its data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddpm_jax import data
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.conditioning import Tokenizer, reopen
from ddpm_jax.conditioning.clip import Clip, found
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.data.info import DataInfo, LatentInfo, RunInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import ContrastiveTask, Diffusion, Embeddings, ImageEmbedding

CLIP = ImageEmbedding.opens
"""The kind of a dual encoder's run, among those that a model uses."""

_SHOWN = 64  # captions that a checkpoint remembers, evenly from all


def data_info(
    source: data.Dataset,
    spec: Diffusion | ContrastiveTask | None = None,
    opened: Mapping[str, Any] | None = None,
) -> DataInfo:
    """Describe a data set, as a model must know it.

    Args:
        source: the data.
        spec: of the model; None for one that is conditioned on no captions.
        opened: frozen models that it uses, by kind; see `other_runs`.

    Raises:
        UserError: the model is conditioned on text, and the data have no captions, or
            its tokenizer does not fit theirs; or the autoencoder takes other images.
    """
    latents, runs = None, {}
    for kind, model in (opened or {}).items():
        if isinstance(model, Clip):
            runs[kind] = RunInfo(model.name, model.fingerprint, model.sizes)
            continue
        autoencoder: Autoencoder = model
        shape = autoencoder.shape_of(source.image_shape)
        latents = LatentInfo(autoencoder.name, autoencoder.fingerprint, shape)
    info = DataInfo(
        source.name,
        source.shape,
        source.label_names,
        source.fingerprint,
        latents=latents,
        dtype=str(source.dtype),
        runs=runs,
    )
    if isinstance(spec, Diffusion):
        if isinstance(spec.codec, Embeddings):
            info = _of_embeddings(info, runs[spec.codec.opens])
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
        tokenizer=spec.text.learn(source.texts, _opened_by(spec, opened)).to_json(),
        captions=tuple(dict.fromkeys(shown)),
    )


def _of_embeddings(info: DataInfo, run: RunInfo) -> DataInfo:
    """Describe the image embeddings of data, which take the place of the images."""
    return dataclasses.replace(
        info,
        name=f"image embeddings of {info.name}",
        item_shape=(run.sizes["width"],),
        dtype="float32",
    )


def _opened_by(
    spec: Diffusion | ContrastiveTask, opened: Mapping[str, Any] | None
) -> Any:
    """Return the model of the run that the spec of the text names, None without."""
    assert spec.text is not None  # of a model with text
    return (opened or {}).get(spec.text.opens)


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


def clip_of(info: DataInfo) -> Clip:
    """Return the dual encoder of a model that is open.

    Raises:
        UserError: the model has none.
    """
    if CLIP not in info.runs:
        raise UserError(
            f"a model of {info.name} uses no dual encoder (CLIP); train one with "
            "conditioners clip_text and image_embedding, as configs/shapes_unclip.py."
        )
    return found(info.runs[CLIP].fingerprint)
