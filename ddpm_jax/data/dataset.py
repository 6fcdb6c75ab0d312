"""Data sets: named items of one shape, with random access.

An example is `{"image": array [...], "label": int}`, the label being absent when the
data set has none. Items are uint8 images [H, W, C] with any number of channels, or
arrays of any rank, float32 or uint8. A source is anything with `len(source)` and
`source[i]`; there are two: `Records` reads an example at each access, `Arrays`
holds all of them in memory. `decoded` turns the first into the second, once, with a
pool of threads.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError

if TYPE_CHECKING:
    from ddpm_jax.data.listing import Listing
    from ddpm_jax.data.points import Mixture

CORES = min(8, os.cpu_count() or 1)
MAX_BYTES = 2 * 1024**3  # above this many bytes of pixels, images stay undecoded


class NoSplitError(UserError):
    """The data set is there, but has no split of that name."""


@dataclass(frozen=True)
class Records:
    """Examples that are read, and decoded, at each access.

    `num_threads` is how many threads reading gains from: Pillow lets go of the
    interpreter lock, but for images of 32x32 threads lose more than they win. `label`
    gives the class of an example without reading it, where that can be known.
    """

    num_examples: int
    read: Callable[[int], dict]
    num_threads: int = 1
    label: Callable[[int], int] | None = None

    def __len__(self):
        return self.num_examples

    def __getitem__(self, index):
        if not 0 <= index < self.num_examples:
            raise IndexError(f"example {index} of {self.num_examples}")
        return self.read(int(index))


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in memory: items [N, ...], uint8 or float32, labels int32 [N] or None.

    Encoded images are the posterior mean and std of their latents instead, float32 [N,
    h, w, c] (see `moments`).
    """

    items: np.ndarray
    labels: np.ndarray | None

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if not 0 <= index < len(self.items):
            raise IndexError(f"example {index} of {len(self.items)}")
        example = {"image": self.items[index]}
        if self.labels is not None:
            example["label"] = int(self.labels[index])
        return example


class CaptionRule(NamedTuple):
    """A rule by which it is known which captions are true of which images.

    Attributes:
        facts: of each example, what its image shows and what its caption says, as
            numbers, int8 [N, F].
        holds: (facts [A, F], facts [B, F]) -> bool [A, B], whether the caption of b is
            true of the image of a; of NumPy and of JAX arrays.
        attributes: facts [N, F] -> the classes of the images, int32 [N] by the name of
            an attribute; -1 where an image has none.
    """

    facts: np.ndarray
    holds: Callable[[Any, Any], Any]
    attributes: Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named split of items, all of one shape.

    Attributes:
        name: What it is called, for example "digits" or "mnist/3.0.1".
        source: `Records` or `Arrays`, random access to the examples.
        shape: of every item: (H, W, C) of images.
        label_names: Name of each class, or None for data without labels.
        fingerprint: 16 hexadecimal digits that change when the pixels may have:
            they cover the identity of the data, the split and the preparation.
        split: The name of the split.
        note: A remark on these data for the user, or "".
        texts: A caption for each example, or None for data without captions.
        listing: The files, if these are images of a folder; broken ones too.
        cache_key: The name of these images, as prepared, in the cache of decoded images
            (see `cache`); empty if they are not to be kept there.
        sided: The captions name left and right, so that they do not hold of mirrored
            images.
        mixture: The law that the items were drawn from, where it is known.
        rule: By which it is known of which images a caption is true, where there is
            one.
    """

    name: str
    source: Records | Arrays
    shape: tuple[int, ...]
    label_names: tuple[str, ...] | None
    fingerprint: str
    split: str
    note: str = ""
    texts: tuple[str, ...] | None = None
    listing: "Listing | None" = None
    cache_key: str = ""
    sided: bool = False
    mixture: "Mixture | None" = None
    rule: CaptionRule | None = None

    def __len__(self):
        return len(self.source)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, None for data without labels."""
        return None if self.label_names is None else len(self.label_names)

    @property
    def num_bytes(self) -> int:
        """The size of all items once decoded."""
        if isinstance(self.source, Arrays):
            return self.source.items.nbytes
        return len(self.source) * int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype:
        """The type of the items: what is read one by one are images of uint8."""
        if isinstance(self.source, Arrays):
            return self.source.items.dtype
        return np.dtype(np.uint8)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (H, W, C) of every image.

        Raises:
            UserError: The items are not images.
        """
        return image_shape_of(self.shape, str(self.dtype), self.name)


def is_image(shape: tuple[int, ...], dtype: str) -> bool:
    """Return whether items are images: uint8 [H, W, C]."""
    return len(shape) == 3 and dtype == "uint8"


def image_shape_of(
    shape: tuple[int, ...], dtype: str, name: str
) -> tuple[int, int, int]:
    """Return the shape of items that are images, as (H, W, C).

    Raises:
        UserError: They are not.
    """
    if not is_image(shape, dtype):
        raise UserError(
            f"{name} has items of {dtype} {'x'.join(map(str, shape))}, and this needs "
            "images, uint8 of height x width x channels; use data of images."
        )
    height, width, channels = shape
    return height, width, channels


def fingerprint_of(parts: Iterable[object]) -> str:
    """Hash what identifies some data to 16 hexadecimal digits of SHA-256.

    Args:
        parts: Bytes are hashed as they are, all else by its `repr`.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def subset(dataset: Dataset, indices: np.ndarray) -> Dataset:
    """Return the examples with these indices [M], in that order, as a data set.

    Its fingerprint is that of the whole and of the choice.
    """
    source = dataset.source
    if isinstance(source, Arrays):
        labels = None if source.labels is None else source.labels[indices]
        chosen: Records | Arrays = Arrays(source.items[indices], labels)
    else:
        label = source.label
        chosen = replace(
            source,
            num_examples=len(indices),
            read=lambda index: source.read(int(indices[index])),
            label=label and (lambda index: label(int(indices[index]))),
        )
    identity = [dataset.fingerprint, np.asarray(indices, np.int64).tobytes()]
    texts, rule = dataset.texts, dataset.rule
    return replace(
        dataset,
        source=chosen,
        fingerprint=fingerprint_of(identity),
        texts=None if texts is None else tuple(texts[index] for index in indices),
        rule=rule and rule._replace(facts=rule.facts[indices]),
        listing=None,
        cache_key="",
    )


def decoded(dataset: Dataset, *, num_threads: int | None = None) -> Dataset:
    """Return the same data set with every image decoded into one array in memory.

    Nothing is done to a data set that is in memory already, so call it early and pass
    the result on. A progress bar appears, on a terminal, after five seconds.

    Args:
        dataset: Any data set; `dataset.num_bytes` is the memory that it takes.
        num_threads: Decoding threads; by default those of `Records`.
    """
    if isinstance(dataset.source, Arrays):
        return dataset
    from tqdm import tqdm

    count = len(dataset.source)
    images = np.empty((count, *dataset.shape), np.uint8)
    labels = None if dataset.label_names is None else np.empty(count, np.int32)

    def fill(start):
        stop = min(start + 256, count)
        for index in range(start, stop):
            example = dataset.source[index]
            images[index] = example["image"]
            if labels is not None:
                labels[index] = example["label"]
        return stop - start

    progress = tqdm(
        total=count, desc=f"decoding {dataset.name}", delay=5, disable=None, leave=False
    )
    num_threads = num_threads or dataset.source.num_threads
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    try:
        for done in pool.map(fill, range(0, count, 256)):
            progress.update(done)
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()
    return replace(dataset, source=Arrays(images, labels))


def in_memory(dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """Return all examples: items [N, ...], labels int32 [N] or None."""
    source = decoded(dataset).source
    assert isinstance(source, Arrays)  # as `decoded` promises
    return source.items, source.labels
