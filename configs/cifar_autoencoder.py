"""An autoencoder of CIFAR-10: latents of 8x8x4 for diffusion on a GPU.

Command:   python main.py --config=configs/cifar_autoencoder.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared cifar10
Model:     13,859,495 parameters, and a discriminator of 663,745
Time:      not measured
Result:    not measured
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.kind = "autoencoder"
    config.data.source = "cifar10"
    config.data.flip = True
    return config
