"""An autoencoder of MNIST at 32x32: latents of 8x8x4, for diffusion on a CPU.

Command:   python main.py --config=configs/mnist_autoencoder.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared mnist
Model:     241,749 parameters
Time:      9 minutes 17 on two x86-64 cores beside other work (jax 0.10.2)
Result:    PSNR 32.21 dB on the 10,000 test images, whose scaled latents have a standard
           deviation of 1.006; with a discriminator (docs/latents.md) 30.79 dB
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.kind = "autoencoder"
    config.data.source = "mnist"
    config.data.pad_to = 32
    config.data.flip = False  # a mirrored 2 is no 2
    config.autoencoder.channels = 16
    config.autoencoder.channel_multipliers = (1, 2, 2)
    config.autoencoder.num_res_blocks = 1
    config.autoencoder.num_groups = 8
    config.autoencoder.num_steps = 3000
    config.autoencoder.batch_size = 32
    config.autoencoder.learning_rate = 2e-3
    config.autoencoder.warmup_steps = 100
    config.autoencoder.ema_decay = 0.99
    config.autoencoder.discriminator_weight = 0.0
    config.autoencoder.discriminator_start = 2000  # where its weight is set
    config.autoencoder.discriminator_channels = 16
    return config
