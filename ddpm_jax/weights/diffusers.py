"""The folder of a Hugging Face diffusers model, in and out.

    FOLDER/                    or, as a pipeline is saved, FOLDER/
        config.json                model_index.json
        scheduler_config.json      unet/config.json
        diffusion_pytorch_model    unet/diffusion_pytorch_model.safetensors
            .safetensors           scheduler/scheduler_config.json

The weights may also be in a .bin file, which is a pickle, and is read without being
run. Their up blocks are counted from the coarsest, ours from the finest.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path as File
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.weights import diffusers_scheduler, diffusers_unet
from ddpm_jax.weights.pretrained import Path, Pretrained, sizes_of_run
from ddpm_jax.weights.safetensors_file import read_safetensors, write_safetensors
from ddpm_jax.weights.torch_file import read_tensors
from ddpm_jax.weights.torch_layout import to_torch

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED_WEIGHTS = "diffusion_pytorch_model.bin"
INDEX = "model_index.json"

_TOP = {
    "conv_in": "conv_in",
    "time_0": "time_embedding.linear_1",
    "time_1": "time_embedding.linear_2",
    "label": "class_embedding",
    "mid_block_0": "mid_block.resnets.0",
    "mid_attention": "mid_block.attentions.0",
    "mid_block_1": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
_INNER = {
    **{"norm_0": "norm1", "conv_0": "conv1", "embedding": "time_emb_proj"},
    **{"norm_1": "norm2", "conv_1": "conv2", "shortcut": "conv_shortcut"},
    **{"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v"},
    "out": "to_out.0",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"} | {
    "bias": "bias"
}
# Their names of the attention before 2023.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_STAGE = re.compile(r"(down|up)_(\d+)_(block|attention|downsample|upsample)_?(\d*)")


def name_of(num_levels: int) -> Callable[[Path], str]:
    """Make the map from a leaf's path in our U-Net to the name of their tensor."""

    def name(path: Path) -> str:
        top, *inner, leaf = path
        parts = [_TOP.get(top) or _stage(top), *(_INNER[part] for part in inner)]
        return ".".join([*parts, _LEAVES[leaf]])

    def _stage(top: str) -> str:
        match = _STAGE.fullmatch(top)
        assert match is not None  # all other names are in _TOP
        way, level, what, i = match.groups()
        place = int(level) if way == "down" else num_levels - 1 - int(level)
        if what.endswith("sample"):
            return f"{way}_blocks.{place}.{what}rs.0.conv"
        kind = "resnets" if what == "block" else "attentions"
        return f"{way}_blocks.{place}.{kind}.{i}"

    return name


def _is_1x1(path: Path) -> bool:
    return path[-2:] == ("shortcut", "kernel")


# --- In -------------------------------------------------------------------------------


def is_folder(folder: File) -> bool:
    """Return whether a folder holds such a model."""
    return any((folder / part / diffusers_unet.FILE).is_file() for part in ("", "unet"))


def read(folder: File, name: str, given: Mapping[str, Any]) -> Pretrained:
    """Read a model's folder.

    Args:
        folder: where it is.
        name: what to call it.
        given: the user's options, by their dotted names, for what the files leave open.

    Raises:
        UserError: a file is missing or damaged, or has unsupported settings.
    """
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    where = place / diffusers_unet.FILE
    options, config = diffusers_unet.unet_options(
        str(where), settings_in(where), given.get("data.image_size")
    )
    scheduler = _scheduler_file(folder)
    if scheduler is None:
        raise UserError(
            f"{folder} has no {diffusers_scheduler.FILE}, and without it the noise "
            "that the model was trained with is not known; put that file beside "
            "config.json, or into the folder scheduler."
        )
    facts, defaults = diffusers_scheduler.scheduler_options(
        str(scheduler), settings_in(scheduler)
    )
    channels, outputs = config["in_channels"], config["out_channels"]
    learned = facts["variance"] == "learned"
    if channels not in (1, 3) or outputs != channels * (2 if learned else 1):
        raise UserError(
            f"{where} has in_channels={channels} and out_channels={outputs}; images "
            "have 1 or 3, and as many come out, or twice as many where the variance is "
            "learned_range."
        )
    height, width = config["sample_size"]
    defaults["network"] = {"dropout": float(config["dropout"])}
    defaults["data"] = {
        "image_size": height if height == width else (height, width),
        "channels": channels,
    }
    conditioners = {}
    if config["num_class_embeds"] is not None:
        conditioners = {"label": {"kind": "label"}}
        defaults["condition_dropout"] = 0.0
    return Pretrained(
        name=name,
        image_shape=(height, width, channels),
        num_classes=config["num_class_embeds"],
        facts={
            "network": {"kind": "unet", **options},
            "conditioners": conditioners,
            **facts,
        },
        defaults=defaults
        | {"sample": defaults["sample"] | sizes_of_run(height, width)["sample"]},
        tensors=tensors_in(place),
        name_of=name_of(len(options["channel_multipliers"])),
        flips_time=config["flip_sin_to_cos"],
    )


def _scheduler_file(folder: File) -> File | None:
    for part in ("scheduler", ""):
        path = folder / part / diffusers_scheduler.FILE
        if path.is_file():
            return path
    return None


def settings_in(path: File) -> dict[str, Any]:
    """Read a file of settings by name.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        return files.read_json(path)
    except (FileNotFoundError, files.DamagedError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else error
        raise UserError(f"{path} cannot be read ({reason}); fetch it again.") from error


def tensors_in(place: File) -> dict[str, np.ndarray]:
    """Read the weights of a folder, by their names of today.

    Raises:
        UserError: there are none, or they are damaged.
    """
    if (place / WEIGHTS).is_file():
        tensors = read_safetensors(place / WEIGHTS)
    elif (place / PICKLED_WEIGHTS).is_file():
        tensors = read_tensors(place / PICKLED_WEIGHTS)
    else:
        raise UserError(
            f"{place} has no weights; put {WEIGHTS} or {PICKLED_WEIGHTS}, whole and "
            "not in shards, beside config.json."
        )
    return {_new_name(name): value for name, value in tensors.items()}


def _new_name(name: str) -> str:
    start, attentions, rest = name.partition(".attentions.")
    i, _, inner = rest.partition(".")
    module, _, leaf = inner.rpartition(".")
    if not attentions or module not in _OLD:
        return name
    return f"{start}.attentions.{i}.{_OLD[module]}.{leaf}"


# --- Out ------------------------------------------------------------------------------


def write(
    folder: File,
    params: Any,
    *,
    num_levels: int,
    unet_config: Mapping[str, Any],
    scheduler_config: Mapping[str, Any],
) -> None:
    """Write a pipeline's folder; `model_index.json`, written last, marks it complete.

    Args:
        folder: where to.
        params: nested parameters of the U-Net.
        num_levels: of it.
        unet_config: from `diffusers_unet.unet_config`.
        scheduler_config: from `diffusers_scheduler.scheduler_config`.

    Raises:
        UserError: it cannot be written.
    """
    tensors = to_torch(params, name_of(num_levels), _is_1x1)
    write_safetensors(folder / "unet" / WEIGHTS, tensors)
    files.write_json(folder / "unet" / diffusers_unet.FILE, unet_config)
    files.write_json(folder / "scheduler" / diffusers_scheduler.FILE, scheduler_config)
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    files.write_json(folder / INDEX, index)
