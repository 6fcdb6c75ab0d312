"""A function mapped over rows, in batches of one size, so that one program serves.

    run = jax.jit(function, in_shardings=rows(mesh), out_shardings=rows(mesh))
    whole = join(map_batches(run, images, len(images), 64, mesh=mesh))

The batch size is rounded up to what the devices divide, the last batch is filled up
with copies of the last row, and the surplus is dropped again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import interrupts
from ddpm_jax.runtime.devices import gathered, round_up, rows, spread


class Checked(NamedTuple):
    """Rows of a type in which nothing can be NaN or infinite, such as bytes.

    Attributes:
        value: a tree of arrays; leaves [B, ...], or of the first of these rows.
        finite: bool [B]; or several such, by the names that a message has for them.
    """

    value: Any
    finite: Any


def map_batches(
    function: Callable[[Any], Any],
    given: Any,
    num_rows: int,
    batch_size: int,
    *,
    mesh: Mesh | None,
    first: int = 0,
    stop: Callable[[], Any] = lambda: False,
    on_batch: Callable[[int], Any] = lambda count: None,
    not_finite: Callable[[str, int, int], str] | None = None,
) -> Iterator[Any]:
    """Apply a function to all rows of arrays, a batch at a time.

    Args:
        function: a tree of arrays with leaves [B, ...] -> another such tree, or a
            `Checked` one. B is always the same; jit it.
        given: a tree of NumPy arrays with leaves [N, ...]; or a function from row
            numbers int [B] to such a tree, which reads them when their turn comes.
        num_rows: N.
        batch_size: B, on all devices together; rounded up to what they divide.
        mesh: over which rows are spread; None leaves them to the function, and B as it
            is.
        first: the row to begin with, where those before it are finished.
        stop: called before each batch; if true, no more follow.
        on_batch: called with the number of rows finished by each batch.
        not_finite: (name of an array, first row, last row) -> the error message for a
            batch with a row that is not finite; None does not check floating-point
            rows.

    Yields:
        For each batch the result as NumPy arrays, without the surplus of the last.

    Raises:
        UserError: a row is not finite.
    """
    size = batch_size if mesh is None else round_up(batch_size)
    for start in range(first, num_rows, size):
        if stop():
            return
        interrupts.check()
        count = min(size, num_rows - start)
        indices = _filled(start, size, num_rows)
        batch = given(indices) if callable(given) else take(given, indices)
        if mesh is not None:
            by_row = rows(mesh)
            batch = jax.tree.map(lambda leaf: spread(leaf, by_row), batch)  # noqa: B023
        result = function(batch)
        result = jax.tree.map(lambda leaf: gathered(leaf)[:count], result)  # noqa: B023
        if not_finite and (what := _what_is_not_finite(result)) is not None:
            raise UserError(not_finite(what, start, start + count - 1))
        on_batch(count)
        yield result.value if isinstance(result, Checked) else result


def _filled(start: int, size: int, num_rows: int) -> np.ndarray:
    """Return the indices of a batch [B], the last of N rows repeated."""
    return np.minimum(np.arange(start, start + size), num_rows - 1)


def take(tree: Any, indices: np.ndarray) -> Any:
    """Take rows [B] of all arrays of a tree: leaves [N, ...] become [B, ...]."""
    return jax.tree.map(lambda leaf: leaf[indices], tree)


def filled_up(given: Any, num_rows: int) -> Any:
    """Repeat the last of N rows until the devices divide them: leaves [B, ...]."""
    return take(given, _filled(0, round_up(num_rows), num_rows))


def join(parts: Iterable[Any]) -> Any:
    """Join the results of batches, trees with leaves [B, ...], to one of [N, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _what_is_not_finite(result: Any) -> str | None:
    """Name the first array of a batch that holds a NaN or an infinity; None if none."""
    checked = isinstance(result, Checked)
    tree = result.finite if checked else result
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not (checked or jnp.issubdtype(leaf.dtype, jnp.floating)):
            continue
        if not np.all(leaf if checked else np.isfinite(leaf)):
            key = path[-1] if path else "a row"
            return str(getattr(key, "key", getattr(key, "name", key)))
    return None
