"""One network in two libraries: the U-Net of diffusers, and its weights in Flax.

The wiring is that of the published google/ddpm-cifar10-32, whose weights were in turn
carried over from the TensorFlow code of Ho et al. 2020. Parameters are carried from
diffusers to Flax by name. `tests/peers/test_unet.py` proves the outputs equal, and
`benchmarks.peers` does so again before it times anything.
"""

import re
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.networks.unet import UNet

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

_RENAMED = [
    (r"time_embedding\.linear_([12])", lambda m: f"time_{int(m[1]) - 1}"),
    (r"class_embedding", "label"),
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


def options_of(
    net: UNet, height: int, width: int, channels: int, num_classes: int | None
) -> dict[str, Any]:
    """Return the arguments that make diffusers' UNet2DModel this network.

    Args:
        net: the U-Net.
        height: rows of the images, pixels.
        width: columns of the images, pixels.
        channels: of the images.
        num_classes: that it is conditioned on, None for none.

    Raises:
        UserError: diffusers has no such network.
    """
    if net.patch != 1:
        raise UserError(
            f"patch={net.patch}, and diffusers' U-Net works on pixels; use patch=1."
        )
    levels = range(len(net.channel_multipliers))
    attends = [min(height, width) >> i in net.attention_resolutions for i in levels]
    widths = [net.channels * multiplier for multiplier in net.channel_multipliers]
    attended = {widths[i] for i in levels if attends[i]} | {widths[-1]}
    if net.num_heads > 1 and len(attended) > 1:
        raise UserError(
            f"num_heads={net.num_heads} on levels of {sorted(attended)} channels; "
            "diffusers fixes the width of a head and not their number: use 1 head."
        )
    heads = None if net.num_heads == 1 else widths[-1] // net.num_heads
    return DDPM | {
        "sample_size": (height, width),
        "in_channels": channels,
        "out_channels": net.out_channels,
        "block_out_channels": tuple(widths),
        "down_block_types": tuple("Attn" * a + "DownBlock2D" for a in attends),
        "up_block_types": tuple("Attn" * a + "UpBlock2D" for a in reversed(attends)),
        "layers_per_block": net.num_res_blocks,
        "norm_num_groups": net.num_groups,
        # Else the middle attention loses its normalization under scale_shift.
        "attn_norm_num_groups": net.num_groups,
        "attention_head_dim": heads,
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        "num_class_embeds": None if num_classes is None else num_classes + 1,
        "dropout": net.dropout,
    }


def random_weights(module: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fill a torch module with numbers that keep the activations near one.

    All of them, also those that start at zero, so that nothing drops out of a
    comparison.

    Args:
        module: a `torch.nn.Module`.
        rng: what to draw from.

    Returns:
        The numbers, float32, by the names of the module.
    """
    import torch

    weights = {}
    for name, value in module.state_dict().items():
        noise = rng.standard_normal(value.shape)
        if value.ndim > 1 and "class_embedding" not in name:
            noise /= np.sqrt(np.prod(value.shape[1:]))
        elif name.endswith("weight") and value.ndim == 1:
            noise = 1 + 0.1 * noise
        elif value.ndim == 1:
            noise = 0.1 * noise
        weights[name] = noise.astype(np.float32)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    return weights


def to_flax(weights: dict[str, np.ndarray], num_levels: int) -> dict[str, Any]:
    """Carry weights of diffusers' UNet2DModel to the tree of `UNet`.

    Args:
        weights: by the names of diffusers, whose up blocks count from the coarsest.
        num_levels: of the network.

    Raises:
        ValueError: a name that is not of such a network.
    """
    params: dict[str, Any] = {}
    for name, value in weights.items():
        module, kind = name.rsplit(".", 1)
        for pattern, replacement in _RENAMED:
            module = re.sub(pattern, replacement, module)
        module = re.sub(
            r"^up_(\d)", lambda m: f"up_{num_levels - 1 - int(m[1])}", module
        )
        if module == "label":
            kind = "embedding"
        elif kind == "weight" and value.ndim == 1:
            kind = "scale"
        elif kind == "weight":
            kind = "kernel"
            if value.ndim == 4 and value.shape[2:] == (1, 1):
                value = value[:, :, 0, 0]
            value = np.moveaxis(value, (0, 1), (-1, -2))  # [.., C, C'] or [C, C']
        node = params
        for part in module.split("."):
            node = node.setdefault(part, {})
        if kind in node:
            raise ValueError(f"two weights for {module}.{kind}")
        node[kind] = value
    return params
