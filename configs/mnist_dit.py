"""MNIST at 32x32, class-conditional, by a transformer on patches that predicts x_0.

Command:   python main.py --config=configs/mnist_dit.py --workdir=runs/mnist_dit
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared mnist
Model:     1,275,832 parameters; 64 patches of 4x4 pixels, 4 blocks of width 128 with
           the parts of Li & He 2025 (JiT); the straight path, the network outputs x_0
           and the loss is the velocity's; sampled in 25 steps of Heun's rule
Time:      not measured yet
"""

from ddpm_jax.recipe import (
    Data,
    Diffusion,
    DiT,
    Fit,
    Label,
    LogitNormal,
    Straight,
    Velocity,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="mnist", pad_to=32, flip=False),  # a mirrored 2 is no 2
            network=DiT(
                patch=4,
                width=128,
                depth=4,
                num_heads=4,
                mlp="swiglu",
                norm="rms",
                rotary=True,
                qk_norm=True,
            ),
            conditioners={"label": Label()},
            # A thousandth of signal, so that every grid and sampler has a start.
            schedule=Straight(1000, alpha_min=0.001),
            prediction="x0",
            loss=Velocity(),
            times=LogitNormal(mean=0.8, std=0.8),  # as Li & He: mostly noise
            variance="small",  # the better one at fewer steps than T
            preview_steps=25,
        ),
        Fit(
            num_steps=4000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            report_every=50,
            preview_every=1000,
            checkpoint_every=500,
            keep_every=0,
        ),
        sample={
            "sampler": "heun",
            "num_images": 100,
            "batch_size": 100,
            "num_steps": 25,
        },
        evaluate={"features": "runs/mnist_features"},  # of configs/mnist_features.py
    )
