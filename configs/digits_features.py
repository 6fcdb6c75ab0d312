"""A classifier of the 8x8 digits, through whose eyes configs/digits.py is evaluated."""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "digits"
    config.data.flip = False
    config.features.num_features = 64
    config.features.channels = 32
    config.features.channel_multipliers = (1, 2)
    config.features.max_shift = 1
    config.features.num_steps = 1000
    return config
