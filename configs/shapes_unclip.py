"""The decoder of unCLIP on captioned shapes at 16x16, of image embeddings and texts.

Command:   python main.py --config=configs/shapes_clip.py
           python main.py --config=configs/shapes_prior.py
           python main.py --config=configs/shapes_unclip.py
Model:     1,252,771 parameters, the U-Net of configs/shapes.py with two conditions
Time:      27 minutes of one x86-64 core (jax 0.10.2), at about 120 images a second
Result:    52% of 400 pictures of captions that training never showed have all that is
           said; after 2,700 further steps 61%, and what is unsaid is spread nearly as
           in the data, unlike that of regression (docs/unclip.md)
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

PAIR, PRIOR = "runs/shapes_clip", "runs/shapes_prior"


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(source="shapes:partial", image_size=16, flip=False),
            network=UNet(
                channels=32,
                channel_multipliers=(1, 2, 2),
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
            num_steps=3000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            checkpoint_every=1000,
        ),
        sample={
            "sampler": "dpmpp_2m",
            "num_steps": 20,
            "guidance_scale": 2.0,
            "prior": PRIOR,
            "batch_size": 100,
        },
        evaluate={"num_images": 500},  # of attributes, for each kind of prompt
    )
