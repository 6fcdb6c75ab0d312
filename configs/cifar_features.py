"""A classifier of CIFAR-10, through whose eyes its models are evaluated offline."""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "cifar10"
    config.data.flip = True
    config.features.num_features = 256
    config.features.num_steps = 2000
    config.features.max_shift = 3
    return config
