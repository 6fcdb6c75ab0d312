"""How training batches reach the devices, the same ones by either way.

Images that fit stay on the devices, and a step costs the transfer of its indices.
Larger data stay on the host, which reads ahead and sends each batch while the devices
work.
"""

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import assembly, data
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import hosts, interrupts
from ddpm_jax.runtime.devices import replicated, rows, rows_of_host, spread
from ddpm_jax.training.fit import Feed
from ddpm_jax.training.task import Batch

_ATTENTION = 0.2  # seconds, after which a wait looks whether it is to end


class Beside(NamedTuple):
    """What a batch has of each example beside its image and label.

    Attributes:
        captions: tokenized; None without.
        arrays: others by name, [N, ...].
    """

    captions: assembly.Captions | None
    arrays: dict[str, Any]


def make_feed(
    source: data.Dataset,
    batch_size: int,
    *,
    seed: int,
    mesh: Mesh,
    max_mb_on_device: int,
    captions: assembly.Captions | None = None,
    beside: Mapping[str, np.ndarray] | None = None,
) -> Feed:
    """Prepare the training batches; what fits in memory is decoded here.

    Args:
        source: any data set.
        batch_size: B, over all devices.
        seed: the order depends on it alone.
        mesh: from `devices.data_mesh`.
        max_mb_on_device: keep all images on every device if they are no more than this,
            and there is one host: with several, each reads only its part.
        captions: the examples' texts, tokenized, for a text-conditional model.
        beside: what else a batch has of each example, arrays [N, ...] by name.

    Raises:
        UserError: an image cannot be read; for data too large for memory the iterator
            raises it.
    """
    source = data.ready(source)
    more = None
    if captions is not None or beside:
        more = Beside(captions, dict(beside or {}))
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(more))
    small = source.num_bytes + num_bytes <= max_mb_on_device * 1024**2
    if isinstance(source.source, data.Arrays) and small and jax.process_count() == 1:
        stored, indices_of = source.source, data.order(source, batch_size, seed=seed)
        return lambda start: _from_devices(stored, more, indices_of, mesh, start)
    stream = data.batches(
        source,
        batch_size,
        seed=seed,
        rows=rows_of_host(mesh, batch_size),
        with_index=more is not None,
    )
    if more is not None:
        stream = stream.map(functools.partial(_completed, more))
    return lambda start: _from_host(_read(stream, start), mesh)


def _from_devices(
    stored: data.Arrays,
    more: Beside | None,
    indices_of: Callable[[int], np.ndarray],
    mesh: Mesh,
    start: int,
) -> Iterator[Batch]:
    everywhere, by_row = replicated(mesh), rows(mesh)
    whole = {"image": spread(stored.items, everywhere)}
    if stored.labels is not None:
        whole["label"] = spread(stored.labels, everywhere)

    more = jax.tree.map(lambda leaf: spread(leaf, everywhere), more)

    @jax.jit
    def pick(whole: Batch, more: Beside | None, indices: jax.Array) -> Batch:
        batch = {name: array[indices] for name, array in whole.items()}
        if more is None:
            return batch
        return _completed(more, {**batch, "index": indices})

    for step in itertools.count(start):
        indices = spread(indices_of(step).astype(np.int32), by_row)
        yield pick(whole, more, indices)


def _completed(more: Beside, batch: Batch) -> Batch:
    """Put what else there is of each example beside its image, for its number."""
    index = batch["index"]
    found = {name: part for name, part in batch.items() if name != "index"}
    found |= {name: array[index] for name, array in more.arrays.items()}
    if more.captions is not None:
        rows, places = more.captions
        found["text"] = jax.tree.map(lambda leaf: leaf[places[index]], rows)
    return found


def _read(stream: Any, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Read the batches; what one host of several cannot read ends the run there."""
    try:
        yield from _attended(data.iterate(stream, start))
    except UserError as error:
        if jax.process_count() > 1:
            hosts.leave(error)  # the others are in the middle of a step
        raise


def _attended(
    batches: Iterator[dict[str, np.ndarray]],
) -> Iterator[dict[str, np.ndarray]]:
    """Hand on the batches, and leave the wait for one when a signal is noted.

    Yields:
        The batches, in their order; read in a thread of its own.
    """
    if not interrupts.is_installed() or jax.process_count() > 1:
        yield from batches  # hosts stop at the same step, all of them together
        return
    ready: queue.Queue[tuple[dict[str, np.ndarray] | None, Exception | None]]
    ready, wanted = queue.Queue(1), threading.Semaphore(1)
    closed = threading.Event()

    def read() -> None:
        while wanted.acquire() and not closed.is_set():
            try:
                ready.put((next(batches), None))
            except Exception as error:  # raised where it is waited for
                ready.put((None, error))
                return

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            batch, error = _await(ready)
            if batch is None:
                assert error is not None  # one of the two
                raise error
            wanted.release()
            yield batch
    finally:
        closed.set()
        wanted.release()


def _await(ready: queue.Queue[Any]) -> Any:
    while True:
        try:
            return ready.get(timeout=_ATTENTION)
        except queue.Empty:
            if interrupts.received():
                raise interrupts.Interrupted(interrupts.received()) from None


def _from_host(batches: Iterator[dict[str, np.ndarray]], mesh: Mesh) -> Iterator[Batch]:
    """Send each batch, of which this host holds its part."""
    by_row = rows(mesh)
    for batch in batches:
        yield jax.tree.map(
            lambda part: jax.make_array_from_process_local_data(by_row, part), batch
        )
