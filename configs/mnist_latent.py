"""MNIST in latents of 8x8x4, class-conditional, sized so that a CPU can train it.

Command:   python main.py --config=configs/mnist_autoencoder.py
           python main.py --config=configs/mnist_latent.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared mnist
Model:     1,026,308 parameters; 2 levels of 32 and 64 channels; cosine schedule,
           T = 1000, sampled in 250 steps
Time:      6 minutes on two x86-64 cores (jax 0.10.2) with the 100 pictures that it
           ends with, at about 420 images a second; before it once the latents of the
           data, half a minute
Result:    FD 1.46 of 2,000 pictures drawn in 20 steps of DPM-Solver++(2M); as many real
           ones have 0.10 (docs/results.md)
"""

from ddpm_jax.recipe import (
    Cosine,
    Data,
    Diffusion,
    Fit,
    Label,
    Latents,
    Stratified,
    UNet,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="mnist", pad_to=32, flip=False),  # a mirrored 2 is no 2
            codec=Latents("runs/mnist_autoencoder"),
            network=UNet(
                channels=32,
                channel_multipliers=(1, 2),
                attention_resolutions=(8, 4),  # of latents
            ),
            conditioners={"label": Label()},
            schedule=Cosine(1000),
            prediction="v",  # x0 is not clamped: see docs/latents.md
            variance="small",  # the better one at fewer steps than T
            times=Stratified(),
            preview_steps=50,
        ),
        Fit(
            num_steps=2000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.999,
            report_every=50,
            preview_every=500,
            checkpoint_every=250,
            keep_every=0,
        ),
        sample={
            "num_images": 100,
            "batch_size": 50,
            "num_steps": 250,  # of 1000, evenly spaced
        },
        evaluate={"features": "runs/mnist_features"},  # of configs/mnist_features.py
    )
