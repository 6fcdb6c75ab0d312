"""The data of a config, and what a model must know of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build.reader import make_reader, reopen
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.conditioning import Reader
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.errors import UserError

_SHOWN = 64  # captions that a checkpoint remembers, evenly from all


@dataclasses.dataclass(frozen=True)
class LatentInfo:
    """What a model must know of the latents that it works in.

    Attributes:
        name: of the autoencoder.
        fingerprint: of the autoencoder.
        shape: (h, w, c) of the latents.
    """

    name: str
    fingerprint: str
    shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a model must know of its data; a checkpoint carries it.

    Attributes:
        name: of the data set.
        item_shape: of what the data hold, such as (H, W, C) of images.
        label_names: of the classes, or None.
        fingerprint: of the images themselves, and of the captions if they are read.
        reader: how a model that is told a text reads it, as plain data; else None.
        captions: some of those it is trained on.
        latents: of these images, if that is where the model works; else None.
        dtype: of the items, uint8 or float32.
    """

    name: str
    item_shape: tuple[int, ...]
    label_names: tuple[str, ...] | None
    fingerprint: str
    reader: Mapping[str, Any] | None = None
    captions: tuple[str, ...] = ()
    latents: LatentInfo | None = None
    dtype: str = "uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the network sees: of latents, or of the items themselves."""
        return self.item_shape if self.latents is None else self.latents.shape

    @property
    def is_image(self) -> bool:
        """Whether the items are images, uint8 [H, W, C]."""
        return data.is_image(self.item_shape, self.dtype)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of the images.

        Raises:
            UserError: the items are not images.
        """
        return data.image_shape_of(self.item_shape, self.dtype, self.name)

    @property
    def num_classes(self) -> int:
        """How many classes there are: 0 without labels."""
        return len(self.label_names or ())


def dataset(config: ConfigDict, split: str | None = None) -> data.Dataset:
    """Open the data set of a config; nothing is decoded yet.

    Args:
        config: all of it, or its `data` alone.
        split: another than that of the config; None for that.

    Raises:
        UserError: it cannot be opened, or must not be mirrored.
    """
    options = config.data
    opened = data.load(
        options.source,
        split=options.split if split is None else split,
        image_size=options.image_size or None,
        channels=options.channels or None,
        pad_to=options.pad_to or None,
        data_dir=options.data_dir,
        resize=options.resize,
        skip_broken=options.skip_broken,
        label_field=options.label_field or None,
        hold_out=options.hold_out,
        cache=options.cache,
        sample_bits=options.sample_bits,
    )
    if opened.sided and options.flip:
        raise UserError(
            f"config.data.flip=True mirrors images, and the captions of {opened.name} "
            "say left and right; set it to False."
        )
    return opened


def data_info(
    source: data.Dataset,
    config: ConfigDict | None = None,
    autoencoder: Autoencoder | None = None,
) -> DataInfo:
    """Describe a data set, as a model must know it.

    Args:
        source: the data.
        config: of the model; None for what is told nothing of captions.
        autoencoder: in whose latents the model works; None for pixels.

    Raises:
        UserError: the model is to be told a text, and the data have none, or the way
            of reading does not fit theirs; or the autoencoder takes other images.
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
    if config is None or not config.model.text:
        return info
    if source.texts is None:
        raise UserError(
            f"config.model.text={config.model.text!r}, but {source.name} has no "
            "captions; give each picture a 'text' in a file metadata.jsonl, or leave "
            "the option out."
        )
    count = len(source.texts)
    shown = [source.texts[i * count // _SHOWN] for i in range(_SHOWN)]
    return dataclasses.replace(
        info,
        fingerprint=data_fingerprint(source, config),
        reader=make_reader(config, source.texts).to_json(),
        captions=tuple(dict.fromkeys(shown)),
    )


def data_fingerprint(source: data.Dataset, config: ConfigDict) -> str:
    """Identify the data of a model: the images, and the captions if it reads them.

    Args:
        source: the data.
        config: of the model.
    """
    if not config.model.text:
        return source.fingerprint
    return fingerprint_of([source.fingerprint, *(source.texts or ())])


def num_classes(config: ConfigDict, info: DataInfo) -> int | None:
    """Count the classes the network is told, None for an unconditional one."""
    return info.num_classes if config.model.class_conditional else None


def reader_of(info: DataInfo) -> Reader:
    """Make the reader that the model was trained with.

    Raises:
        UserError: it is not on this machine.
    """
    assert info.reader is not None  # a model that is told a text has one
    return reopen(info.reader)
