"""Points in the plane, to see a diffusion model at work within seconds.

Command:   python main.py --config=configs/points.py:ring --workdir=runs/points-ring
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
Model:     an MLP of 4 residual blocks, 64 wide, with Fourier features; conditioned on
           the class where the points have one; cosine schedule, T = 1000, predicting v
"""

from ddpm_jax.data.points import load_points
from ddpm_jax.recipe import (
    MLP,
    Cosine,
    Data,
    Diffusion,
    Fit,
    Label,
    Stratified,
    recipe,
)


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    has_classes = load_points(name, split="train").label_names is not None
    return recipe(
        Diffusion(
            data=Data(source=f"points:{name}", flip=False),
            network=MLP(),
            conditioners={"label": Label()} if has_classes else {},
            schedule=Cosine(1000),
            prediction="v",
            variance="small",  # the better one at fewer steps than T
            times=Stratified(),
            preview_steps=50,
        ),
        Fit(
            num_steps=6000,
            batch_size=512,
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.998,
            report_every=500,
            preview_every=2000,
            checkpoint_every=2000,
        ),
        sample={
            "sampler": "ddim",
            "num_images": 2000,
            "batch_size": 2000,
            "num_steps": 50,
            "clip": False,  # points have no range
            "film_images": 500,
        },
    )
