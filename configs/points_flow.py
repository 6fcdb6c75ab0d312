"""A normalizing flow of points in the plane: docs/families.md.

Command:   python main.py --config=configs/points_flow.py:ring --workdir=runs/ring-flow
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
Model:     38,528 parameters; 8 steps of normalization, invertible dense layer and
           affine coupling with Fourier features
"""

from ddpm_jax.recipe import Data, Fit, Flow, FlowTask, recipe


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    return recipe(
        FlowTask(
            data=Data(source=f"points:{name}", flip=False),
            network=Flow(num_steps=8, width=64, depth=2, num_frequencies=3, bound=1.0),
        ),
        Fit(
            num_steps=12_000,
            batch_size=256,
            learning_rate=2e-3,
            warmup_steps=300,
            decay="cosine",
            ema_decay=0.998,
            report_every=1000,
            preview_every=6000,
            checkpoint_every=6000,
        ),
        sample={"num_images": 2000, "batch_size": 2000},
    )
