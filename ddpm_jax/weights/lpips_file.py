"""The two files of LPIPS: a VGG-16, and how much each of its channels counts.

    vgg16-397923af.pth      of torchvision: features.0.weight, features.0.bias, ...
    vgg.pth                 of the package lpips, weights/v0.1: lin0.model.1.weight, ...

Only tensors are read of them (see `weights.torch_file`); of the first the fully
connected layers are passed over.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.weights.torch_file import read_tensors


class Lpips(NamedTuple):
    """What LPIPS has learned.

    Attributes:
        params: of `networks.vgg.Vgg16`.
        weights: of the channels of each level, float32 [c], none below zero.
    """

    params: dict[str, Any]
    weights: list[np.ndarray]


def read_lpips(
    network: str | Path, linear: str | Path, widths: tuple[tuple[int, ...], ...]
) -> Lpips:
    """Read both files.

    Args:
        network: of the VGG-16.
        linear: of the channels' weights.
        widths: channels of each convolution, by level.

    Raises:
        UserError: a file cannot be read, or lacks what it should have.
    """
    tensors = _read(network)
    params: dict[str, Any] = {}
    before = 3
    for number, level, i, width in _places(widths):
        kernel = _get(
            tensors, f"features.{number}.weight", (width, before, 3, 3), network
        )
        bias = _get(tensors, f"features.{number}.bias", (width,), network)
        params[f"level_{level}_conv_{i}"] = {
            "kernel": kernel.transpose(2, 3, 1, 0),  # to height, width, in, out
            "bias": bias,
        }
        before = width
    counts = _read(linear)
    weights = []
    for level, of_level in enumerate(widths):
        name, width = f"lin{level}.model.1.weight", of_level[-1]
        weights.append(_get(counts, name, (1, width, 1, 1), linear).reshape(width))
        if weights[-1].min() < 0:
            raise UserError(
                f"{linear} has weights below zero in {name}, by which nothing can be a "
                "distance; give the file vgg.pth of the package lpips."
            )
    return Lpips(params, weights)


def _places(widths: tuple[tuple[int, ...], ...]) -> list[tuple[int, int, int, int]]:
    """List number in the file, level, place in it and width of each convolution.

    In the file every convolution has a ReLU after it, every level its maximum.
    """
    convolutions, number = [], 0
    for level, of_level in enumerate(widths):
        for i, width in enumerate(of_level):
            convolutions.append((number, level, i, width))
            number += 2
        number += 1
    return convolutions


def _read(path: str | Path) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise UserError(
            f"{path} is not a file; LPIPS needs two, the VGG-16 of torchvision and "
            "vgg.pth of the package lpips: "
            "config.perceptual=lpips:VGG16,LINEAR."
        )
    return read_tensors(path)


def _get(
    tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: str | Path
) -> np.ndarray:
    if name not in tensors or tensors[name].shape != shape:
        has = list(tensors[name].shape) if name in tensors else "nothing"
        raise UserError(
            f"{path} has {has} as {name}, and {list(shape)} is wanted; LPIPS needs the "
            "VGG-16 of torchvision and the file vgg.pth of the package lpips."
        )
    return tensors[name].astype(np.float32)
