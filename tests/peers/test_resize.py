"""Resizing against the programs that the ways of it are named after.

The limit asked for is 1e-4 of 255; what is found is a hundred times less.
"""

import fidelity
import numpy as np
import pytest
from PIL import Image

from ddpm_jax.evaluation import resize

torch = pytest.importorskip("torch")

SIZES = [
    ((32, 32), (299, 299)),
    ((28, 31), (299, 299)),
    ((300, 517), (299, 299)),
    ((1024, 768), (299, 299)),
    ((5, 1), (7, 9)),
    ((299, 299), (299, 299)),
]


def by_torch(images, size):
    """pytorch-fid: torch.nn.functional.interpolate."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    y = torch.nn.functional.interpolate(
        x, size=size, mode="bilinear", align_corners=False
    )
    return y.permute(0, 2, 3, 1).numpy()


def by_torch_fidelity(images, size):
    """torch-fidelity's port of TensorFlow 1."""
    part = fidelity.part("interpolate_compat_tensorflow")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    y = part.interpolate_bilinear_2d_like_tensorflow1x(
        x, size=size, align_corners=False
    )
    return y.permute(0, 2, 3, 1).numpy()


def by_pillow(images, size):
    """clean-fid: Pillow, one floating point channel at a time."""

    def channel(x):
        picture = Image.fromarray(x.astype(np.float32))
        return np.asarray(picture.resize(size[::-1], Image.BICUBIC))

    return np.stack(
        [np.stack([channel(x) for x in np.moveaxis(i, -1, 0)], -1) for i in images]
    )


PEERS = [
    (resize.tensorflow, by_torch_fidelity),
    (resize.pytorch, by_torch),
    (resize.clean, by_pillow),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("way", "peer"), PEERS, ids=["tensorflow", "pytorch", "clean"])
def test_equals_the_program_it_is_named_after(way, peer, sizes):
    there, wanted = sizes
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *there, 3)).astype(np.uint8)
    found = resize.resize(images, wanted, way.matrix_of)
    difference = np.abs(found - peer(images, wanted)).max()
    print(f"largest difference {difference:.1e} of 255")
    assert difference < 1e-4 * 255


def test_the_ways_are_three():
    """On noise they are far apart, so that none can stand in for another."""
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    found = [peer(images, (299, 299)) for _, peer in PEERS]
    for one in range(3):
        for other in range(one):
            assert np.abs(found[one] - found[other]).mean() > 5
