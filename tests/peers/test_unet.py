"""The U-Net against the one of Hugging Face diffusers, fed the same weights.

Every parameter, also those that start at zero, is drawn at random in the diffusers
layout and carried to the Flax tree by name. The first shape is that of the published
google/ddpm-cifar10-32, whose weights were in turn carried over from the TensorFlow code
of Ho et al. 2020, so that agreement here is agreement with the paper's own wiring.
"""

import jax
import numpy as np
import pytest

from benchmarks.diffusers_weights import DDPM, random_weights, to_flax
from ddpm_jax.networks import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def compare(peer, net, shape, times):
    """Return the largest difference and the scale of the output over `times`."""
    rng = np.random.default_rng(0)
    weights = random_weights(peer, rng)
    params = to_flax(weights, len(net.channel_multipliers))
    x = rng.standard_normal(shape).astype(np.float32)
    t = np.asarray(times, np.int32)
    own = jax.eval_shape(net.init, jax.random.key(0), x, t)["params"]
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, params)

    actual = jax.jit(net.apply)({"params": params}, x, t)
    with torch.no_grad():
        images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        desired = peer.eval()(images, torch.from_numpy(t)).sample
    desired = desired.numpy().transpose(0, 2, 3, 1)
    return np.abs(actual - desired).max(), desired.std()


def test_equals_diffusers_in_the_shape_of_the_published_cifar10_network():
    peer = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D") + 2 * ("DownBlock2D",),
        up_block_types=2 * ("UpBlock2D",) + ("AttnUpBlock2D", "UpBlock2D"),
        **DDPM,
    )
    difference, scale = compare(peer, UNet(3), (4, 32, 32, 3), [0, 1, 500, 999])
    print(f"largest difference {difference:.2e} at output scale {scale:.2f}")
    assert 0.3 < scale < 3.0
    assert difference < 1e-4


@pytest.mark.parametrize("scale_shift", [False, True])
def test_equals_diffusers_with_several_heads_on_wide_images(scale_shift):
    # attn_norm_num_groups: else its middle attention loses its norm under scale_shift.
    groups = {"norm_num_groups": 4, "attn_norm_num_groups": 4}
    shared = DDPM | groups | {"attention_head_dim": 8}
    peer = diffusers.UNet2DModel(
        sample_size=(16, 24),
        in_channels=2,
        out_channels=5,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        **shared,
    )
    net = UNet(
        out_channels=5,
        channels=16,
        channel_multipliers=(1, 2),
        attention_resolutions=(8,),
        num_heads=4,
        num_groups=4,
        scale_shift=scale_shift,
    )
    difference, scale = compare(peer, net, (3, 16, 24, 2), [0, 10, 999])
    print(f"largest difference {difference:.2e} at output scale {scale:.2f}")
    assert 0.3 < scale < 3.0
    assert difference < 1e-4
