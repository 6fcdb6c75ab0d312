"""A trained KL autoencoder: from a run's folder, or into one.

The folder is that of any run; see `auxiliary`. Its averaged parameters are those of the
autoencoder alone.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.assembly import auxiliary
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.recipe import KLAutoencoder

KIND = auxiliary.Kind(
    name="autoencoder",
    mode="autoencoder",
    noun="an autoencoder",
    verb="make",
    facts={  # that are read here
        *("name", "fingerprint", "image_shape", "latent_shape", "factor"),
        *("scale", "shift", "network"),
    },
)


def make(
    name: str,
    net: KLAutoencoder,
    params: Any,
    image_shape: tuple[int, int, int],
    *,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Autoencoder:
    """Put an autoencoder together.

    Args:
        name: for a person to read.
        net: the network.
        params: its parameters.
        image_shape: (H, W, C).
        scale: of the latents.
        shift: of the latents.
    """
    height, width, _ = image_shape
    return Autoencoder(
        name=name,
        fingerprint=auxiliary.fingerprint(
            auxiliary.flat_params(params) | _of_latents(scale, shift)
        ),
        image_shape=image_shape,
        latent_shape=(height // net.factor, width // net.factor, net.latent_channels),
        factor=net.factor,
        scale=scale,
        shift=shift,
        net=net,
        params=params,
    )


def _of_latents(scale: float, shift: float) -> dict[str, np.ndarray]:
    """Return what a fingerprint is of beside the weights."""
    return {"": np.array([scale, shift], np.float64)}


def describe(autoencoder: Autoencoder) -> dict[str, Any]:
    """Return the facts that `load` reads, as plain data."""
    network = {
        field.name: getattr(autoencoder.net, field.name)
        for field in dataclasses.fields(KLAutoencoder)
        if field.name not in ("dtype", "parent", "name")
    }
    facts = {name: getattr(autoencoder, name) for name in KIND.facts - {"network"}}
    return {**{name: facts[name] for name in sorted(facts)}, "network": network}


def write(workdir: Path, autoencoder: Autoencoder, metadata: dict[str, Any]) -> None:
    """Write an autoencoder that was not trained there as a finished run.

    Args:
        workdir: where to.
        autoencoder: what to write.
        metadata: of its checkpoint.

    Raises:
        UserError: it cannot be written.
    """
    auxiliary.write(workdir, KIND, autoencoder.params, metadata, describe(autoencoder))


def load(workdir: Path, dtype: Any = "float32") -> Autoencoder:
    """Open the autoencoder that a training or an import left in a folder.

    Args:
        workdir: the folder.
        dtype: of the computation.

    Raises:
        UserError: there is none, or it is damaged.
    """

    def network(about: dict[str, Any]) -> tuple[KLAutoencoder, list[Any]]:
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in about["network"].items()
        }
        net, shape = KLAutoencoder(**options, dtype=dtype), about["image_shape"]
        net.check(tuple(shape))
        if shape[-1] != net.image_channels or not 0 < about["scale"] < math.inf:
            raise ValueError("it is of other images, or of no scale")
        return net, [auxiliary.images_like(shape)]

    def hashed(about: dict[str, Any]) -> dict[str, np.ndarray]:
        return _of_latents(float(about["scale"]), float(about["shift"]))

    net, params, about = auxiliary.open_network(workdir, KIND, network, hashed)
    scale, shift = float(about["scale"]), float(about["shift"])
    shape = tuple(about["image_shape"])
    return make(about["name"], net, params, shape, scale=scale, shift=shift)
