"""The U-Net against the one of Hugging Face diffusers, fed the same weights.

Every parameter, also those that start at zero, is drawn at random in the diffusers
layout and carried to the Flax tree by name. The first shape is that of the published
google/ddpm-cifar10-32, whose weights were in turn carried over from the TensorFlow code
of Ho et al. 2020, so that agreement here is agreement with the paper's own wiring.
"""

import re

import jax
import numpy as np
import pytest

from ddpm_jax.models import UNet

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# https://huggingface.co/google/ddpm-cifar10-32/blob/main/config.json
DDPM = {
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
}


def random_weights(module, rng):
    """Fill a torch module with numbers that keep the activations near one."""
    weights = {}
    for name, value in module.state_dict().items():
        noise = rng.standard_normal(value.shape)
        if value.ndim > 1:
            noise /= np.sqrt(np.prod(value.shape[1:]))
        elif name.endswith("weight"):
            noise = 1 + 0.1 * noise
        else:
            noise = 0.1 * noise
        weights[name] = noise.astype(np.float32)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return weights


RENAMED = [
    (r"time_embedding\.linear_([12])", lambda m: f"time_{int(m[1]) - 1}"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block\.resnets\.(\d)", r"mid_block_\1"),
    (r"mid_block\.attentions\.0", "mid_attention"),
    (r"(down|up)_blocks\.(\d)\.resnets\.(\d)", r"\1_\2_block_\3"),
    (r"(down|up)_blocks\.(\d)\.attentions\.(\d)", r"\1_\2_attention_\3"),
    (r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0\.conv", r"\1_\2_\3sample"),
    (r"(norm|conv)([12])$", lambda m: f"{m[1]}_{int(m[2]) - 1}"),
    (r"time_emb_proj", "embedding"),
    (r"conv_shortcut", "shortcut"),
    (r"group_norm", "norm"),
    (r"to_out\.0", "out"),
    (r"to_q", "query"),
    (r"to_k", "key"),
    (r"to_v", "value"),
]


def to_flax(weights, num_levels):
    """Carry diffusers weights over: their up blocks are counted from the coarsest."""
    params = {}
    for name, value in weights.items():
        module, kind = name.rsplit(".", 1)
        for pattern, replacement in RENAMED:
            module = re.sub(pattern, replacement, module)
        module = re.sub(
            r"^up_(\d)", lambda m: f"up_{num_levels - 1 - int(m[1])}", module
        )
        if kind == "weight" and value.ndim == 1:
            kind = "scale"
        elif kind == "weight":
            kind = "kernel"
            if value.ndim == 4 and value.shape[2:] == (1, 1):
                value = value[:, :, 0, 0]
            value = np.moveaxis(value, (0, 1), (-1, -2))  # [.., C, C'] or [C, C']
        node = params
        for part in module.split("."):
            node = node.setdefault(part, {})
        assert kind not in node
        node[kind] = value
    return params


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
