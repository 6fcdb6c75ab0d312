"""Clips of a moving digit, by which digit, how fast and where to: 8 frames of 16x16.

Frames are learned first, then how they follow each other: the network of the second
stage starts with the parameters of the first, and as the same function.

Command:   python main.py --config=configs/motion.py:frames
           python main.py --config=configs/motion.py
           python main.py extend runs/motion data:7 --frames=20
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    Cosine,
    Data,
    Diffusion,
    Fit,
    Stratified,
    VideoUNet,
    WordsText,
    recipe,
)

STAGES = {
    "frames": {"source": "motion:digits:1", "batch_size": 128, "num_steps": 3000},
    "clips": {"source": "motion:digits", "batch_size": 32, "num_steps": 2000},
}


def get_config(stage="clips"):
    """Return the recipe.

    Args:
        stage: frames; or clips, which begins with a run of frames.

    Raises:
        UserError: the stage is neither.
    """
    if stage not in STAGES:
        raise UserError(
            f"configs/motion.py has no {stage!r:.40}; use {' or '.join(STAGES)}."
        )
    of_stage = STAGES[stage]
    return recipe(
        Diffusion(
            # Captions say left and right.
            data=Data(source=of_stage["source"], flip=False),
            network=VideoUNet(
                channels=16,
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
            init_from="runs/motion-frames" if stage == "clips" else "",
            preview_steps=20,
        ),
        Fit(
            num_steps=of_stage["num_steps"],
            batch_size=of_stage["batch_size"],
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            checkpoint_every=1000,
        ),
        sample={"sampler": "dpmpp_2m", "num_steps": 20, "num_images": 16},
    )
