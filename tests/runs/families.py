"""A VAE, a GAN and a flow, of points and of digits, as small as they can be."""

import json

from ddpm_jax.cli import main
from ddpm_jax.recipe import (
    GAN,
    VAE,
    Data,
    Fit,
    Flow,
    FlowTask,
    ImageDiscriminator,
    ImageGenerator,
    KLAutoencoder,
    VectorAutoencoder,
    VectorDiscriminator,
    VectorGenerator,
    recipe,
    to_json,
)

POINTS, DIGITS = Data(source="points:ring", flip=False), Data("digits", flip=False)
SMALL = {"channels": 4, "channel_multipliers": (1, 1), "num_groups": 4}
VECTORS = {"width": 8, "depth": 1}
TASKS = {
    ("vae", "points"): VAE(POINTS, network=VectorAutoencoder(**VECTORS), kl_warmup=4),
    ("gan", "points"): GAN(
        POINTS,
        network=VectorGenerator(**VECTORS),
        discriminator=VectorDiscriminator(**VECTORS),
    ),
    ("flow", "points"): FlowTask(POINTS, network=Flow(num_steps=2, **VECTORS)),
    ("vae", "digits"): VAE(
        DIGITS,
        network=KLAutoencoder(num_res_blocks=1, attention=False, **SMALL),
        num_values=17,
        samples="mean",
    ),
    ("gan", "digits"): GAN(
        DIGITS,
        network=ImageGenerator(**SMALL),
        discriminator=ImageDiscriminator(**SMALL),
    ),
    ("flow", "digits"): FlowTask(
        DIGITS, network=Flow(num_scales=2, num_steps=1, width=4), num_values=17
    ),
}


def train(base, folder, task, fit=None):
    """Train a task for a few steps into a folder; its recipe lies in another."""
    assert main([f"--config={write(base, task, fit)}", f"--workdir={folder}"]) == 0


def write(base, task, fit=None, **sample):
    """Write the recipe of a task, and return its file."""
    fit = fit or Fit(num_steps=4, batch_size=8, warmup_steps=0, checkpoint_every=2)
    made = recipe(task, fit, sample={"num_images": 6, "batch_size": 4, **sample})
    file = base / "recipe.py"
    file.write_text(
        "import json\nfrom ddpm_jax.recipe import from_json\n\n\ndef get_config():\n"
        f"    return from_json(json.loads({json.dumps(to_json(made))!r}))\n"
    )
    return file
