"""CIFAR-10, unconditional: improved DDPM, L_hybrid (Nichol and Dhariwal 2021).

Command:   python main.py --config=configs/cifar_cosine.py --workdir=runs/cifar_cosine
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared cifar10
Model:     52,546,438 parameters; cosine schedule, T = 4000, learned variance
Time:      500,000 steps of batch 128; not measured here yet
Expected:  FID 3.19, 3.17 bits/dim with all 4000 steps (paper, table 2, as recorded by
           others; check it there before quoting); not reproduced here yet
"""

from ddpm_jax.recipe import Cosine, Data, Diffusion, Fit, Hybrid, UNet, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(flip=False),  # the published code has no flips
            network=UNet(
                num_res_blocks=3,
                attention_resolutions=(16, 8),
                num_heads=4,
                scale_shift=True,
                dropout=0.3,
            ),
            schedule=Cosine(4000, t_range=1000),  # the network is given t * 1000 / 4000
            variance="learned",
            loss=Hybrid(),
        ),
        Fit(
            num_steps=500_000,
            learning_rate=1e-4,
            warmup_steps=0,  # no warm-up
            max_grad_norm=0.0,  # and no clipping
            preview_every=10_000,
        ),
    )
