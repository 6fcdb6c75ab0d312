"""Conversion of the tensors of a file to parameters of Inception-v3.

The PyTorch file names its tensors as the network's modules are named; the TensorFlow
graph has names of its own, put together here from a table of its towers. Both hold, for
every convolution, a kernel and the four vectors of a batch normalization,

    y = gamma (x - mean) / sqrt(variance + 1e-3) + beta,

which become a scale and a shift.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from ddpm_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]

EPSILON = 1e-3

_VECTORS = ("gamma", "beta", "mean", "variance")
_HEAD = "fc"
_GIVE = "give the file of pytorch-fid or the TensorFlow graph."

# --- The names in a PyTorch file ------------------------------------------------------

_TORCH_VECTORS = dict(
    zip(_VECTORS, ("weight", "bias", "running_mean", "running_var"), strict=True)
)


def torch_name(module: str, kind: str) -> str:
    """Name a tensor of a module as pytorch-fid's file does.

    Args:
        module: "Mixed_5b/branch1x1", "fc".
        kind: "kernel", "gamma", "beta", "mean", "variance" or "bias".
    """
    module = module.replace("/", ".")
    if module == _HEAD:
        return f"fc.{'weight' if kind == 'kernel' else kind}"
    if kind == "kernel":
        return f"{module}.conv.weight"
    return f"{module}.bn.{_TORCH_VECTORS[kind]}"


# --- The names in the TensorFlow graph ------------------------------------------------

_STEM = {
    "Conv2d_1a_3x3": "conv",
    "Conv2d_2a_3x3": "conv_1",
    "Conv2d_2b_3x3": "conv_2",
    "Conv2d_3b_1x1": "conv_3",
    "Conv2d_4a_3x3": "conv_4",
}
# Where the branches of a block are; "" is the block itself.
_A = {"branch1x1": "", "branch5x5": "tower", "branch3x3dbl": "tower_1"}
_B = {"branch3x3": "", "branch3x3dbl": "tower"}
_C = {"branch1x1": "", "branch7x7": "tower", "branch7x7dbl": "tower_1"}
_D = {"branch3x3": "tower", "branch7x7x3": "tower_1"}
_E = {"branch1x1": "", "branch3x3": "tower", "branch3x3dbl": "tower_1"}
_POOL = {"branch_pool": "tower_2"}
_BLOCKS = {
    "Mixed_5b": ("mixed", _A | _POOL),
    "Mixed_5c": ("mixed_1", _A | _POOL),
    "Mixed_5d": ("mixed_2", _A | _POOL),
    "Mixed_6a": ("mixed_3", _B),
    "Mixed_6b": ("mixed_4", _C | _POOL),
    "Mixed_6c": ("mixed_5", _C | _POOL),
    "Mixed_6d": ("mixed_6", _C | _POOL),
    "Mixed_6e": ("mixed_7", _C | _POOL),
    "Mixed_7a": ("mixed_8", _D),
    "Mixed_7b": ("mixed_9", _E | _POOL),
    "Mixed_7c": ("mixed_10", _E | _POOL),
}
# The n-th convolution of a tower; those at the split end of a branch have their own.
_PLACES = {
    "": "conv",
    "1": "conv",
    "2": "conv_1",
    "3": "conv_2",
    "4": "conv_3",
    "5": "conv_4",
    "2a": "mixed/conv",
    "2b": "mixed/conv_1",
    "3a": "mixed/conv",
    "3b": "mixed/conv_1",
}
_GRAPH_VECTORS = dict(
    zip(_VECTORS, ("gamma", "beta", "moving_mean", "moving_variance"), strict=True)
)


def graph_name(module: str, kind: str) -> str:
    """Name a tensor of a module as the graph of 2015-12-05 does; see `torch_name`."""
    if module == _HEAD:
        return {"kernel": "softmax/weights", "bias": "softmax/biases"}[kind]
    if module in _STEM:
        node = _STEM[module]
    else:
        block, branch = module.split("/")
        outer, towers = _BLOCKS[block]
        if branch in towers:
            stem, place = branch, ""
        else:
            stem, place = branch.rsplit("_", 1)
        node = "/".join(filter(None, (outer, towers[stem], _PLACES[place])))
    if kind == "kernel":
        return f"{node}/conv2d_params"
    return f"{node}/batchnorm/{_GRAPH_VECTORS[kind]}"


# --- Conversion -----------------------------------------------------------------------


def from_torch(tensors: Tensors, shapes: Any, path: str) -> dict[str, Any]:
    """Convert the tensors of a PyTorch file.

    Args:
        tensors: by name.
        shapes: the tree of parameters the network has, as leaves with a shape.
        path: of the file, for messages.

    Raises:
        UserError: a tensor is missing, has another shape, or belongs nowhere.
    """
    # Counts of training steps, which PyTorch writes since 2018, are not weights.
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    # Kernels are [C', C] and [C', C, h, w] there, [C, C'] and [h, w, C, C'] here.
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    return _convert(tensors, shapes, path, torch_name, axes)


def from_graph(constants: Tensors, shapes: Any, path: str) -> dict[str, Any]:
    """Convert the constants of the TensorFlow graph, which lie as the network's do.

    Args:
        constants: by name of their node.
        shapes: the tree of parameters the network has, as leaves with a shape.
        path: of the file, for messages.

    Raises:
        UserError: a tensor is missing, has another shape, or belongs nowhere.
    """
    # Single numbers and integers are sizes, axes and the scale of the input.
    tensors = {
        name: tensor
        for name, tensor in constants.items()
        if tensor.ndim and np.issubdtype(tensor.dtype, np.floating)
    }
    axes = {1: (0,), 2: (0, 1), 4: (0, 1, 2, 3)}
    return _convert(tensors, shapes, path, graph_name, axes)


def _convert(
    tensors: Tensors,
    shapes: Any,
    path: str,
    name_of: Callable[[str, str], str],
    axes: dict[int, tuple[int, ...]],
) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(shapes, sep="/")
    modules = [name.removesuffix("/kernel") for name in flat if name.endswith("kernel")]
    wanted = {
        (module, kind): name_of(module, kind)
        for module in modules
        for kind in ("kernel", *(("bias",) if module == _HEAD else _VECTORS))
    }
    missing = [name for name in wanted.values() if name not in tensors]
    extra = sorted(set(tensors) - set(wanted.values()))
    if missing or extra:
        raise UserError(
            f"{path} does not hold the Inception network of 2015-12-05: "
            f"{_some('missing', missing)}{_some('not known', extra)}{_GIVE}"
        )

    def take(module: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
        name = wanted[module, kind]
        tensor = tensors[name]
        fits = tensor.ndim == len(shape)
        array = tensor.transpose(axes[len(shape)]) if fits else tensor
        if array.shape != shape:
            raise UserError(
                f"{path}: {name} has shape {list(tensor.shape)}, which does not fit "
                f"the Inception network of 2015-12-05; {_GIVE}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} is not finite; fetch the file again.")
        return np.asarray(array, np.float64)

    params: dict[str, np.ndarray] = {}
    for module in modules:
        shape = flat[f"{module}/kernel"].shape
        kernel = take(module, "kernel", shape)
        params[f"{module}/kernel"] = np.ascontiguousarray(kernel, np.float32)
        if module == _HEAD:
            continue
        gamma, beta, mean, variance = (take(module, k, shape[-1:]) for k in _VECTORS)
        scale = gamma / np.sqrt(variance + EPSILON)
        params[f"{module}/scale"] = scale.astype(np.float32)
        params[f"{module}/shift"] = (beta - mean * scale).astype(np.float32)
    return traverse_util.unflatten_dict(params, sep="/")


def _some(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}; "
