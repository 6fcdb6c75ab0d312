"""The training of an autoencoder, from `config.autoencoder`."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ddpm_jax.build import names
from ddpm_jax.build.features import classifier_maps
from ddpm_jax.build.idle import AUTOENCODER, check_warmup, refuse_idle
from ddpm_jax.build.keys import check_seed, root_key
from ddpm_jax.build.sizes import check_batch_memory
from ddpm_jax.build.source import DataInfo
from ddpm_jax.build.translation import autoencoder_spec, small_fit
from ddpm_jax.errors import UserError
from ddpm_jax.networks.discriminator import PatchDiscriminator, check_discriminator
from ddpm_jax.networks.kl_autoencoder import (
    KLAutoencoder,
    check_autoencoder,
    sample_posterior,
)
from ddpm_jax.networks.vgg import LEAST_SIDE, WIDTHS, Vgg16
from ddpm_jax.tasks.autoencoder import Maps, Networks, autoencoder_task
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Task
from ddpm_jax.weights.lpips_file import Lpips, read_lpips

_LPIPS = "lpips:"  # before the names of two files
_INIT, _TRAIN = 20, 21  # streams of `config.seed`, apart from those of other modes


def autoencoder_network(config: ConfigDict, info: DataInfo) -> KLAutoencoder:
    """Build the network of `config.autoencoder`."""
    options = config.autoencoder
    return KLAutoencoder(
        image_channels=info.image_shape[-1],
        latent_channels=options.latent_channels,
        channels=options.channels,
        channel_multipliers=tuple(options.channel_multipliers),
        num_res_blocks=options.num_res_blocks,
        num_groups=options.num_groups,
        attention=options.attention,
        dtype=names.DTYPES[options.dtype],
    )


def discriminator_network(config: ConfigDict) -> PatchDiscriminator:
    """Build the discriminator of `config.autoencoder`."""
    options = config.autoencoder
    return PatchDiscriminator(
        channels=options.discriminator_channels,
        num_layers=options.discriminator_layers,
        num_groups=options.num_groups,
        dtype=names.DTYPES[options.dtype],
    )


def is_adversarial(config: ConfigDict) -> bool:
    """Say whether a discriminator takes part at some step of the run."""
    start = autoencoder_spec(config).adversary_start(config.autoencoder.num_steps)
    return start is not None


def autoencode_optimizers(
    config: ConfigDict,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Build Adam with a warm-up and a cosine decay, for network and discriminator.

    The discriminator's begin when it does. Gradients are not clipped: the losses are
    sums, whose size is nothing to Adam.
    """
    fit = small_fit(config, "autoencoder")
    later = max(fit.num_steps - config.autoencoder.discriminator_start, 1)
    return fit.transformation(), fit.transformation(later)


def init_autoencode(config: ConfigDict, info: DataInfo) -> dict[str, Any]:
    """Draw the initial parameters of autoencoder and discriminator."""
    root = jax.random.fold_in(root_key(config.seed), _INIT)
    keys = jax.random.split(root)
    images = jnp.zeros((1, *info.image_shape), jnp.float32)
    net, discriminator = autoencoder_network(config, info), ()
    params = jax.jit(net.init)(keys[0], images)["params"]
    if is_adversarial(config):
        init = discriminator_network(config).init
        discriminator = jax.jit(init)(keys[1], images)["params"]
    return {"autoencoder": params, "discriminator": discriminator}


def autoencode_key(config: ConfigDict) -> jax.Array:
    """Return the key of flips and latents."""
    return jax.random.fold_in(root_key(config.seed), _TRAIN)


def _perceptual(
    config: ConfigDict, info: DataInfo
) -> tuple[Maps | None, list[np.ndarray] | None]:
    """Open the network that looks, and how its channels count; None if there is none.

    Raises:
        UserError: it cannot be opened, or takes other images.
    """
    options = config.autoencoder
    if not options.perceptual or not options.perceptual_weight:
        return None, None
    if not options.perceptual.startswith(_LPIPS):
        return classifier_maps(Path(options.perceptual), info.image_shape), None
    named = options.perceptual.removeprefix(_LPIPS).split(",")
    if len(named) != 2 or not all(named):
        raise UserError(
            f"config.autoencoder.perceptual={options.perceptual!r} does not name two "
            "files; write lpips:VGG16_FILE,LINEAR_FILE, or the folder of a features "
            "network."
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


def autoencode_task(
    config: ConfigDict,
    info: DataInfo,
    finish: Callable[[TrainState], Mapping[str, Any]],
) -> Task:
    """Build the task of `config.autoencoder`.

    Args:
        config: all of it.
        info: of the data.
        finish: see `Task`.

    Raises:
        UserError: the network of `perceptual` cannot be opened, or takes other images.
    """
    options = config.autoencoder
    maps, channel_weights = _perceptual(config, info)
    net, discriminator = autoencoder_network(config, info), None
    if is_adversarial(config):
        judge = discriminator_network(config)

        def discriminator(params: Any, x: jax.Array) -> jax.Array:
            return cast(jax.Array, judge.apply({"params": params}, x))

    def call(method: str) -> Callable[[Any, jax.Array], Any]:
        return lambda params, x: net.apply({"params": params}, x, method=method)

    networks = Networks(
        encode=call("encode"),
        decode=call("decode"),
        sample=sample_posterior,
        last=lambda params: params["decoder"]["conv_out"]["kernel"],
        discriminate=discriminator,
        maps=maps,
        channel_weights=channel_weights,
    )
    spec = autoencoder_spec(config)
    return autoencoder_task(
        lambda: init_autoencode(config, info),
        networks,
        autoencode_optimizers(config),
        spec.weights(),
        adversary_start=spec.adversary_start(options.num_steps),
        ema_target=options.ema_decay,
        flip=config.data.flip,
        finish=finish,
    )


def check_autoencode(config: ConfigDict, info: DataInfo) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_batch_memory(config, "autoencoder", info)
    check_seed("config.seed", config.seed)
    small_fit(config, "autoencoder")
    autoencoder_spec(config)
    options = config.autoencoder
    if options.dtype not in names.DTYPES:
        raise UserError(
            f"config.autoencoder.dtype={options.dtype!r} is unknown; use "
            f"{' or '.join(names.DTYPES)}."
        )
    check_warmup(config, "autoencoder")
    refuse_idle(config, AUTOENCODER)
    height, width, _ = info.image_shape
    fields = ("channels", "channel_multipliers", "num_res_blocks", "latent_channels")
    try:
        check_autoencoder(
            height, width, **{n: options[n] for n in (*fields, "num_groups")}
        )
        if is_adversarial(config):
            check_discriminator(
                height,
                width,
                channels=options.discriminator_channels,
                num_layers=options.discriminator_layers,
                num_groups=options.num_groups,
            )
    except UserError as error:
        raise UserError(f"config.autoencoder: {error}") from None
    _perceptual(config, info)
