"""Parameter names of improved-diffusion and guided-diffusion.

The lists of their names are numbered through all levels; see openai.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.weights.pretrained import Path

_TOP = {
    **{"conv_in": "input_blocks.0.0", "time_0": "time_embed.0"},
    **{"time_1": "time_embed.2", "label": "label_emb"},
    **{"mid_block_0": "middle_block.0", "mid_attention": "middle_block.1"},
    **{"mid_block_1": "middle_block.2", "norm_out": "out.0", "conv_out": "out.2"},
}
_INNER = {
    **{"norm_0": "in_layers.0", "conv_0": "in_layers.2", "embedding": "emb_layers.1"},
    **{"norm_1": "out_layers.0", "conv_1": "out_layers.3"},
    **{"shortcut": "skip_connection", "norm": "norm", "out": "proj_out"},
    **{name: f"qkv.{name}" for name in ("query", "key", "value")},
}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"} | {
    "bias": "bias"
}


class Plan(NamedTuple):
    """The network's structure, inferred from the shapes.

    Attributes:
        channels: of the first level.
        multipliers: of every level.
        num_res_blocks: of every level on the way down.
        attends: whether a level has attention.
        resamples: halving and doubling are blocks of their own (resblock_updown).
        scales: the embedding scales and shifts (use_scale_shift_norm).
    """

    channels: int
    multipliers: tuple[int, ...]
    num_res_blocks: int
    attends: tuple[bool, ...]
    resamples: bool
    scales: bool


def name_of(plan: Plan) -> Callable[[Path], str]:
    """Make the map from a leaf's path in our U-Net to the name of their tensor."""
    stages = _stages(plan)

    def name(path: Path) -> str:
        top, *inner, leaf = path
        *rest, last = (stages[top], *(_INNER[part] for part in inner))
        if last.startswith("qkv."):
            rest, last = [*rest, "qkv"], last.removeprefix("qkv.")
            return ".".join([*rest, _LEAVES[leaf], last])
        return ".".join([*rest, last, _LEAVES[leaf]])

    return name


def _stages(plan: Plan) -> dict[str, str]:
    """Number the parts as their two lists do."""
    stages, n = dict(_TOP), 1
    last = len(plan.multipliers) - 1
    for level, attends in enumerate(plan.attends):
        for i in range(plan.num_res_blocks):
            stages[f"down_{level}_block_{i}"] = f"input_blocks.{n}.0"
            if attends:
                stages[f"down_{level}_attention_{i}"] = f"input_blocks.{n}.1"
            n += 1
        if level < last:
            inner = "" if plan.resamples else ".op"
            stages[f"down_{level}_downsample"] = f"input_blocks.{n}.0{inner}"
            n += 1
    n = 0
    for level, attends in reversed(list(enumerate(plan.attends))):
        for i in range(plan.num_res_blocks + 1):
            stages[f"up_{level}_block_{i}"] = f"output_blocks.{n}.0"
            if attends:
                stages[f"up_{level}_attention_{i}"] = f"output_blocks.{n}.1"
            if level > 0 and i == plan.num_res_blocks:
                place = 2 if attends else 1
                inner = "" if plan.resamples else ".conv"
                stages[f"up_{level}_upsample"] = f"output_blocks.{n}.{place}{inner}"
            n += 1
    return stages


def unpacked(
    name: str, tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Part every packed qkv into "...qkv.weight.query" and so on.

    Args:
        name: of the checkpoint, for messages.
        tensors: by name; a packed one is [3C, C, 1] or [3C].
        given: the user's options: how many heads, and the order of packing.

    Raises:
        UserError: an order that is not known, or heads that do not divide the channels.
    """
    order = given.get("qkv_order", "legacy")
    if order not in ("legacy", "new"):
        raise UserError(
            f"--qkv-order={order} is not known; use legacy, or new if "
            "the model was trained with use_new_attention_order."
        )
    renamed = {}
    for key, value in tensors.items():
        if ".qkv." not in key:
            renamed[key] = value
            continue
        rows, rest = value.shape[0], value.shape[1:]
        heads = given.get("network.num_heads", 1)
        if given.get("network.head_channels"):
            heads = rows // 3 // given["network.head_channels"]
        if heads < 1 or rows % (3 * heads):
            raise UserError(
                f"{name}: the {rows // 3} channels of {key} do not part into "
                f"config.network.num_heads={heads}; give the number that it was "
                "trained with."
            )
        depth = rows // 3 // heads
        if order == "legacy":  # each head has its query, key and value in a row
            parts = value.reshape(heads, 3, depth, *rest).swapaxes(0, 1)
        else:
            parts = value.reshape(3, heads, depth, *rest)
        for kind, part in zip(("query", "key", "value"), parts, strict=True):
            renamed[f"{key}.{kind}"] = part.reshape(rows // 3, *rest)
    return renamed
