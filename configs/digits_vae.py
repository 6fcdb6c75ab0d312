"""A variational autoencoder of the 8x8 digits: docs/families.md.

Command:   python main.py --config=configs/digits_vae.py --workdir=runs/digits-vae
Model:     966,552 parameters; latents of 4x4x2, a decoder whose width is learned
"""

from ddpm_jax.recipe import VAE, Data, Fit, KLAutoencoder, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        VAE(
            data=Data(source="digits", flip=False),
            network=KLAutoencoder(
                channels=40,
                channel_multipliers=(1, 2),
                num_res_blocks=1,
                num_groups=8,
                attention=False,
                latent_channels=2,
            ),
            num_values=17,
            kl_warmup=400,
            initial_std=0.3,
            samples="mean",
        ),
        Fit(
            num_steps=1600,
            learning_rate=1e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.995,
            report_every=100,
            preview_every=800,
            checkpoint_every=400,
        ),
        sample={"num_images": 100, "batch_size": 100},
        evaluate={"features": "runs/digits_features"},  # of configs/digits_features.py
    )
