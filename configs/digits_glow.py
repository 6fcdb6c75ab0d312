"""A normalizing flow (Glow) of the 8x8 digits: docs/families.md.

Command:   python main.py --config=configs/digits_glow.py --workdir=runs/digits-glow
Model:     970,112 parameters; 2 scales of 8 steps each
"""

from ddpm_jax.recipe import Data, Fit, Flow, FlowTask, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        FlowTask(
            data=Data(source="digits", flip=False),
            network=Flow(num_scales=2, num_steps=8, width=208),
            num_values=17,
        ),
        Fit(
            num_steps=1600,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.995,
            report_every=100,
            preview_every=800,
            checkpoint_every=400,
        ),
        sample={"num_images": 100, "batch_size": 100},
        evaluate={"features": "runs/digits_features"},  # of configs/digits_features.py
    )
