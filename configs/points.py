"""Points in the plane, to see a diffusion model at work within seconds.

Command:   python main.py --config=configs/points.py:ring
           with ring, grid, moons, swiss_roll, checkerboard or tree; ring if none is
           named; and a file of your own by --config.data.source=points:file:my.csv
Model:     an MLP of 4 residual blocks, 64 wide, with Fourier features; cosine schedule,
           T = 1000, predicting v; --config.conditioners.label.kind=label conditions it
           on the class where the points have one
Time:      6,000 steps of 512 points: see docs/plane.md
"""

from ddpm_jax.data.points import load_points
from ddpm_jax.recipe import (
    MLP,
    Cosine,
    Data,
    Diffusion,
    Fit,
    Plane,
    Stratified,
    recipe,
)


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    load_points(name, split="train")  # refuses a name that is not known
    return recipe(
        Diffusion(
            data=Data(source=f"points:{name}", flip=False),
            codec=Plane(),
            network=MLP(),
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
            "film_frames": 51,
            "film_images": 300,
        },
        likelihood={"method": "ode"},  # the bound is of bytes
    )
