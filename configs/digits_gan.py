"""A generative adversarial network of the 8x8 digits: docs/families.md.

Command:   python main.py --config=configs/digits_gan.py --workdir=runs/digits-gan
Model:     965,802 parameters of both networks, noise of 4x4x4; relativistic loss with
           R1 and R2
"""

from ddpm_jax.recipe import (
    GAN,
    Adam,
    Data,
    Fit,
    ImageDiscriminator,
    ImageGenerator,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        GAN(
            data=Data(source="digits", flip=False),
            network=ImageGenerator(channels=40, num_res_blocks=1),
            discriminator=ImageDiscriminator(channels=40, num_res_blocks=1),
            gamma=0.5,
        ),
        Fit(
            num_steps=800,
            optimizer=Adam(b1=0.0, b2=0.99),
            learning_rate=5e-4,
            warmup_steps=100,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.99,
            report_every=100,
            preview_every=400,
            checkpoint_every=400,
        ),
        sample={"num_images": 100, "batch_size": 100},
        evaluate={"features": "runs/digits_features"},  # of configs/digits_features.py
    )
