"""The digits of configs/digits.py on the straight path: a flow matching model.

Command:   python main.py --config=configs/digits_flow.py --workdir=runs/digits_flow
Model:     1,003,137 parameters; the straight path alpha = 1 - u, sigma = u, predicting
           eps - x0, times logit-normal; sampled in 50 steps of Heun's rule
Time:      as configs/digits.py, 3.5 minutes on two x86-64 cores; not measured itself
"""

from ddpm_jax.recipe import (
    Data,
    Diffusion,
    Fit,
    Label,
    LogitNormal,
    Straight,
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
            # A thousandth of signal, so that every grid and sampler has a start.
            schedule=Straight(1000, alpha_min=0.001),
            prediction="flow",
            variance="small",  # the better one at fewer steps than T
            times=LogitNormal(),
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
            "sampler": "heun",
            "num_images": 100,
            "batch_size": 100,
            "num_steps": 50,
        },
        evaluate={"features": "runs/digits_features"},  # of configs/digits_features.py
    )
