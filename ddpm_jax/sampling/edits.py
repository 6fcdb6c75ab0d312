"""Edits of images as sampling plans: for each mode and method, the stages.

    inpaint         fill what a mask leaves out
    extend          the same of a clip whose first frames are known
    image-to-image  noise an image part of the way, and sample from there (SDEdit)
    interpolate     go from one image to another
    encode          invert the deterministic chain, and decode it again
    colorize        sample the colors of a grey image
    upscale         sample an image whose block means are given
    variations      sample images with the image embedding of one
    text-diff       turn the image embedding of one toward the difference of two texts

The last two are of a decoder of image embeddings z (unCLIP), as are `encode`
and `interpolate` of one: an image is encoded as (z, x_T), x_T by the deterministic
chain given z, and both are blended on great circles.

Rows by name: "image" [B, H, W, C] in [-1, 1]; "mask", 1 where known; "other", the image
at the far end of an interpolation, and "share" [B], how far along it; whatever the
model is conditioned on; and "other_embedding" [B, D], the embedding at the far end.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 3: variations, interpolations, text diffs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import limits
from ddpm_jax.codecs import Params
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.diffusion import editing, operators
from ddpm_jax.diffusion.denoisers import Denoiser, clip_x0
from ddpm_jax.diffusion.generate import initial_noise
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.samplers import Sampler, ddim
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.plan import Chain, Given, Model, Plan, Stage

MAX_WEIGHT = 1000.0
"""Far beyond any weight that is of use: more leaves no digit of the image."""

OTHER_EMBEDDING = "other_embedding"
"""Among the rows: the embedding [B, D] that `image_embedding` is turned toward."""

TRAINED = "trained"  # the only method of an image-conditional model
METHODS: Mapping[str, tuple[str, ...]] = {  # the first is the default
    "inpaint": ("repaint", "replace", "project", "guidance"),
    "extend": ("guidance", "repaint", "replace"),
    "image-to-image": ("sdedit",),
    "interpolate": ("encode", "noise"),
    "encode": ("ddim",),
    "colorize": ("project", "guidance"),
    "upscale": ("project", "guidance"),
    "variations": ("embedding",),
    "text-diff": ("encode",),
}
ENCODING = ("ddim", "encode")  # deterministic DDIM turned round, and back
OF_EMBEDDINGS = ("variations", "text-diff")  # of a decoder of image embeddings
OF_EMBEDDED = (*OF_EMBEDDINGS, "encode", "interpolate")  # embed what they are given
OF_FRAMES = ("extend", "inpaint")  # that a model of known frames was trained for
OF_PIXELS = ("colorize", "upscale")  # what is measured there is linear in pixels


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is done to an image.

    Attributes:
        mode: a key of `METHODS`.
        method: one of the mode's, or `TRAINED` with a model that was trained for it.
        strength: share of the chain that a given image is taken through.
        factor: of upscale, how many times larger the image is made.
        weight: of method guidance; above 2 it may diverge.
        jump_length: steps that repaint goes back; None for a 25th of the chain.
        num_resamples: passes of repaint through each stretch.
        iterations: of the equation behind each step of an encoding.
    """

    mode: str
    method: str
    strength: float = 0.5
    factor: int = 2
    weight: float = 1.0
    jump_length: int | None = None
    num_resamples: int = 10
    iterations: int = 3

    def __post_init__(self) -> None:
        if self.mode not in METHODS:
            raise UserError(
                f"mode={self.mode!r} is not known; use {', '.join(METHODS)}."
            )
        if self.method not in (*METHODS[self.mode], TRAINED):
            raise UserError(
                f"method={self.method!r} is not a way to {self.mode}; use "
                f"{', '.join(METHODS[self.mode])}."
            )
        if not 0 < self.strength <= 1:
            raise UserError(
                f"strength={self.strength} is not in (0, 1]; 1 starts from pure noise, "
                "small values change little."
            )
        limits.at_least(self, 1, "num_resamples", "iterations")
        if not 0 < self.weight <= MAX_WEIGHT:
            raise UserError(
                f"weight={self.weight} is out of range; use more than 0, up to "
                f"{MAX_WEIGHT:g}, such as 1."
            )

    @property
    def is_unclipped(self) -> bool:
        """Whether the model's own x0 must not be clipped.

        Clipping is not part of the ODE, and what it discards cannot be decoded; and
        no gradient passes through a clamp that acts.
        """
        return bool({"encode", "guidance"} & {self.mode, self.method})

    def check_shape(self, item_shape: tuple[int, ...]) -> None:
        """Refuse items, (H, W, C) of images, that this edit is not defined on.

        Raises:
            UserError: saying why.
        """
        if self.mode == "extend" and len(item_shape) != 4:
            raise UserError(
                "extend makes clips longer, and this model's items are "
                f"{'x'.join(map(str, item_shape))}; name a model of clips."
            )
        if self.mode not in OF_PIXELS:
            return
        if len(item_shape) != 3:
            raise UserError(
                f"{self.mode} is of images, and this model's items are "
                f"{'x'.join(map(str, item_shape))}; use "
                f"{', '.join(mode for mode in METHODS if mode not in OF_PIXELS)}."
            )
        height, width, channels = item_shape
        factor = self.factor
        if self.mode == "upscale" and (factor < 2 or height % factor or width % factor):
            raise UserError(
                f"factor={factor} does not divide images of {height}x{width}; use a "
                "divisor of both sides, 2 or more."
            )
        if self.mode == "colorize" and channels != 3:
            raise UserError(
                f"colorize got a model of {channels} channel(s); it wants one of "
                "color images (3 channels)."
            )

    def repaint_levels(self, levels: Level) -> Level:
        """Lay out the levels of RePaint on those of a chain, [N + 1].

        Raises:
            UserError: if the jumps do not fit the chain.
        """
        jump_length = self.jump_length
        if jump_length is None:  # the paper's share of the chain
            jump_length = max(1, (levels.alpha.shape[0] - 1) // 25)
        return editing.repaint_grid(levels, jump_length, self.num_resamples)


def edit_plan(edit: Edit, model: Model) -> Plan:
    """Describe an edit: its stages, each of which gets the results of those before.

    Args:
        edit: what is done.
        model: with what.
    """
    stages = _STAGES[edit.mode](edit)
    return tuple(
        Stage(
            part.makes,
            part.levels(edit, model.levels),
            _begin(part, edit, model),
            model.codec.store,
        )
        for part in stages
    )


class _Context(NamedTuple):
    """What the chain of a stage is made of."""

    edit: Edit
    model: Model
    params: Params
    keys: jax.Array
    levels: Level
    denoise: Denoiser
    sampler: Sampler

    def noise(self, image: jax.Array) -> jax.Array:
        """Sample x_T for images [B, H, W, C] like these, of the same shape."""
        return initial_noise(self.keys, image.shape[1:])

    def first_level(self) -> Level:
        """Return the level at which the chain starts."""
        return jax.tree.map(lambda leaf: leaf[0], self.levels)

    def chain(
        self,
        given: Given,
        x_init: jax.Array,
        *,
        sampler: Sampler | None = None,
        denoise: Denoiser | None = None,
    ) -> Chain:
        """Start at x_init [B, H, W, C], with the sampler of the model or another."""
        decode = partial(self.model.codec.decode, self.params.codec)
        return Chain(
            self.keys,
            x_init,
            sampler or self.sampler,
            denoise or self.denoise,
            self.model.condition(self.params, given),
            decode,
            decode,
            decode(x_init),
        )


class _Part(NamedTuple):
    """A stage, as far as mode and method decide."""

    makes: str
    levels: Callable[[Edit, Level], Level]
    begin: Callable[[_Context, Given], Chain]


def _begin(part: _Part, edit: Edit, model: Model) -> Callable[..., Chain]:
    def begin(params: Params, keys: jax.Array, given: Given, levels: Level) -> Chain:
        context = _Context(
            edit,
            model,
            params,
            keys,
            levels,
            model.denoiser(params),
            model.sampler(),
        )
        return _keep_known(part.begin(context, _encoded(given, context)), given)

    return begin


def _encoded(given: Given, context: _Context) -> Given:
    """Bring what is given in pixels to where the chain is.

    The values of the image inside of the hole are ignored.
    """
    codec, params, encoded = context.model.codec, context.params.codec, dict(given)
    if "mask" in given:
        encoded["mask"] = codec.reduce(given["mask"])
        encoded["image"] = codec.encode(params, _without_hole(given))
    elif "image" in given:
        encoded["image"] = codec.encode(params, given["image"])
    if "other" in given:
        encoded["other"] = codec.encode(params, given["other"])
    return encoded


def _without_hole(given: Given) -> jax.Array:
    return jnp.where(given["mask"] > 0, given["image"], 0.0)  # mid grey


def _keep_known(chain: Chain, given: Given) -> Chain:
    """Lay the known pixels over the result, which may have been decoded."""
    if "mask" not in given:
        return chain
    image, known = given["image"], given["mask"]
    return chain._replace(
        condition_preview=_without_hole(given),
        decode_result=lambda x: jnp.where(known > 0, image, chain.decode(x)),
    )


# --- Levels ---------------------------------------------------------------------------


def _whole(edit: Edit, levels: Level) -> Level:
    del edit
    return levels


def _partly(edit: Edit, levels: Level) -> Level:
    """Lay out the levels that a given image is taken through."""
    return editing.start_at(levels, edit.strength)


def _upwards(edit: Edit, levels: Level) -> Level:
    return jax.tree.map(lambda leaf: leaf[::-1], _partly(edit, levels))


def _for_inpainting(edit: Edit, levels: Level) -> Level:
    return edit.repaint_levels(levels) if edit.method == "repaint" else levels


# --- Chains ---------------------------------------------------------------------------


def _trained(context: _Context, given: Given) -> Chain:
    """Sample from an image-conditional model that was trained for the edit."""
    image, of = given["image"], context.model.image_condition
    assert of is not None  # the method is only allowed with such a model
    cond, preview = of(context.keys, given)
    chain = context.chain({**given, **cond}, context.noise(image))
    return chain._replace(condition_preview=preview)


def _inpaint(context: _Context, given: Given) -> Chain:
    image, known = given["image"], given["mask"]
    if context.edit.method == TRAINED and context.model.image_condition is None:
        return context.chain(given, context.noise(image))  # of known frames
    if context.edit.method == TRAINED:
        return _trained(context, given)
    if context.edit.method in ("repaint", "replace"):
        kept = editing.inpaint(context.sampler, image, known)
        return context.chain(given, context.noise(image), sampler=kept)
    operator = operators.mask_operator(known)
    return _restore(context, given, operator, operator.apply(image))


def _restore(
    context: _Context, given: Given, operator: operators.Operator, y: jax.Array
) -> Chain:
    """Sample an image of which y = A x is known, by one of the two ways."""
    noise = context.noise(given["image"])
    if context.edit.method == "project":
        denoise = editing.project(context.denoise, operator, y)
    else:
        guided = editing.reconstruction_guidance(
            context.denoise, operator, y, context.edit.weight
        )
        denoise = clip_x0(guided) if context.model.clip else guided
    return context.chain(given, noise, denoise=denoise)


def _image_to_image(context: _Context, given: Given) -> Chain:
    image = given["image"]
    noised = add_noise(image, context.noise(image), context.first_level())
    return context.chain(given, noised)


def _noise_between(context: _Context, given: Given) -> Chain:
    """Start between two images with the same noise."""
    a, b, first = given["image"], given["other"], context.first_level()
    eps = context.noise(a)  # the same for both ends and for all between
    noised = add_noise(a, eps, first), add_noise(b, eps, first)
    return context.chain(given, editing.lerp(*noised, given["share"]))


def _encoding_of(name: str) -> _Part:
    """Follow the deterministic chain from a clean image towards its noise.

    As far as `strength` says. Near pure noise eps(x_t) is nearly x_t itself, and the
    equation behind a step hardly determines x_t: on the cosine schedule a code of
    strength 1 cannot be decoded.
    """

    def begin(context: _Context, given: Given) -> Chain:
        encode = editing.invert(context.edit.iterations)
        if name == "other" and OTHER_EMBEDDING in given:
            given = {**given, NAME: given[OTHER_EMBEDDING]}
        return context.chain(given, given[name], sampler=encode)

    return _Part(f"code of {name}", _upwards, begin)


def _decode(context: _Context, given: Given) -> Chain:
    return context.chain(given, given["code of image"], sampler=ddim(0.0))


def _decode_between(context: _Context, given: Given) -> Chain:
    codes = given["code of image"], given["code of other"]
    between = editing.slerp(*codes, given["share"])
    return context.chain(_turned(given), between, sampler=ddim(0.0))


def _turned(given: Given) -> Given:
    """Turn the image embedding toward the other one, if there are such."""
    if OTHER_EMBEDDING not in given:
        return given
    ends = given[NAME], given[OTHER_EMBEDDING]
    return {**given, NAME: editing.slerp(*ends, given["share"])}


def _decode_turned(context: _Context, given: Given) -> Chain:
    return context.chain(_turned(given), given["code of image"], sampler=ddim(0.0))


def _variations(context: _Context, given: Given) -> Chain:
    return context.chain(given, context.noise(given["image"]))


def _colorize(context: _Context, given: Given) -> Chain:
    operator = operators.grey_operator(given["image"].shape[-1])
    return _measured(context, given, operator)


def _upscale(context: _Context, given: Given) -> Chain:
    return _measured(context, given, operators.average_pool(context.edit.factor))


def _measured(context: _Context, given: Given, operator: operators.Operator) -> Chain:
    """Measure an image, and sample one with the same measurement."""
    if context.edit.method == TRAINED:
        return _trained(context, given)
    y = operator.apply(given["image"])
    chain = _restore(context, given, operator, y)
    return chain._replace(condition_preview=operator.pinv(y))


def _interpolate(edit: Edit) -> tuple[_Part, ...]:
    if edit.method == "noise":
        return (_Part("x", _partly, _noise_between),)
    ends = (_encoding_of("image"), _encoding_of("other"))
    return (*ends, _Part("x", _partly, _decode_between))


_STAGES: Mapping[str, Callable[[Edit], tuple[_Part, ...]]] = {
    "inpaint": lambda edit: (_Part("x", _for_inpainting, _inpaint),),
    "extend": lambda edit: (_Part("x", _for_inpainting, _inpaint),),
    "image-to-image": lambda edit: (_Part("x", _partly, _image_to_image),),
    "interpolate": _interpolate,
    "encode": lambda edit: (_encoding_of("image"), _Part("x", _partly, _decode)),
    "colorize": lambda edit: (_Part("x", _whole, _colorize),),
    "upscale": lambda edit: (_Part("x", _whole, _upscale),),
    "variations": lambda edit: (_Part("x", _whole, _variations),),
    "text-diff": lambda edit: (
        _encoding_of("image"),
        _Part("x", _partly, _decode_turned),
    ),
}


# --- Rows -----------------------------------------------------------------------------


def walks(
    starts: np.ndarray, ends: np.ndarray, num_points: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Lay out the rows of interpolations, one after another.

    Args:
        starts: [N, ...].
        ends: [N, ...].
        num_points: P of each, with both ends, so that what the model makes of these is
            seen as well.

    Returns:
        "image", "other" [N P, ...] and "share" [N P], and the number of the noise of
        each row, int [N P]: a walk has one.
    """
    share = np.linspace(0, 1, num_points, dtype=np.float32)
    rows = {
        "image": np.repeat(starts, num_points, axis=0),
        "other": np.repeat(ends, num_points, axis=0),
        "share": np.tile(share, len(starts)),
    }
    return rows, np.repeat(np.arange(len(starts)), num_points)


def in_turn(rows: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Repeat rows as a whole: leaves [P, ...] -> [times P, ...]."""
    return jax.tree.map(
        lambda leaf: np.tile(leaf, (times, *[1] * (leaf.ndim - 1))), dict(rows)
    )
