"""Class-conditional DDPM on UCI's 1,797 optical digits of 8x8: the demo.

Command:   make demo, or
           python main.py --config=configs/digits.py --workdir=runs/digits
Model:     1,003,137 parameters; cosine schedule, T = 1000, sampled in 250 steps
Time:      3.5 minutes on two x86-64 cores (jax 0.10.2), at about 660 images a second
Result:    493 of 500 drawn digits are read as the digit asked for by a support vector
           machine fitted on the real ones (`make test-demo`)
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
            data=Data(source="digits", flip=False),
            network=UNet(
                channels=32, channel_multipliers=(1, 2), attention_resolutions=(4,)
            ),
            conditioners={"label": Label()},
            schedule=Cosine(1000),
            variance="small",  # the better one at fewer steps than T
            times=Stratified(),
            preview_steps=50,
        ),
        Fit(
            num_steps=800,
            learning_rate=1e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.995,
            report_every=50,
            preview_every=400,
            checkpoint_every=200,
        ),
        sample={
            "num_images": 100,
            "batch_size": 100,
            "num_steps": 250,  # of 1000, evenly spaced
        },
        evaluate={"features": "runs/digits_features"},  # of configs/digits_features.py
    )
