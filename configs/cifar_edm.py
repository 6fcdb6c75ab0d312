"""CIFAR-10, unconditional, as Karras et al. 2022 train it: EDM, with Ho et al.'s U-Net.

Command:   python main.py --config=configs/cifar_edm.py --workdir=runs/cifar_edm
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared cifar10
Model:     35,746,307 parameters; preconditioned, log(sigma / alpha) ~ N(-1.2, 1.2^2),
           sigma / alpha from 0.002 to 80; sampled by Heun's rule, 18 steps of the
           paper's grid (35 calls)
Time:      390,625 steps of batch 512; not measured here yet
Expected:  nothing that is published: the paper has networks of its own (DDPM++ and
           NCSN++, 56 million parameters) and augments the images. Its tables are of
           those
"""

from ddpm_jax.recipe import (
    Data,
    Diffusion,
    Fit,
    LinearLogSNR,
    LogNormal,
    UNet,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(),
            network=UNet(dropout=0.13),
            # -2 log 0.002 and -2 log 80, of sigma / alpha, the sigma of the paper.
            schedule=LinearLogSNR(logsnr_max=12.429216, logsnr_min=-8.764053),
            prediction="edm",
            data_std=0.5,
            variance="small",
            times=LogNormal(mean=-1.2, std=1.2),
        ),
        Fit(
            num_steps=390_625,  # 200 million images
            batch_size=512,
            learning_rate=1e-3,
            warmup_steps=19_531,  # 10 million
            max_grad_norm=0.0,
            ema_decay=0.99929,  # a half-life of 500,000 images
        ),
        sample={"sampler": "heun", "num_steps": 18, "spacing": "karras"},
    )
