"""From a config to the parts of sampling: denoiser, sampler, levels, labels."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.parts import network, num_classes, schedule
from ddpm_jax.build.source import DataInfo
from ddpm_jax.diffusion import samplers
from ddpm_jax.diffusion.denoisers import Denoiser, clip_x0, from_network
from ddpm_jax.diffusion.schedules import Level, grid
from ddpm_jax.errors import UserError
from ddpm_jax.models.unet import UNet


def denoiser(config: ConfigDict, unet: UNet, params: Any) -> Denoiser:
    """Build the denoiser that samplers see."""
    built = from_network(
        network(unet),
        params,
        names.PREDICTIONS[config.diffusion.prediction],
        learns_variance=config.diffusion.variance == "learned",
    )
    return clip_x0(built) if config.sample.clip else built


def sampler(config: ConfigDict) -> samplers.Sampler:
    """Build the sampler of `config.sample`."""
    variance = names.VARIANCES[config.sample.variance or config.diffusion.variance]
    table = {
        "ancestral": lambda: samplers.ancestral(variance),
        "ddim": lambda: samplers.ddim(config.sample.eta),
        "heun": samplers.heun,
        "dpmpp_2m": samplers.dpmpp_2m,
    }
    return table[config.sample.sampler]()


def levels(config: ConfigDict) -> Level:
    """Lay out the levels that `config.sample` visits, [N + 1]."""
    num_steps = config.sample.num_steps or config.diffusion.num_levels
    return grid(schedule(config), num_steps, names.SPACINGS[config.sample.spacing])


def sample_labels(config: ConfigDict, info: DataInfo) -> np.ndarray | None:
    """Return the label of each image to draw, int32 [num_images].

    The classes asked for are taken in turn; none asked for means all of them. A
    network without classes has no labels: None.

    Raises:
        UserError: if a label is not a class, or the network knows none.
    """
    asked, count = config.sample.labels.strip(), config.sample.num_images
    classes = num_classes(config, info)
    if classes is None:
        if asked:
            raise UserError(
                f"config.sample.labels={asked!r}, but this model was trained without "
                "labels; leave the option out."
            )
        return None
    known = list(info.label_names)
    if not asked:
        chosen = list(range(classes))
    else:
        chosen = [_label(word.strip(), known) for word in asked.split(",")]
    return np.resize(np.asarray(chosen, np.int32), count)


def _label(word: str, known: list[str]) -> int:
    if word in known:
        return known.index(word)
    if word == "none":
        return len(known)  # the null class: unconditional
    if word.isdecimal() and int(word) < len(known):
        return int(word)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    raise UserError(
        f"label {word!r} in config.sample.labels is not a class; use 0 to "
        f"{len(known) - 1}, or a name ({shown}), or none."
    )
