"""Compiled programs of the chain in parts, cached for later requests.

A part is a loop whose ends are arguments, over levels padded to one length. So one
compiled program serves every seed, label, number of steps and strength; another
sampler, guidance or number of images makes another.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax import config
from ddpm_jax.build import Leg
from ddpm_jax.diffusion.generate import generate_part, image_keys
from ddpm_jax.diffusion.samplers import Info, State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.runtime.devices import replicated, rows
from ddpm_jax.runtime.images import to_uint8

MOST_KEPT = 8

# What reaches a program through its arguments, or not at all.
_OF_SAMPLE = {
    "labels",
    "prompt",
    "negative_prompt",
    "picture",
    "seed",
    "num_images",
    "batch_size",
    "film_frames",
} | {*("film_images", "num_steps", "spacing", "step", "ema", "ema_std")}
_OF_EDIT = {"image", "mask", "num_images", "strength", "num_points"} | {
    *("jump_length", "num_resamples")
}


class Seen(NamedTuple):
    """What is shown of a step: uint8 [B, H, W, C] each."""

    x: jax.Array  # the chain after it
    x0: jax.Array  # what the network took the image to be


class Program(NamedTuple):
    """A leg, compiled. All begin with (params, key, indices [B], given, levels).

    Attributes:
        begin: -> (State, x_init uint8, shown uint8).
        advance: and (state, start, stop) -> (State, Seen).
        finish: and (state) -> (x float, its pixels uint8, finite [B]).
    """

    begin: Callable[..., tuple]
    advance: Callable[..., tuple]
    finish: Callable[..., tuple]


def compile_leg(leg: Leg, mesh: Mesh) -> Program:
    """Make the programs of a leg; they are compiled when they are first called.

    Args:
        leg: from `build`. Of its levels nothing is used.
        mesh: rows are spread over it as the command line spreads them.
    """
    everywhere, by_row = replicated(mesh), rows(mesh)

    def laid_out(state: State) -> State:
        """Keep what is like x spread like x, so that parts fit each other."""
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(
                leaf, by_row if leaf.shape == state.x.shape else everywhere
            ),
            state,
        )

    def record(info: Info) -> tuple[jax.Array, jax.Array]:
        return info.x_s, info.prediction.x0

    def start(params: Any, key: Any, indices: Any, given: Any, levels: Level) -> tuple:
        keys = image_keys(key, indices)
        return keys, leg.walk(params, keys, given, levels)

    def begin(*task: Any) -> tuple:
        _, walk = start(*task)
        state = walk.sampler.init(walk.x_init)
        first = to_uint8(walk.see(walk.x_init))
        return laid_out(state), first, to_uint8(walk.shown)

    def advance(*given: Any) -> tuple:
        *task, state, first, last = given
        keys, walk = start(*task)
        state, last_step = generate_part(
            keys,
            walk.sampler,
            walk.denoise,
            state,
            task[-1],
            (first, last),
            cond=walk.cond,
            record=record,
        )
        # Once a part, not once a step: it may be a decoder that sees.
        return laid_out(state), Seen(*(to_uint8(walk.see(x)) for x in last_step))

    def finish(*given: Any) -> tuple:
        *task, state = given
        seen = start(*task)[1].see_result(state.x)
        finite = jnp.isfinite(seen).all(axis=range(1, seen.ndim))
        return state.x, to_uint8(seen), finite

    task = (everywhere, everywhere, by_row, by_row, everywhere)
    return Program(
        jax.jit(begin, in_shardings=task),
        jax.jit(advance, in_shardings=(*task, None, everywhere, everywhere)),
        jax.jit(finish, in_shardings=(*task, None), out_shardings=by_row),
    )


def padded_length(levels: Level, num_levels: int) -> int:
    """Choose a length, a power of two, that most chains of a schedule can have."""
    return 1 << max(len(levels.alpha) - 1, num_levels).bit_length()


def padded(levels: Level, num_levels: int) -> Level:
    """Repeat the last level up to `padded_length`: leaves [N + 1] become [M]."""
    missing = padded_length(levels, num_levels) - len(levels.alpha)
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, missing), mode="edge"), levels)


Programs = Callable[..., tuple[Program, ...]]
"""(mode, legs, cfg, batch size, mesh) -> a program for each leg, kept or new."""


def keeper(most: int = MOST_KEPT) -> Programs:
    """Keep the programs of the last `most` kinds of task that were asked for."""
    kept: OrderedDict[str, tuple[Program, ...]] = OrderedDict()

    def programs(
        mode: str, legs: tuple[Leg, ...], cfg: ConfigDict, batch_size: int, mesh: Mesh
    ) -> tuple[Program, ...]:
        name = _name(mode, legs, cfg, batch_size)
        if name not in kept:
            kept[name] = tuple(compile_leg(leg, mesh) for leg in legs)
        kept.move_to_end(name)
        while len(kept) > most:
            kept.popitem(last=False)
        return kept[name]

    return programs


def _name(mode: str, legs: tuple[Leg, ...], cfg: ConfigDict, batch_size: int) -> str:
    """Name a kind of task after all that its programs have built in."""
    stored = config.to_json(cfg)
    own = _OF_SAMPLE
    if cfg.sample.churn:  # whose amount is shared out over the steps
        own = own - {"num_steps"}
    sample = {k: v for k, v in stored["sample"].items() if k not in own}
    edit = {k: v for k, v in stored["edit"].items() if k not in _OF_EDIT}
    lengths = [padded_length(leg.levels, cfg.diffusion.num_levels) for leg in legs]
    return json.dumps([mode, batch_size, lengths, sample, edit], sort_keys=True)
