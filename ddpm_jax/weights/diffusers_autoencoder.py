"""The folder of a diffusers AutoencoderKL, in.

FOLDER/                    the folder vae of a pipeline, or a repository of its own
    config.json
    diffusion_pytorch_model.safetensors, or .bin
"""

from collections.abc import Callable, Mapping
from pathlib import Path as File
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.weights import diffusers
from ddpm_jax.weights.diffusers_settings import (
    choose,
    complete,
    sides_of,
    widths_of,
)
from ddpm_jax.weights.diffusers_unet import FILE
from ddpm_jax.weights.pretrained import Path, Pretrained

KIND = "AutoencoderKL"

# Defaults of an AutoencoderKL.
_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": None,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
# Options of it that this network has one way only.
_FIXED = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "force_upcast": None,  # of half precision, and this is read in float32
}
_SAMPLE_SIZE = 32
_DOWN, _UP = {"DownEncoderBlock2D": True}, {"UpDecoderBlock2D": True}
_LEAVES = {"kernel": "weight", "bias": "bias"}


def is_autoencoder(folder: File) -> bool:
    """Return whether a folder holds such a model."""
    try:
        return files.read_json(folder / FILE).get("_class_name") == KIND
    except (FileNotFoundError, files.DamagedError):
        return False  # reading the file as something else will give the reason


def read(
    folder: File, name: str, image_size: int | tuple[int, int] | None
) -> Pretrained:
    """Read an autoencoder's folder.

    Args:
        folder: where it is.
        name: what to call it.
        image_size: side of the images, or (H, W), pixels, instead of the one that the
            file gives: the network takes any that halves as often as it does.

    Returns:
        The checkpoint. Its `facts` are the fields of the network, by "network", and
        "scale" and "shift" of "latents".

    Raises:
        UserError: a file is missing or damaged, or has unsupported settings.
    """
    where = folder / FILE
    config = complete(str(where), diffusers.settings_in(where), _DEFAULTS, _FIXED)
    height, width = sides_of(
        str(where), image_size or config["sample_size"] or _SAMPLE_SIZE
    )
    network = _network(str(where), config)
    scale, shift = config["scaling_factor"], config["shift_factor"]
    if not 0 < scale < float("inf"):
        raise UserError(f"{where} has scaling_factor={scale}; it has to be positive.")
    if shift is not None and not isinstance(shift, float | int):
        raise UserError(f"{where} has shift_factor={shift!r}, which is not a number.")
    return Pretrained(
        name=name,
        image_shape=(height, width, config["in_channels"]),
        num_classes=None,
        facts={
            "network": network,
            "latents": {"scale": float(scale), "shift": float(shift or 0)},
        },
        defaults={},
        tensors=diffusers.tensors_in(folder),
        name_of=name_of(len(network["channel_multipliers"])),
        flips_time=False,
    )


def _network(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    widths = widths_of(where, config)
    for key, table in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        for kind in config[key]:
            choose(where, key, kind, table)
        if len(config[key]) != len(widths):
            raise UserError(
                f"{where} has {len(config[key])} {key} and {len(widths)} "
                "block_out_channels; the file is damaged: fetch it again."
            )
    for one, other in (
        ("in_channels", "out_channels"),
        ("use_quant_conv", "use_post_quant_conv"),
    ):
        if config[one] != config[other]:
            raise UserError(
                f"{where} has {one}={config[one]} and {other}={config[other]}, and "
                "here they are equal; this checkpoint is of another kind of model."
            )
    return {
        "image_channels": config["in_channels"],
        "latent_channels": config["latent_channels"],
        "channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "num_groups": config["norm_num_groups"],
        "norm_epsilon": 1e-6,
        "attention": config["mid_block_add_attention"],
        "quant_convs": config["use_quant_conv"],
    }


def name_of(num_levels: int) -> Callable[[Path], str]:
    """Make the map from a leaf's path in our autoencoder to the name of their tensor.

    Either half is named as that of a U-Net is.
    """
    in_half = diffusers.name_of(num_levels)

    def name(path: Path) -> str:
        part, *rest = path
        if part in ("encoder", "decoder"):
            return f"{part}.{in_half(tuple(rest))}"
        return f"{part}.{_LEAVES[path[-1]]}"  # of quant_conv and post_quant_conv

    return name
