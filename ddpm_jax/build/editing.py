"""From a config to the editing tasks: what to run on given pictures, as one program.

A task is a function (params, keys, given) -> Edited. `given` holds one row per image
to make: "image", and what else the task needs. It owns no files and no devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build.sampling import denoiser, levels, sampler
from ddpm_jax.diffusion import editing, operators
from ddpm_jax.diffusion.denoisers import Denoiser, clip_x0
from ddpm_jax.diffusion.generate import generate, initial_noise
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.samplers import Info, Sampler, ddim
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.models.unet import UNet

Given = Mapping[str, jax.Array]
"""Rows [B, ...]: "image" in [-1, 1]; "mask", 1 where known; "other", the picture at
the end of a walk; "share" [B], how far along it; "label" of a conditional model."""


class Edited(NamedTuple):
    """What a task makes.

    Attributes:
        shown: [B, H, W, C], what the model was given, to be shown beside the result.
        x: [B, H, W, C], the result.
        film: [K, B, H, W, C], the reverse chain; the last frame is the result.
    """

    shown: jax.Array
    x: jax.Array
    film: jax.Array


Task = Callable[[Any, jax.Array, Given], Edited]
"""(params, keys [B], given) -> Edited."""


class _Chain(NamedTuple):
    """The parts that all tasks share."""

    config: ConfigDict
    denoise: Denoiser
    sampler: Sampler
    levels: Level
    keys: jax.Array
    cond: Any
    clip: bool  # whether `config.sample` asks for it

    def noise(self, image: jax.Array) -> jax.Array:
        return initial_noise(self.keys, image.shape[1:])

    def visited(self) -> Level:
        """The levels that a given picture is taken through."""
        return editing.start_at(self.levels, self.config.edit.strength)

    def run(self, x_init: jax.Array, **changes: Any) -> tuple[jax.Array, jax.Array]:
        """Run the chain; return x and its film."""
        chain = self._replace(**changes)
        num_steps = chain.levels.alpha.shape[0] - 1

        def record(info: Info) -> jax.Array:
            return info.x_s

        return generate(
            chain.keys,
            chain.sampler,
            chain.denoise,
            x_init,
            chain.levels,
            cond=chain.cond,
            record=record,
            num_records=min(chain.config.sample.film_frames, num_steps),
        )


def task(config: ConfigDict, mode: str, unet: UNet) -> Task:
    """Build the task of a mode of the program.

    Args:
        config: its `sample` says how chains are run, its `edit` what is done.
        mode: a key of `TASKS`.
        unet: the network.
    """
    method = config.edit.method or METHODS[mode][0]
    body = TASKS[mode]
    clip = config.sample.clip
    if {"encode", "guidance"} & {mode, method}:
        # Clipping is no part of the ODE, and what it throws away cannot be decoded; and
        # no gradient passes through a clamp that acts.
        config = config.copy_and_resolve_references()
        config.sample.clip = False
        config.sample.dynamic_percentile = 0.0

    def run(params: Any, keys: jax.Array, given: Given) -> Edited:
        label = given.get("label")
        chain = _Chain(
            config,
            denoiser(config, unet, params),
            sampler(config),
            levels(config),
            keys,
            None if label is None else {"label": label},
            clip,
        )
        return body(chain, given, method)

    return run


def check_edit(config: ConfigDict, mode: str, image_shape: tuple[int, ...]) -> None:
    """Refuse what cannot work, before any compile.

    Raises:
        UserError: an option of `config.edit` is unknown, out of range, or does not fit
            images of this shape (H, W, C).
    """
    options, methods = config.edit, METHODS[mode]
    if options.method not in (None, *methods):
        raise UserError(
            f"config.edit.method={options.method!r} is not a way to {mode}; use "
            f"{', '.join(methods)}."
        )
    if not 0 < options.strength <= 1:
        raise UserError(
            f"config.edit.strength={options.strength} is not in (0, 1]; 1 starts from "
            "pure noise, small values change little."
        )
    for name in ("num_images", "num_points", "num_resamples", "iterations"):
        if options[name] < 1:
            raise UserError(
                f"config.edit.{name}={options[name]} is too small; use 1 or more."
            )
    if options.weight <= 0:
        raise UserError(
            f"config.edit.weight={options.weight} guides nowhere; use more than 0."
        )
    if mode == "inpaint" and (options.method or methods[0]) == "repaint":
        # Raises if the jumps do not fit the chain.
        _walked_again(config, levels(config))
    height, width, channels = image_shape
    if mode == "upscale" and (
        options.factor < 2 or height % options.factor or width % options.factor
    ):
        raise UserError(
            f"config.edit.factor={options.factor} does not divide images of "
            f"{height}x{width}; use a divisor of both sides, 2 or more."
        )
    if mode == "colorize" and channels != 3:
        raise UserError(
            f"--mode=colorize got a model of {channels} channel(s); it wants one of "
            "colour images (3 channels)."
        )


# --- The tasks ------------------------------------------------------------------------


def _inpaint(chain: _Chain, given: Given, method: str) -> Edited:
    image, known = given["image"], given["mask"]
    x_init = chain.noise(image)
    shown = jnp.where(known > 0, image, 0.0)  # mid grey where nothing is known
    if method in ("repaint", "replace"):
        visited = chain.levels
        if method == "repaint":
            visited = _walked_again(chain.config, visited)
        kept = editing.inpaint(chain.sampler, image, known)
        x, film = chain.run(x_init, sampler=kept, levels=visited)
    else:
        operator = operators.mask_operator(known)
        x, film = _restore(chain, operator, operator.apply(image), x_init, method)
    return Edited(shown, jnp.where(known > 0, image, x), film)


def _walked_again(config: ConfigDict, visited: Level) -> Level:
    options = config.edit
    jump_length = options.jump_length
    if jump_length is None:  # the paper's share of the chain
        jump_length = max(1, (visited.alpha.shape[0] - 1) // 25)
    return editing.repaint_grid(visited, jump_length, options.num_resamples)


def _restore(
    chain: _Chain,
    operator: operators.Operator,
    y: jax.Array,
    x_init: jax.Array,
    method: str,
) -> tuple[jax.Array, jax.Array]:
    """Draw an image of which y = A x is known, by one of the two ways."""
    if method == "project":
        return chain.run(x_init, denoise=editing.project(chain.denoise, operator, y))
    guided = editing.reconstruction_guidance(
        chain.denoise, operator, y, chain.config.edit.weight
    )
    return chain.run(x_init, denoise=clip_x0(guided) if chain.clip else guided)


def _image_to_image(chain: _Chain, given: Given, method: str) -> Edited:
    del method
    visited = chain.visited()
    first = jax.tree.map(lambda leaf: leaf[0], visited)
    shown = add_noise(given["image"], chain.noise(given["image"]), first)
    return Edited(shown, *chain.run(shown, levels=visited))


def _interpolate(chain: _Chain, given: Given, method: str) -> Edited:
    a, b, share = given["image"], given["other"], given["share"]
    if method == "noise":
        visited = chain.visited()
        first = jax.tree.map(lambda leaf: leaf[0], visited)
        eps = chain.noise(a)  # the same for both ends and for the whole walk
        mixed = editing.lerp(add_noise(a, eps, first), add_noise(b, eps, first), share)
        return Edited(mixed, *chain.run(mixed, levels=visited))
    mixed = editing.slerp(_encoded(chain, a), _encoded(chain, b), share)
    return Edited(mixed, *_decoded(chain, mixed))


def _encode(chain: _Chain, given: Given, method: str) -> Edited:
    del method
    code = _encoded(chain, given["image"])
    return Edited(code, *_decoded(chain, code))


def _encoded(chain: _Chain, image: jax.Array) -> jax.Array:
    """Walk the deterministic chain from the clean image towards its noise.

    As far as `strength` says. Near pure noise eps(x_t) is all but x_t itself, and the
    equation behind a step says next to nothing of x_t: on the cosine schedule a code of
    strength 1 cannot be decoded.
    """
    upwards = jax.tree.map(lambda leaf: leaf[::-1], chain.visited())
    sampler = editing.invert(chain.config.edit.iterations)
    return chain.run(image, sampler=sampler, levels=upwards)[0]


def _decoded(chain: _Chain, code: jax.Array) -> tuple[jax.Array, jax.Array]:
    return chain.run(code, sampler=ddim(0.0), levels=chain.visited())


def _colorize(chain: _Chain, given: Given, method: str) -> Edited:
    operator = operators.grey_operator(given["image"].shape[-1])
    return _restored(chain, operator, given["image"], method)


def _upscale(chain: _Chain, given: Given, method: str) -> Edited:
    operator = operators.average_pool(chain.config.edit.factor, axes=(-3, -2))
    return _restored(chain, operator, given["image"], method)


def _restored(
    chain: _Chain, operator: operators.Operator, image: jax.Array, method: str
) -> Edited:
    """Measure an image, and draw one that measures the same."""
    y = operator.apply(image)
    return Edited(
        operator.pinv(y), *_restore(chain, operator, y, chain.noise(image), method)
    )


TASKS: Mapping[str, Callable[[_Chain, Given, str], Edited]] = {
    "inpaint": _inpaint,
    "image-to-image": _image_to_image,
    "interpolate": _interpolate,
    "encode": _encode,
    "colorize": _colorize,
    "upscale": _upscale,
}
METHODS: Mapping[str, tuple[str, ...]] = {  # the first is the default
    "inpaint": ("repaint", "replace", "project", "guidance"),
    "image-to-image": ("sdedit",),
    "interpolate": ("encode", "noise"),
    "encode": ("ddim",),
    "colorize": ("project", "guidance"),
    "upscale": ("project", "guidance"),
}
