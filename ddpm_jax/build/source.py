"""The data of a config, and what a model must know of them."""

import dataclasses

from ml_collections import ConfigDict

from ddpm_jax import data


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a model must know of its data; a checkpoint carries it.

    Attributes:
        name: of the data set.
        image_shape: (H, W, C).
        label_names: of the classes, or None.
        fingerprint: of the images themselves.
    """

    name: str
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...] | None
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """How many classes there are: 0 without labels."""
        return len(self.label_names or ())


def dataset(config: ConfigDict) -> data.Dataset:
    """Open the data set of a config; nothing is decoded yet."""
    options = config.data
    return data.load(
        options.source,
        split=options.split,
        image_size=options.image_size or None,
        channels=options.channels or None,
        pad_to=options.pad_to or None,
        data_dir=options.data_dir,
        resize=options.resize,
        skip_broken=options.skip_broken,
        label_field=options.label_field or None,
        cache=options.cache,
    )


def data_info(source: data.Dataset) -> DataInfo:
    """Describe a data set."""
    return DataInfo(
        source.name, source.image_shape, source.label_names, source.fingerprint
    )
