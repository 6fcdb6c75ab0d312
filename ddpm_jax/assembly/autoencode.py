"""The training of an autoencoder."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.assembly.autoencoder import KIND
from ddpm_jax.assembly.features import check_training, classifier_maps
from ddpm_jax.assembly.keys import init_key
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.networks.kl_autoencoder import sample_posterior
from ddpm_jax.networks.vgg import LEAST_SIDE, WIDTHS, Vgg16
from ddpm_jax.recipe import AutoencoderTask, Fit, KLAutoencoder
from ddpm_jax.specs import located
from ddpm_jax.tasks.autoencoder import Maps, Networks, autoencoder_task
from ddpm_jax.training.task import Task
from ddpm_jax.weights.lpips_file import Lpips, read_lpips

_LPIPS = "lpips:"  # before the names of two files


def autoencoder_network(spec: AutoencoderTask, info: DataInfo) -> KLAutoencoder:
    """Build the network, for the images of the data."""
    return spec.network.clone(image_channels=info.image_shape[-1])


def _perceptual(
    spec: AutoencoderTask, info: DataInfo
) -> tuple[Maps | None, list[np.ndarray] | None]:
    """Open the network that looks, and how its channels count; None if there is none.

    Raises:
        UserError: it cannot be opened, or takes other images.
    """
    if not spec.perceptual or not spec.perceptual_weight:
        return None, None
    if not spec.perceptual.startswith(_LPIPS):
        return classifier_maps(Path(spec.perceptual), info.image_shape), None
    named = spec.perceptual.removeprefix(_LPIPS).split(",")
    if len(named) != 2 or not all(named):
        raise UserError(
            f"config.perceptual={spec.perceptual!r} does not name two files; write "
            "lpips:VGG16_FILE,LINEAR_FILE, or the folder of a features network."
        )
    if min(info.image_shape[:2]) < LEAST_SIDE:
        raise UserError(
            f"LPIPS halves images four times and needs {LEAST_SIDE} pixels a side, and "
            f"these are {info.image_shape[0]}x{info.image_shape[1]}; use a features "
            "network."
        )
    params, weights = _open_lpips(*named)
    net = Vgg16()
    return lambda x: cast(Any, net.apply({"params": params}, x)), weights


@functools.lru_cache(maxsize=1)  # 59 MB, asked for by the check and by the steps
def _open_lpips(network: str, linear: str) -> Lpips:
    return read_lpips(network, linear, WIDTHS)


def autoencode_task(spec: AutoencoderTask, fit: Fit, info: DataInfo) -> Task:
    """Build the task of an autoencoder.

    Args:
        spec: what is trained.
        fit: how.
        info: of the data.

    Raises:
        UserError: the network of `perceptual` cannot be opened, or takes other images.
    """
    maps, channel_weights = _perceptual(spec, info)
    net, judge = autoencoder_network(spec, info), spec.discriminator
    joins = spec.adversary_start(fit.num_steps)

    def draw() -> dict[str, Any]:
        keys = jax.random.split(init_key(spec.seed, KIND.name))
        images, discriminator = jnp.zeros((1, *info.image_shape), jnp.float32), ()
        params = jax.jit(net.init)(keys[0], images)["params"]
        if joins is not None:
            discriminator = jax.jit(judge.init)(keys[1], images)["params"]
        return {"autoencoder": params, "discriminator": discriminator}

    def discriminate(params: Any, x: jax.Array) -> jax.Array:
        return cast(jax.Array, judge.apply({"params": params}, x))

    def call(method: str) -> Callable[[Any, jax.Array], Any]:
        return lambda params, x: net.apply({"params": params}, x, method=method)

    networks = Networks(
        encode=call("encode"),
        decode=call("decode"),
        sample=sample_posterior,
        last=lambda params: params["decoder"]["conv_out"]["kernel"],
        discriminate=None if joins is None else discriminate,
        maps=maps,
        channel_weights=channel_weights,
    )
    # The discriminator's learning rate begins when it does.
    later = max(fit.num_steps - spec.discriminator_start, 1)
    return autoencoder_task(
        draw,
        networks,
        (fit.transformation(), fit.transformation(later)),
        spec.weights(),
        adversary_start=joins,
        ema_target=fit.ema_decay,
        flip=spec.data.flip,
    )


def check_autoencode(spec: AutoencoderTask, fit: Fit, info: DataInfo) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_training(fit, info, KIND.name, "accumulate", "ema_stds")
    with located("config.network"):
        spec.network.check(info.image_shape)
    if spec.adversary_start(fit.num_steps) is not None:
        with located("config.discriminator"):
            spec.discriminator.check(info.image_shape)
    _perceptual(spec, info)
