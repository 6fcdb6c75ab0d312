"""Conversion between tensors in PyTorch's layout and nested Flax parameters.

| ours                          | theirs                                               |
| ----------------------------- | ---------------------------------------------------- |
| kernel [H, W, C, C'] of a 3x3 | weight [C', C, H, W]                                 |
| kernel [C, C']                | weight [C', C], or [C', C, 1(, 1)] of a 1x1          |
| scale, bias [C]               | weight, bias [C]                                     |
| embedding [K + 1, E]          | weight [K + 1, E], or [K, E] where no row stands for |
|                               | "no class"                                           |
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ddpm_jax.errors import UserError
from ddpm_jax.weights.pretrained import Path, Pretrained

_LISTED = 3  # names in a message


def to_flax(
    pretrained: Pretrained, shapes: Mapping[Path, tuple[int, ...]], *, null_row: bool
) -> Any:
    """Carry a foreign checkpoint into nested parameters.

    Args:
        pretrained: the checkpoint.
        shapes: of every leaf that the U-Net has, by path.
        null_row: the last row of its class embedding stands for "no class". Without,
            such a row is added: zeros, the time alone.

    Returns:
        Nested dictionaries of float32 arrays.

    Raises:
        UserError: tensors are missing, left over, of another shape or not finite.
    """
    tensors = dict(pretrained.tensors)
    names = {path: pretrained.name_of(path) for path in shapes}
    _check_names(pretrained.name, tensors, set(names.values()))
    leaves = {}
    for path, shape in shapes.items():
        value = _real(pretrained.name, names[path], tensors[names[path]])
        if path[-1] == "embedding" and not null_row and value.ndim == 2:
            value = np.concatenate([value, np.zeros_like(value[:1])])
        leaves[path] = _to_ours(pretrained.name, names[path], value, path[-1], shape)
    if pretrained.flips_time:
        kernel = leaves["time_0", "kernel"]
        leaves["time_0", "kernel"] = _swap_halves(kernel)
    return traverse_util.unflatten_dict(leaves)


def to_torch(
    params: Any, name_of: Callable[[Path], str], is_1x1: Callable[[Path], bool]
) -> dict[str, np.ndarray]:
    """Carry nested parameters out, into tensors by name.

    Args:
        params: nested dictionaries of arrays.
        name_of: from a leaf's path to the name of the tensor.
        is_1x1: whether the kernel of a path is a convolution's there.

    Returns:
        float32 arrays, in the order of the parameters.
    """
    leaves = traverse_util.flatten_dict(params)
    return {
        name_of(path): _to_theirs(np.asarray(leaf), path[-1], is_1x1(path))
        for path, leaf in leaves.items()
    }


def _check_names(source: str, tensors: Mapping[str, Any], wanted: set[str]) -> None:
    for names, what in (
        (sorted(wanted - set(tensors)), "lacks"),
        (sorted(set(tensors) - wanted), "has, beyond what this network is made of,"),
    ):
        if names:
            listed = ", ".join(names[:_LISTED]) + (", ..." if names[_LISTED:] else "")
            raise UserError(
                f"{source} {what} {len(names)} of the {len(wanted)} tensors "
                f"({listed}); give a whole checkpoint, with the settings it was "
                "trained with."
                if what == "lacks"
                else f"{source} {what} {len(names)} tensors ({listed}); it is another "
                "network, or its settings are not those it was trained with."
            )


def _real(source: str, name: str, value: np.ndarray) -> np.ndarray:
    """Return the numbers of a tensor as float32."""
    if value.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise UserError(
            f"{source}: {name} holds {value.dtype.name}, not real numbers; give the "
            "weights as they were trained."
        )
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(
            f"{source}: {name} holds numbers that are not finite; the training broke, "
            "or the file: give another checkpoint."
        )
    return value


def _to_ours(
    source: str, name: str, value: np.ndarray, kind: str, shape: tuple[int, ...]
) -> np.ndarray:
    wanted = shape
    if kind == "kernel":
        wanted = (*shape[:-3:-1], *shape[:-2])  # [C', C(, H, W)]
        ones = value.shape[len(wanted) :]
        if set(ones) <= {1}:
            value = value.reshape(value.shape[: len(wanted)])
    if value.shape != wanted:
        raise UserError(
            f"{source}: {name} has shape {list(value.shape)}, and this network takes "
            f"{list(wanted)}; its settings are not those it was trained with."
        )
    if kind == "kernel":
        value = np.moveaxis(value, (0, 1), (-1, -2))
    return np.ascontiguousarray(value)


def _to_theirs(value: np.ndarray, kind: str, is_1x1: bool) -> np.ndarray:
    if kind == "kernel":
        value = np.moveaxis(value, (-1, -2), (0, 1))
        if is_1x1:
            value = value[:, :, None, None]
    return np.ascontiguousarray(value, np.float32)


def _swap_halves(kernel: np.ndarray) -> np.ndarray:
    """Exchange the rows of the cosines and of the sines; an odd last row stays."""
    half = len(kernel) // 2
    return np.concatenate([kernel[half : 2 * half], kernel[:half], kernel[2 * half :]])
