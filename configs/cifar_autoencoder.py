"""An autoencoder of CIFAR-10: latents of 8x8x4 for diffusion on a GPU.

Command:   python main.py --config=configs/cifar_autoencoder.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared cifar10
Model:     13,859,495 parameters, and a discriminator of 663,745
Time:      not measured
Result:    not measured
"""

from ddpm_jax.recipe import Adam, AutoencoderTask, Fit, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        AutoencoderTask(),
        Fit(
            num_steps=50_000,
            batch_size=64,
            optimizer=Adam(b1=0.5, b2=0.9),
            learning_rate=4e-4,
            warmup_steps=500,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.999,
            checkpoint_every=1000,
        ),
    )
