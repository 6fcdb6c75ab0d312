"""The decoder of unCLIP on named game sprites at 32x32, of image embeddings and names.

Command:   python main.py --config=configs/sprites_clip.py
           python main.py --config=configs/sprites_prior.py
           python main.py --config=configs/sprites_unclip.py
Model:     2,495,299 parameters beside the frozen pair
"""

from ddpm_jax.recipe import (
    ClipText,
    Cosine,
    Data,
    Diffusion,
    Fit,
    ImageEmbedding,
    Stratified,
    UNet,
    recipe,
)

PAIR, PRIOR = "runs/sprites_clip", "runs/sprites_prior"


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="folder:sprites", image_size=32, hold_out=10, flip=False),
            network=UNet(
                channels=32,
                channel_multipliers=(1, 2, 3),
                num_res_blocks=1,
                attention_resolutions=(8,),
                num_heads=2,
                num_groups=8,
            ),
            conditioners={
                "image_embedding": ImageEmbedding(PAIR, condition_dropout=0.1),
                "text": ClipText(run=PAIR, condition_dropout=0.5),
            },
            condition_dropout=0.0,
            schedule=Cosine(1000),
            prediction="v",
            times=Stratified(),
            preview_steps=20,
        ),
        Fit(
            num_steps=2500,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            preview_every=500,
            checkpoint_every=500,
        ),
        sample={
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "guidance_scale": 2.0,
            "prior": PRIOR,
            "batch_size": 100,
        },
    )
