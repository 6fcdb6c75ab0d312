"""The editing tasks: for each mode and method, the walks along the chain it is made of.

A step is given the parts that all tasks share and what is known so far, and describes a
walk; `editing` makes legs of steps.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from ddpm_jax.build.legs import Given, Walk
from ddpm_jax.build.pictures import mode_of, picture_of
from ddpm_jax.build.sampling import levels
from ddpm_jax.conditioning import masked
from ddpm_jax.conditioning.conditioner import Rows
from ddpm_jax.conditioning.image_maps import map_keys
from ddpm_jax.diffusion import editing, operators
from ddpm_jax.diffusion.denoisers import Cond, Denoiser, clip_x0
from ddpm_jax.diffusion.generate import initial_noise
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.samplers import Sampler, ddim
from ddpm_jax.diffusion.schedules import Level


class Chain(NamedTuple):
    """The parts that all tasks share."""

    config: ConfigDict
    denoise: Denoiser
    sampler: Sampler
    levels: Level  # of this leg
    keys: jax.Array
    clip: bool  # whether x0 is clamped
    tell: Callable[[Given], Cond]  # what the network is told
    see: Callable[[jax.Array], jax.Array]  # from a point of the chain to its pixels

    def noise(self, image: jax.Array) -> jax.Array:
        """Draw x_T for images [B, H, W, C] like these, of the same shape."""
        return initial_noise(self.keys, image.shape[1:])

    def first_level(self) -> Level:
        """Return the level at which the walk starts."""
        return jax.tree.map(lambda leaf: leaf[0], self.levels)

    def walk(
        self,
        given: Given,
        x_init: jax.Array,
        *,
        sampler: Sampler | None = None,
        denoise: Denoiser | None = None,
    ) -> Walk:
        """Start at x_init [B, H, W, C], with the sampler of the config or another."""
        return Walk(
            x_init,
            sampler or self.sampler,
            denoise or self.denoise,
            self.tell(given),
            self.see(x_init),
            self.see,
            self.see,
        )


class Step(NamedTuple):
    """One leg of a task, as far as its mode and method decide."""

    makes: str
    levels: Callable[[ConfigDict, str], Level]
    walk: Callable[[Chain, Given, str], Walk]


def _whole(config: ConfigDict, method: str) -> Level:
    del method
    return levels(config)


def _visited(config: ConfigDict, method: str) -> Level:
    """Lay out the levels that a given picture is taken through."""
    del method
    return editing.start_at(levels(config), config.edit.strength)


def _upwards(config: ConfigDict, method: str) -> Level:
    return jax.tree.map(lambda leaf: leaf[::-1], _visited(config, method))


def _for_inpainting(config: ConfigDict, method: str) -> Level:
    visited = levels(config)
    return walked_again(config, visited) if method == "repaint" else visited


def walked_again(config: ConfigDict, visited: Level) -> Level:
    """Lay out the levels of RePaint on those of a chain.

    Raises:
        UserError: if the jumps do not fit the chain.
    """
    options = config.edit
    jump_length = options.jump_length
    if jump_length is None:  # the paper's share of the chain
        jump_length = max(1, (visited.alpha.shape[0] - 1) // 25)
    return editing.repaint_grid(visited, jump_length, options.num_resamples)


def _trained(chain: Chain, given: Given, rows: Rows | None = None) -> Walk:
    """Sample an image-conditional model, of rows or of maps of the given image."""
    image, name = given["image"], chain.config.model.picture
    conditioner = picture_of(chain.config, image.shape[-1])
    assert conditioner is not None  # check_edit has refused a model without
    if rows is None:
        aug_level = chain.config.sample.picture_noise
        rows = conditioner.from_images(map_keys(chain.keys), image, aug_level)
    walk = chain.walk({**given, name: rows}, chain.noise(image))
    return walk._replace(shown=conditioner.show(rows))


def _inpaint(chain: Chain, given: Given, method: str) -> Walk:
    image, known = given["image"], given["mask"]
    noise = chain.noise(image)
    if method == TRAINED:
        return _trained(chain, given, masked.from_mask(image, known[..., :1]))
    if method in ("repaint", "replace"):
        kept = editing.inpaint(chain.sampler, image, known)
        return chain.walk(given, noise, sampler=kept)
    operator = operators.mask_operator(known)
    return _restore(chain, given, operator, operator.apply(image), method)


def _restore(
    chain: Chain,
    given: Given,
    operator: operators.Operator,
    y: jax.Array,
    method: str,
) -> Walk:
    """Draw an image of which y = A x is known, by one of the two ways."""
    noise = chain.noise(given["image"])
    if method == "project":
        denoise = editing.project(chain.denoise, operator, y)
    else:
        guided = editing.reconstruction_guidance(
            chain.denoise, operator, y, chain.config.edit.weight
        )
        denoise = clip_x0(guided) if chain.clip else guided
    return chain.walk(given, noise, denoise=denoise)


def _image_to_image(chain: Chain, given: Given, method: str) -> Walk:
    del method
    image = given["image"]
    noised = add_noise(image, chain.noise(image), chain.first_level())
    return chain.walk(given, noised)


def _noise_between(chain: Chain, given: Given, method: str) -> Walk:
    """Start between two pictures, noised alike."""
    del method
    a, b, first = given["image"], given["other"], chain.first_level()
    eps = chain.noise(a)  # the same for both ends and for the whole walk
    noised = add_noise(a, eps, first), add_noise(b, eps, first)
    return chain.walk(given, editing.lerp(*noised, given["share"]))


def _encoding_of(name: str) -> Step:
    """Walk the deterministic chain from a clean image towards its noise.

    As far as `strength` says. Near pure noise eps(x_t) is all but x_t itself, and the
    equation behind a step says next to nothing of x_t: on the cosine schedule a code of
    strength 1 cannot be decoded.
    """

    def walk(chain: Chain, given: Given, method: str) -> Walk:
        del method
        encode = editing.invert(chain.config.edit.iterations)
        return chain.walk(given, given[name], sampler=encode)

    return Step(f"code of {name}", _upwards, walk)


def _decode(chain: Chain, given: Given, method: str) -> Walk:
    del method
    return chain.walk(given, given["code of image"], sampler=ddim(0.0))


def _decode_between(chain: Chain, given: Given, method: str) -> Walk:
    del method
    codes = given["code of image"], given["code of other"]
    return chain.walk(given, editing.slerp(*codes, given["share"]), sampler=ddim(0.0))


def _colorize(chain: Chain, given: Given, method: str) -> Walk:
    if method == TRAINED:
        return _trained(chain, given)
    operator = operators.grey_operator(given["image"].shape[-1])
    return _measured(chain, given, operator, method)


def _upscale(chain: Chain, given: Given, method: str) -> Walk:
    if method == TRAINED:
        return _trained(chain, given)
    operator = operators.average_pool(upscale_factor(chain.config))
    return _measured(chain, given, operator, method)


def _measured(
    chain: Chain, given: Given, operator: operators.Operator, method: str
) -> Walk:
    """Measure an image, and draw one that measures the same."""
    y = operator.apply(given["image"])
    walk = _restore(chain, given, operator, y, method)
    return walk._replace(shown=operator.pinv(y))


def _interpolate(method: str) -> tuple[Step, ...]:
    if method == "noise":
        return (Step("x", _visited, _noise_between),)
    ends = (_encoding_of("image"), _encoding_of("other"))
    return (*ends, Step("x", _visited, _decode_between))


TASKS: Mapping[str, Callable[[str], tuple[Step, ...]]] = {  # method -> legs
    "inpaint": lambda method: (Step("x", _for_inpainting, _inpaint),),
    "image-to-image": lambda method: (Step("x", _visited, _image_to_image),),
    "interpolate": _interpolate,
    "encode": lambda method: (
        _encoding_of("image"),
        Step("x", _visited, _decode),
    ),
    "colorize": lambda method: (Step("x", _whole, _colorize),),
    "upscale": lambda method: (Step("x", _whole, _upscale),),
}
TRAINED = "trained"  # the only method of a model that draws from a picture
METHODS: Mapping[str, tuple[str, ...]] = {  # the first is the default
    "inpaint": ("repaint", "replace", "project", "guidance"),
    "image-to-image": ("sdedit",),
    "interpolate": ("encode", "noise"),
    "encode": ("ddim",),
    "colorize": ("project", "guidance"),
    "upscale": ("project", "guidance"),
}


def methods_of(config: ConfigDict, mode: str) -> tuple[str, ...]:
    """List the ways of a mode that a model knows, the first being the default.

    A model that draws from a picture knows one mode, and that in one way.
    """
    trained_for = mode_of(config)
    if trained_for is None:
        return METHODS[mode]
    return (TRAINED,) if mode == trained_for else ()


def upscale_factor(config: ConfigDict) -> int:
    """Return how many times larger a picture is made."""
    if config.edit.factor is not None:
        return config.edit.factor
    return config.model.picture_factor if config.model.picture == "low_res" else 2
