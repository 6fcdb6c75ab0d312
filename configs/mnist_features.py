"""A classifier of MNIST at 32x32, through whose eyes configs/mnist.py is evaluated."""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "mnist"
    config.data.pad_to = 32
    config.data.flip = False  # a mirrored 2 is no 2
    config.features.num_features = 128
    config.features.num_steps = 2500
    return config
