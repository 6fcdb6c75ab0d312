"""An autoencoder of MNIST at 32x32: latents of 8x8x4, for diffusion on a CPU.

Command:   python main.py --config=configs/mnist_autoencoder.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared mnist
Model:     241,749 parameters
Time:      9 minutes 17 on two x86-64 cores beside other work (jax 0.10.2)
Result:    PSNR 32.21 dB on the 10,000 test images, whose scaled latents have a standard
           deviation of 1.006; with a discriminator (docs/latents.md) 30.79 dB
"""

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
            data=Data(source="mnist", pad_to=32, flip=False),  # a mirrored 2 is no 2
            network=KLAutoencoder(
                channels=16,
                channel_multipliers=(1, 2, 2),
                num_res_blocks=1,
                num_groups=8,
            ),
            discriminator=PatchDiscriminator(channels=16, num_groups=8),
            discriminator_weight=0.0,
            discriminator_start=2000,  # where its weight is set
        ),
        Fit(
            num_steps=3000,
            batch_size=32,
            optimizer=Adam(b1=0.5, b2=0.9),
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.99,
            checkpoint_every=1000,
        ),
    )
