"""The state dicts of improved-diffusion and guided-diffusion (OpenAI, .pt files).

They hold names and numbers, and no settings. The shapes give the widths, the blocks,
where attention is, the classes and whether a variance is learned; what they leave open
must be given: the size of the images, the heads, the schedule.

    input_blocks.0.0            conv_in
    input_blocks.N.0, .1        a block, and its attention where there is one
    input_blocks.N.0.op         a halving, at the end of a level, or a block that halves
    middle_block.0, .1, .2      block, attention, block
    output_blocks.N.0, .1       a block, its attention
    output_blocks.N.1 or .2     a doubling, .conv, or a block that doubles
    out.0, out.2                norm_out, conv_out

Sources:
    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", and
    Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis": the names
    and the defaults of their published code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.weights.openai_names import Plan, name_of, unpacked
from ddpm_jax.weights.pretrained import Pretrained, sizes_of_run

_FIRST, _LAST = "input_blocks.0.0.weight", "out.2.weight"
_GROUPS, _EPSILON = 32, 1e-5  # of every normalization there


def is_state_dict(tensors: Mapping[str, Any]) -> bool:
    """Return whether tensors are named as these programs name them."""
    return _FIRST in tensors


def read(
    tensors: Mapping[str, np.ndarray], name: str, given: Mapping[str, Any]
) -> Pretrained:
    """Read a state dict.

    Args:
        tensors: by name; kernels are [out, in, ...].
        name: what to call it.
        given: the user's options, by their dotted names.

    Raises:
        UserError: it is another network, or an option that it leaves open is not given.
    """
    plan = _plan(name, tensors)
    channels, learned = _images(name, tensors)
    _ask(name, given)
    size = given["data.image_size"]
    height, width = _sides(size)
    label = tensors.get("label_emb.weight")
    network = {
        "kind": "unet",
        "channels": plan.channels,
        "channel_multipliers": plan.multipliers,
        "num_res_blocks": plan.num_res_blocks,
        "attention_resolutions": tuple(
            min(height, width) >> level for level, has in enumerate(plan.attends) if has
        ),
        "num_groups": _GROUPS,
        "norm_epsilon": _EPSILON,
        "frequency_shift": 0,
        "downsample_padding": 0 if plan.resamples else 1,
        "resample_blocks": plan.resamples,
        "patch": 1,
        "scale_shift": plan.scales,
    }
    variance = {"variance": "learned"} if learned else {}
    return Pretrained(
        name=name,
        image_shape=(height, width, channels),
        num_classes=None if label is None else len(label),
        facts={
            "network": network,
            "conditioners": {} if label is None else {"label": {"kind": "label"}},
            **variance,
        },
        defaults={
            "network": {"dropout": 0.0},
            "data": {"image_size": size, "channels": channels},
            "schedule": _schedule(given),
            **({"loss": {"kind": "hybrid"}} if learned else {}),
            **({} if label is None else {"condition_dropout": 0.0}),
            **sizes_of_run(height, width),
        },
        tensors=unpacked(name, tensors, given),
        name_of=name_of(plan),
        flips_time=True,
    )


def _sides(size: Any) -> tuple[int, int]:
    """Read the size that is given, one side or two, as (height, width)."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise UserError(
            f"config.data.image_size={str(size)[:40]} is not a size; use a side such "
            "as 64, or height and width such as 64,96."
        )
    return sides


def _ask(name: str, given: Mapping[str, Any]) -> None:
    """Refuse to guess settings that a state dict does not hold."""
    options = {
        "data.image_size": "64 (side of its images, or height and width, pixels)",
        "schedule.kind": "cosine (or linear: its noise_schedule)",
        "schedule.num_levels": "4000 (its diffusion_steps)",
    }
    missing = [
        f"--config.{option}={what}"
        for option, what in options.items()
        if option not in given
    ]
    if not {"network.num_heads", "network.head_channels"} & set(given):
        missing.append(
            "--config.network.num_heads=4 (or head_channels=64: its num_head_channels)"
        )
    levels = given.get("schedule.num_levels", 1000)
    if levels < 1:
        raise UserError(
            f"config.schedule.num_levels={levels} is too small; use 1 or more."
        )
    if "data.image_size" in given:
        _sides(given["data.image_size"])
    if levels != 1000 and "schedule.t_range" not in given:
        missing.append(
            "--config.schedule.t_range=1000 (its diffusion_steps, if it was trained "
            "with rescale_timesteps=False)"
        )
    if missing:
        raise UserError(
            f"{name} is a state dict, which does not hold how it was trained; add "
            f"{', '.join(missing)}."
        )


def _schedule(given: Mapping[str, Any]) -> dict[str, Any]:
    levels, kind = given["schedule.num_levels"], given["schedule.kind"]
    if kind == "linear" and levels != 1000:
        # Their linear betas shrink with the number of levels, to end in equal noise.
        return {"kind": kind, "beta_start": 0.1 / levels, "beta_end": 20.0 / levels}
    return {"kind": kind}


# --- Settings from shapes -------------------------------------------------------------


def _plan(name: str, tensors: Mapping[str, np.ndarray]) -> Plan:
    try:
        return _read_plan(name, tensors)
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name} has {_FIRST} and not what follows it there ({error}); give the "
            "whole state dict of an unet of improved-diffusion or guided-diffusion."
        ) from error


def _check_shapes(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse shapes that no such network has."""
    for name, value in tensors.items():
        kernel = name in (_FIRST, _LAST)
        if not value.size or value.ndim < 1 or (kernel and value.ndim != 4):
            raise ValueError(f"{name[:80]} has the shape {list(value.shape)}")


def _read_plan(name: str, tensors: Mapping[str, np.ndarray]) -> Plan:
    _check_shapes(tensors)
    count = 1 + max(
        int(key.split(".")[1]) for key in tensors if key.startswith("input_blocks.")
    )
    channels = tensors[_FIRST].shape[0]
    ends = _ends_of_levels(name, tensors, count)
    levels: list[list[int]] = [[]]  # the numbers of each level's blocks
    for n in range(1, count):
        if n in ends:
            levels.append([])
        else:
            levels[-1].append(n)
    num_res_blocks = len(levels[0])
    widths = [
        tensors[f"input_blocks.{blocks[0]}.0.in_layers.2.weight"].shape[0]
        for blocks in levels
    ]
    if {len(blocks) for blocks in levels} != {num_res_blocks}:
        raise ValueError(f"levels of {[len(blocks) for blocks in levels]} blocks")
    width_of_time = tensors["time_embed.0.weight"].shape[1]
    if width_of_time != channels or any(width % channels for width in widths):
        raise UserError(
            f"{name} has levels {widths} wide beside a first convolution of {channels} "
            f"and a timestep embedding of {width_of_time}; here the embedding is as "
            "wide as the convolution, and each level a multiple of it."
        )
    attends = [f"input_blocks.{blocks[0]}.1.qkv.weight" in tensors for blocks in levels]
    return Plan(
        channels,
        tuple(width // channels for width in widths),
        num_res_blocks,
        tuple(attends),
        _resamples(tensors),
        _scales(tensors),
    )


def _ends_of_levels(
    name: str, tensors: Mapping[str, np.ndarray], count: int
) -> set[int]:
    """Return where maps are halved: by a convolution, or by a block of that kind.

    Such a block has the tensors of any other. But the way up has the ends of levels:
    there a second block follows the first at the same place, and both ways are equally
    long.

    Raises:
        UserError: the blocks are not those of such a network.
    """
    present = {key.split(".")[1] for key in tensors if key.startswith("input_blocks.")}
    if len(present) != count:
        raise UserError(
            f"{name} was trained with conv_resample=False: it halves maps without a "
            "convolution, which this U-Net does not."
        )
    if not _resamples(tensors):
        numbers = range(1, count)
        return {n for n in numbers if f"input_blocks.{n}.0.op.weight" in tensors}
    doubled = [n for n in range(count) if _second_block(tensors, n)]
    return {count - 1 - n for n in doubled}


def _second_block(tensors: Mapping[str, np.ndarray], n: int) -> bool:
    return any(
        f"output_blocks.{n}.{place}.in_layers.0.weight" in tensors for place in (1, 2)
    )


def _resamples(tensors: Mapping[str, np.ndarray]) -> bool:
    numbers = {int(k.split(".")[1]) for k in tensors if k.startswith("output_blocks.")}
    return any(_second_block(tensors, n) for n in numbers)


def _images(name: str, tensors: Mapping[str, np.ndarray]) -> tuple[int, bool]:
    """Return the channels of the images, and whether a variance is learned."""
    channels_in = tensors[_FIRST].shape[1]
    if _LAST not in tensors:
        raise UserError(
            f"{name} has no out.2.weight: it is not a diffusion model, or only a part "
            "of one."
        )
    out = tensors[_LAST].shape[0]
    if channels_in not in (1, 3) or out not in (channels_in, 2 * channels_in):
        raise UserError(
            f"{name} takes {channels_in} channels and gives {out}; images have 1 "
            "or 3, and as many come out, or twice as many with learn_sigma. An "
            "upsampler, which is conditioned on a small image too, is another kind "
            "of model."
        )
    return channels_in, out == 2 * channels_in


def _scales(tensors: Mapping[str, np.ndarray]) -> bool:
    """Inspect the embedding's projection: to scale and shift it is twice as wide."""
    wide = tensors["middle_block.0.emb_layers.1.weight"].shape[0]
    return wide == 2 * tensors["middle_block.0.in_layers.2.weight"].shape[0]
