"""Known solids seen from all sides, at 16x16: the 2-D model that makes 3-D scenes.

Command:   python main.py --config=configs/solids.py --workdir=runs/solids
           :32 for images of 32x32; :blind for captions that say no view, the control
           that shows what the words buy; :32,blind for both
Model:     1,308,899 parameters at 16x16, the U-Net and the text encoder of
           configs/shapes.py: 3 levels of 32, 64 and 64 channels, attention to map and
           text at 8x8; at 32x32 790,923, of 24, 48 and 48 channels; cosine schedule,
           T = 1000, predicting v; sampled in 20 steps of DPM-Solver++(2M) with
           guidance 2
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    Cosine,
    Data,
    Diffusion,
    Fit,
    Stratified,
    UNet,
    WordsText,
    recipe,
)

STEPS = {16: 2200, 32: 2000}
BATCH = {16: 64, 32: 32}
CHANNELS = {16: 32, 32: 24}


def get_config(kind: str = "16"):
    """Return the recipe: of 16, 32, blind or 32,blind."""
    words = kind.split(",")
    blind = words[-1] == "blind"
    size = {(): 16, ("16",): 16, ("32",): 32}.get(tuple(words[: len(words) - blind]))
    if size is None:
        raise UserError(f"configs/solids.py:{kind}; use 16, 32, blind or 32,blind.")
    return recipe(
        Diffusion(
            data=Data(
                source="solids:blind" if blind else "solids",
                image_size=size,
                flip=False,  # captions say left and right, and mirrored solids differ
            ),
            network=UNet(
                channels=CHANNELS[size],
                channel_multipliers=(1, 2, 2),
                num_res_blocks=1,
                attention_resolutions=(8,),
                num_heads=2,
                num_groups=8,
            ),
            conditioners={"text": WordsText(width=64)},
            schedule=Cosine(1000),
            prediction="v",
            times=Stratified(),
            preview_steps=20,
        ),
        Fit(
            num_steps=STEPS[size],
            batch_size=BATCH[size],
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            report_every=100,
            preview_every=1000,
            checkpoint_every=500,
        ),
        sample={
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "guidance_scale": 2.0,
            "batch_size": 100,
        },
    )
