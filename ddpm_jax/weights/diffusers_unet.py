"""config.json of a diffusers UNet2DModel <-> the options of our U-Net."""

from collections.abc import Mapping
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.weights.diffusers_settings import (
    choose,
    complete,
    key_of,
    refusal,
    sides_of,
    widths_of,
)

FILE = "config.json"

# Defaults of a UNet2DModel.
_UNET_DEFAULTS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D"] + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "num_class_embeds": None,
}
# Options of it that this U-Net has one way only.
_UNET_FIXED = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_train_timesteps": None,  # unused where times are not learned
}
_DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # with attention?
_UP = {"UpBlock2D": False, "AttnUpBlock2D": True}


def unet_options(
    where: str, settings: Mapping[str, Any], image_size: int | tuple[int, int] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the settings of a UNet2DModel.

    Args:
        where: the file, for messages.
        settings: its content.
        image_size: side of the images, or (H, W), pixels, for a file that does not
            give it.

    Returns:
        Options of our U-Net, and every setting of theirs.

    Raises:
        UserError: naming the first that this U-Net cannot be.
    """
    kind = settings.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise UserError(refusal(where, "_class_name", kind, ["UNet2DModel"]))
    config = complete(where, settings, _UNET_DEFAULTS, _UNET_FIXED)
    widths = widths_of(where, config)
    attends = _attends(where, config)
    config["sample_size"] = _sides(where, config["sample_size"], image_size)
    side = min(config["sample_size"])
    _check_norms(where, config)
    head = config["attention_head_dim"]
    options = {
        "channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "attention_resolutions": tuple(
            side >> level for level, has in enumerate(attends) if has
        ),
        "num_heads": 1,
        "head_channels": head,
        "num_groups": config["norm_num_groups"],
        "norm_epsilon": float(config["norm_eps"]),
        "frequency_shift": config["freq_shift"],
        "downsample_padding": config["downsample_padding"],
        "scale_shift": config["resnet_time_scale_shift"] == "scale_shift",
        "resample_blocks": False,
        "patch": 1,
    }
    return options, config


def _attends(where: str, config: Mapping[str, Any]) -> list[bool]:
    """Read at which levels, finest first, attention follows the blocks."""
    down = [
        choose(where, "down_block_types", kind, _DOWN)
        for kind in config["down_block_types"]
    ]
    up = [
        choose(where, "up_block_types", kind, _UP) for kind in config["up_block_types"]
    ]
    num_levels = len(config["block_out_channels"])
    if len(down) != num_levels or down != up[::-1]:
        raise UserError(
            f"{where} has down_block_types={config['down_block_types']} and "
            f"up_block_types={config['up_block_types']}, and here both have attention "
            f"at the same of the {num_levels} levels; this checkpoint is of another "
            "kind of model."
        )
    return down


def _sides(where: str, size: Any, image_size: Any) -> tuple[int, int]:
    if size is None:
        size = image_size
    if size is None:
        raise UserError(
            f"{where} does not give the size of its images (sample_size); add "
            "--config.data.image_size=SIDE, or HEIGHT,WIDTH, in pixels."
        )
    return sides_of(where, size)


def _check_norms(where: str, config: Mapping[str, Any]) -> None:
    choices = ("default", "scale_shift")
    conditioning = config["resnet_time_scale_shift"]
    if conditioning not in choices:
        raise UserError(
            refusal(where, "resnet_time_scale_shift", conditioning, choices)
        )
    for key in ("freq_shift", "downsample_padding"):
        if config[key] not in (0, 1):
            raise UserError(refusal(where, key, config[key], (0, 1)))
    groups = config["norm_num_groups"]
    # Without a number of its own, their middle attention has no normalization beside
    # scale_shift.
    allowed = (groups,) if conditioning == "scale_shift" else (None, groups)
    if config["attn_norm_num_groups"] not in allowed:
        found_groups = config["attn_norm_num_groups"]
        raise UserError(refusal(where, "attn_norm_num_groups", found_groups, allowed))


# --- The way out ----------------------------------------------------------------------


def unet_config(
    network: Mapping[str, Any],
    conditioners: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    out_channels: int,
    num_class_embeds: int | None,
) -> dict[str, Any]:
    """Write the settings of a UNet2DModel.

    Args:
        network: options of our U-Net.
        conditioners: nodes by name; the class label is the only one that it has.
        image_shape: (H, W, C).
        out_channels: of the network.
        num_class_embeds: rows of its class embedding, if it has one.

    Raises:
        UserError: naming what a UNet2DModel cannot be.
    """
    if network.get("kind", "unet") != "unet":
        raise UserError(
            f"config.network.kind={network['kind']!r}, which diffusers does not have; "
            "it has unet."
        )
    multipliers = network["channel_multipliers"]
    if multipliers[0] != 1:
        raise UserError(
            f"config.network.channel_multipliers={tuple(multipliers)} starts with "
            f"{multipliers[0]}, which diffusers cannot express: its first level is as "
            "wide as the first convolution."
        )
    for name in conditioners:
        if name != "label":
            raise UserError(
                f"config.conditioners.{name} is not written for diffusers, whose "
                "DDPMPipeline has classes at most; export a model of classes, or "
                "without a condition."
            )
    if network["resample_blocks"]:
        raise UserError(
            "config.network.resample_blocks=True, which is not written for diffusers."
        )
    if network["patch"] != 1:
        raise UserError(
            f"config.network.patch={network['patch']}, which diffusers does not have: "
            "its U-Net works on pixels; export a model with patch=1."
        )
    height, width, channels = image_shape
    sides = [min(height, width) >> level for level in range(len(multipliers))]
    attends = [side in network["attention_resolutions"] for side in sides]
    groups = network["num_groups"]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": out_channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": network["frequency_shift"],
        "flip_sin_to_cos": False,
        "down_block_types": [key_of(_DOWN, has) for has in attends],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [key_of(_UP, has) for has in attends[::-1]],
        "block_out_channels": [network["channels"] * m for m in multipliers],
        "layers_per_block": network["num_res_blocks"],
        "downsample_padding": network["downsample_padding"],
        "dropout": network["dropout"],
        "act_fn": "silu",
        "attention_head_dim": _head_dim(network, attends),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups if network["scale_shift"] else None,
        "norm_eps": network["norm_epsilon"],
        "resnet_time_scale_shift": "scale_shift"
        if network["scale_shift"]
        else "default",
        "num_class_embeds": num_class_embeds,
    }


def _head_dim(model: Mapping[str, Any], attends: list[bool]) -> int | None:
    """Express heads by their width, which is how diffusers counts them."""
    if model["head_channels"] is not None or model["num_heads"] == 1:
        return model["head_channels"]
    multipliers = model["channel_multipliers"]
    widths = {m for m, has in zip(multipliers, attends, strict=True) if has}
    widths |= {multipliers[-1]}  # the middle has attention always
    if len(widths) > 1:
        raise UserError(
            f"config.network.num_heads={model['num_heads']} over attentions of "
            "different widths, which diffusers cannot express: its heads are equally "
            "wide."
        )
    return model["channels"] * widths.pop() // model["num_heads"]
