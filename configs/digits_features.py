"""A classifier of the 8x8 digits, through whose eyes configs/digits.py is evaluated.

Command:   python main.py --config=configs/digits_features.py
Model:     116,490 parameters; 2 levels of 32 and 64 channels, 64 features
Time:      27 seconds on two x86-64 cores beside other work (jax 0.10.2)
Result:    reads 99.33% of the 299 test digits right
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.kind = "classifier"
    config.data.source = "digits"
    config.data.flip = False
    config.features.num_features = 64
    config.features.channels = 32
    config.features.channel_multipliers = (1, 2)
    config.features.max_shift = 1
    config.features.num_steps = 1000
    return config
