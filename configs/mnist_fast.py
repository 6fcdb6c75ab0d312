"""MNIST at 32x32, class-conditional, by a U-Net of patches: for ten minutes of a CPU.

Command:   python main.py --config=configs/mnist_fast.py --workdir=runs/mnist_fast
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared mnist
Model:     650,900 parameters; 3 levels of 16, 32 and 64 channels on maps of 16x16 to
           4x4, whose places are patches of 2x2 pixels; cosine schedule, T = 1000,
           predicting v; sampled in 20 steps of DPM-Solver++(2M)
Time:      sized for 10 minutes on two x86-64 cores; not measured yet
"""

from ddpm_jax.recipe import (
    Cosine,
    Data,
    Diffusion,
    Fit,
    Label,
    Stratified,
    UNet,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="mnist", pad_to=32, flip=False),  # a mirrored 2 is no 2
            network=UNet(
                patch=2,
                channels=16,
                channel_multipliers=(1, 2, 4),
                num_res_blocks=1,
                attention_resolutions=(8,),  # of maps of 16, 8 and 4 patches
                num_groups=8,
            ),
            conditioners={"label": Label()},
            schedule=Cosine(1000),
            prediction="v",
            variance="small",  # the better one at fewer steps than T
            times=Stratified(),
            preview_steps=20,
        ),
        Fit(
            num_steps=3600,
            batch_size=64,
            learning_rate=2e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            report_every=50,
            preview_every=1000,
            checkpoint_every=500,
            keep_every=0,
        ),
        sample={
            "sampler": "dpmpp_2m",
            "num_images": 100,
            "batch_size": 100,
            "num_steps": 20,
        },
        evaluate={"features": "runs/mnist_features"},  # of configs/mnist_features.py
    )
