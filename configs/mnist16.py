"""MNIST at 16x16 by four families of one size: docs/families.md.

Command:   python main.py --config=configs/mnist16.py:diffusion
           with diffusion, vae, gan or flow; diffusion if none is named; with
           $TFDS_DATA_DIR naming the folder that holds the prepared mnist
Model:     163,000 to 173,000 parameters, of a GAN both networks; three levels of 8, 16
           and 32 channels, the flow two scales of 8 steps
Features:  python main.py --config=configs/mnist_features.py
           --workdir=runs/mnist16_features --config.data.image_size=16
           --config.data.pad_to=0
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    GAN,
    VAE,
    Adam,
    Cosine,
    Data,
    Diffusion,
    Fit,
    Flow,
    FlowTask,
    ImageDiscriminator,
    ImageGenerator,
    KLAutoencoder,
    Stratified,
    UNet,
    recipe,
)

DATA = Data(source="mnist", image_size=16, flip=False)  # a mirrored 2 is no 2
# Narrow where maps are large: most of the work is there, and few of the parameters.
LEVELS = {"channels": 8, "channel_multipliers": (1, 2, 4), "num_res_blocks": 1}
TASKS = {
    "diffusion": Diffusion(
        data=DATA,
        network=UNet(
            **LEVELS,
            attention_resolutions=(4,),
            num_groups=8,
        ),
        schedule=Cosine(1000),
        variance="small",  # the better one at fewer steps than T
        times=Stratified(),
        preview_steps=50,
    ),
    "vae": VAE(
        data=DATA,
        network=KLAutoencoder(
            **LEVELS,
            num_groups=4,
            attention=False,
            latent_channels=2,
        ),
        kl_warmup=1000,
        initial_std=0.3,
        samples="mean",
    ),
    "gan": GAN(
        data=DATA,
        network=ImageGenerator(**LEVELS, num_groups=4),
        discriminator=ImageDiscriminator(**LEVELS, num_groups=4),
        gamma=0.5,
    ),
    "flow": FlowTask(
        data=DATA,
        network=Flow(num_scales=2, num_steps=8, width=68),
    ),
}
TRAINING = {
    "diffusion": {"ema_decay": 0.998},
    "vae": {"ema_decay": 0.998},
    "gan": {
        **{"optimizer": Adam(b1=0.0, b2=0.99), "learning_rate": 5e-4},
        **{"max_grad_norm": 0.0, "ema_decay": 0.99},
    },
    "flow": {"ema_decay": 0.998},
}


def get_config(family: str = "diffusion"):
    """Return the recipe of a family."""
    if family not in TASKS:
        raise UserError(
            f"configs/mnist16.py:{family} is no family; use {', '.join(TASKS)}."
        )
    fit = {"num_steps": 4000, "batch_size": 64, "learning_rate": 1e-3}
    sample = {"num_images": 100, "batch_size": 100}
    if family == "diffusion":
        sample["num_steps"] = 250  # of 1000, evenly spaced
    return recipe(
        TASKS[family],
        Fit(
            **fit | TRAINING[family],
            warmup_steps=200,
            decay="cosine",
            report_every=100,
            preview_every=1000,
            checkpoint_every=1000,
            keep_every=0,
        ),
        sample=sample,
        # Of configs/mnist_features.py, at this size.
        evaluate={"features": "runs/mnist16_features"},
    )
