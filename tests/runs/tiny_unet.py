"""The recipe of tiny.py with a U-Net, where that is what a test is about."""

from ddpm_jax.recipe import Data, Diffusion, Fit, Label, Linear, UNet, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="digits"),
            network=UNet(
                channels=8,
                num_groups=4,
                channel_multipliers=(1,),
                num_res_blocks=1,
                attention_resolutions=(),
                dropout=0.1,
            ),
            conditioners={"label": Label()},
            schedule=Linear(20),
            preview_steps=5,
        ),
        Fit(
            num_steps=12,
            batch_size=8,
            warmup_steps=2,
            report_every=2,
            preview_every=6,
            checkpoint_every=3,
            keep_last=10,
        ),
        sample={
            "num_images": 6,
            "batch_size": 4,
            "film_frames": 4,
            "film_images": 2,
        },
    )
