"""The smallest recipe that goes through every part of the program in seconds.

Its network is a perceptron, since a program with a U-Net takes several times as long to
compile, and as many times more arrays to store: that is in tiny_unet.py.
"""

from ddpm_jax.recipe import MLP, Data, Diffusion, Fit, Label, Linear, recipe


def get_config():
    """Return the recipe."""
    return recipe_of(MLP(width=8, depth=1, num_frequencies=0))


def recipe_of(network):
    """Return the recipe with this network."""
    return recipe(
        Diffusion(
            data=Data(source="digits"),
            network=network,
            conditioners={"label": Label()},
            schedule=Linear(20),
            preview_steps=5,
        ),
        Fit(
            num_steps=12,
            batch_size=8,
            warmup_steps=2,
            report_every=2,
            preview_every=6,
            checkpoint_every=3,
            keep_last=10,
        ),
        sample={
            "num_images": 6,
            "batch_size": 4,
            "film_frames": 4,
            "film_images": 2,
        },
    )
