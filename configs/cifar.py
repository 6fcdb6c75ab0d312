"""CIFAR-10, unconditional: the model of Ho, Jain, Abbeel 2020, as published.

Command:   python main.py --config=configs/cifar.py --workdir=runs/cifar
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared cifar10
Model:     35,746,307 parameters; 800,000 steps of batch 128
Time:      10.6 hours on a TPU v3-8 in the paper (appendix B); not measured here yet
Expected:  FID 3.17, Inception Score 9.46, at most 3.75 bits/dim (paper, table 1); not
           reproduced here yet. Copies of the data whose pixels went through JPEG
           give other scores; the program says so when it opens one
"""

from ddpm_jax.recipe import Diffusion, Fit, UNet, recipe


def get_config():
    """Return the recipe: all defaults but the dropout."""
    return recipe(Diffusion(network=UNet(dropout=0.1)), Fit(preview_every=10_000))
