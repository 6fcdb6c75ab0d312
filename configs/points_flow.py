"""A normalizing flow of points in the plane.

Command:   python main.py --config=configs/points_flow.py:ring --workdir=runs/ring-flow
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
"""

from ddpm_jax.recipe import Data, Fit, Flow, FlowTask, recipe


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    return recipe(
        FlowTask(
            data=Data(source=f"points:{name}", flip=False),
            network=Flow(num_steps=12, width=48, depth=2),
        ),
        Fit(
            num_steps=6000,
            batch_size=512,
            learning_rate=2e-3,
            warmup_steps=300,
            decay="cosine",
            ema_decay=0.998,
            report_every=500,
            preview_every=2000,
            checkpoint_every=2000,
        ),
        sample={"num_images": 2000, "batch_size": 2000},
    )
