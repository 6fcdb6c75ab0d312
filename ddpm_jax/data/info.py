"""Description of a model's data, stored in its checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddpm_jax.data.dataset import image_shape_of, is_image


@dataclasses.dataclass(frozen=True)
class LatentInfo:
    """The latents that a model is trained on.

    Attributes:
        name: of the autoencoder.
        fingerprint: of the autoencoder.
        shape: (h, w, c) of the latents.
    """

    name: str
    fingerprint: str
    shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A trained model of another run that a model uses, frozen.

    Attributes:
        name: of it.
        fingerprint: of its weights.
        sizes: what a model has to know of it, such as the length of its embeddings.
    """

    name: str
    fingerprint: str
    sizes: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """Description of a model's data, stored in its checkpoints.

    Attributes:
        name: of the data set.
        item_shape: of what the data hold, such as (H, W, C) of images.
        label_names: of the classes, or None.
        fingerprint: of the images themselves, and of the captions if they are read.
        tokenizer: the tokenizer and text encoder of a text-conditional model, as plain
            data; else None.
        captions: some of those it is trained on.
        latents: of these images, if that is where the model works; else None.
        dtype: of the items, uint8 or float32.
        chain_shape: of what another codec makes of an item; None without one.
        runs: frozen models of other runs that it uses, by their kinds, such as a dual
            encoder.
    """

    name: str
    item_shape: tuple[int, ...]
    label_names: tuple[str, ...] | None
    fingerprint: str
    tokenizer: Mapping[str, Any] | None = None
    captions: tuple[str, ...] = ()
    latents: LatentInfo | None = None
    dtype: str = "uint8"
    chain_shape: tuple[int, ...] | None = None
    runs: Mapping[str, RunInfo] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the network's input: of latents, or of the items themselves."""
        if self.latents is not None:
            return self.latents.shape
        return self.item_shape if self.chain_shape is None else self.chain_shape

    @property
    def is_image(self) -> bool:
        """Whether the items are images, uint8 [H, W, C]."""
        return is_image(self.item_shape, self.dtype)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of the images.

        Raises:
            UserError: the items are not images.
        """
        return image_shape_of(self.item_shape, self.dtype, self.name)

    @property
    def num_classes(self) -> int:
        """How many classes there are: 0 without labels."""
        return len(self.label_names or ())
