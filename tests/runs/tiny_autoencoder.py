"""The smallest recipe of an autoencoder; its adversary joins at three quarters."""

from ddpm_jax.recipe import (
    Adam,
    AutoencoderTask,
    Data,
    Fit,
    KLAutoencoder,
    PatchDiscriminator,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        AutoencoderTask(
            data=Data(source="digits", flip=False),
            network=KLAutoencoder(
                channels=8, channel_multipliers=(1, 2), num_res_blocks=1, num_groups=4
            ),
            discriminator=PatchDiscriminator(channels=4, num_layers=1, num_groups=4),
            discriminator_start=30,
        ),
        Fit(
            num_steps=40,
            batch_size=32,
            optimizer=Adam(b1=0.5, b2=0.9),
            learning_rate=0.005,
            warmup_steps=5,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.9,
            checkpoint_every=1000,
        ),
    )
