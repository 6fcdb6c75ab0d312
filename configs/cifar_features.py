"""A classifier of CIFAR-10, to evaluate its models by where Inception is not at hand.

Command:   python main.py --config=configs/cifar_features.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared cifar10
Model:     140,362 parameters; 3 levels of 16, 32 and 64 channels, 256 features
Time:      16 minutes on two x86-64 cores beside other work (jax 0.10.2)
Result:    reads 68.55% of the 10,000 test images right (a copy of the data that went
           through JPEG); on a GPU, make it wider: --config.features.channels=64
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.kind = "classifier"
    config.data.source = "cifar10"
    config.data.flip = True
    config.features.num_features = 256
    config.features.num_steps = 2000
    config.features.max_shift = 3
    return config
