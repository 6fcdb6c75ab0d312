"""A studio without a workdir: the smallest network, with parameters drawn at random."""

from pathlib import Path

import jax
import jax.numpy as jnp
import tiny
from settings import changed
from untrained import with_noise

from ddpm_jax import assembly, recipe
from ddpm_jax.codecs import Params, latents, pixels
from ddpm_jax.commands.model import Trained
from ddpm_jax.conditioning import clip as clips
from ddpm_jax.conditioning.tokens import Words
from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.networks.text import TextTransformer
from ddpm_jax.playground.jobs import open_studio
from ddpm_jax.runtime.devices import data_mesh


def make_studio(*options, autoencoder=None):
    """Make the studio of a model of the digits, or of their latents."""
    if autoencoder:
        options += ("codec.kind=latents", f"codec.run={autoencoder.name}")
    made = changed(tiny.get_config(), *options)
    opened = {assembly.AUTOENCODER: autoencoder} if autoencoder else {}
    return _studio(made, opened)


def make_decoder_studio():
    """Make the studio of a decoder of image embeddings, and of texts (unCLIP)."""
    spec = recipe.Diffusion(
        data=recipe.Data(source="shapes:partial:64", image_size=16, flip=False),
        network=recipe.UNet(
            channels=8,
            channel_multipliers=(1,),
            num_res_blocks=1,
            attention_resolutions=(),
            num_heads=1,
            num_groups=4,
        ),
        conditioners={
            "image_embedding": recipe.ImageEmbedding("pair"),
            "text": recipe.ClipText(run="pair"),
        },
        schedule=recipe.Linear(20),
        preview_steps=5,
    )
    clip = clips.keep(_pair(spec.data.open().texts))
    sample = {"num_images": 6, "batch_size": 4, "film_frames": 4, "film_images": 2}
    made = recipe.from_json(recipe.recipe(spec, sample=sample))
    return _studio(made, {assembly.CLIP: clip})


def _pair(texts):
    """A dual encoder that nothing has trained."""
    words = Words.learn(texts)
    sizes = words.vocabulary_size, words.max_length
    encoder = TextTransformer(*sizes, width=8, depth=1, num_heads=2)
    tower = recipe.Classifier(num_features=6, channels=8, channel_multipliers=(1,))
    net, image = DualEncoder(tower, encoder), jnp.zeros((1, 16, 16, 3))
    params = jax.jit(net.init)(jax.random.key(0), image, words.read(texts[:1]))
    noisy = with_noise(params["params"])
    return clips.Clip("a pair", "d" * 16, (16, 16, 3), 8, net, noisy, words)


def _studio(made, opened):
    spec = made.task
    info = assembly.data_info(spec.data.open(), spec, opened)
    codec, autoencoder = pixels(info.image_shape), opened.get(assembly.AUTOENCODER)
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
        worse=None,
        spec=spec,
        info=info,
        unet=unet,
        params=Params(params, codec.params),
        codec=codec,
        described="random parameters",
        mesh=data_mesh(),
    )
    return open_studio(made, Path("runs/none"), trained)
