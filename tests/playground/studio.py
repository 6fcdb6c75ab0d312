"""A studio without a workdir: the smallest network, with parameters drawn at random."""

from pathlib import Path

import jax
import tiny
from settings import changed

from ddpm_jax import assembly
from ddpm_jax.codecs import Params, latents, pixels
from ddpm_jax.commands.model import Trained
from ddpm_jax.playground.jobs import open_studio
from ddpm_jax.runtime.devices import data_mesh


def make_studio(*options, autoencoder=None):
    """Make the studio of a model of the digits, or of their latents."""
    if autoencoder:
        options += ("codec.kind=latents", f"codec.run={autoencoder.name}")
    recipe = changed(tiny.get_config(), *options)
    spec = recipe.task
    opened = {assembly.AUTOENCODER: autoencoder} if autoencoder else {}
    info = assembly.data_info(spec.data.open(), spec, opened)
    codec = pixels(info.image_shape)
    if autoencoder:
        codec = latents(autoencoder, info.image_shape)
    unet = assembly.model(spec, info)
    # The last convolution starts at zero, and a network that answers zero hides errors.
    leaves, tree = jax.tree.flatten(assembly.init_params(spec, unet, info))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree,
        [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )
    trained = Trained(
        step=0,
        about={},
        spec=spec,
        info=info,
        unet=unet,
        params=Params(params, codec.params),
        codec=codec,
        described="random parameters",
        mesh=data_mesh(),
    )
    return open_studio(recipe, Path("runs/none"), trained)
