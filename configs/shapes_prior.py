"""The diffusion prior of unCLIP on captioned shapes: from a text to an image embedding.

Command:   python main.py --config=configs/shapes_clip.py
           python main.py --config=configs/shapes_prior.py
           configs/shapes_prior.py:regression is its baseline, the same transformer
           without noise: it predicts the mean of the embeddings of a text
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    ClipText,
    Constant,
    Cosine,
    Data,
    Diffusion,
    Embeddings,
    Fit,
    PriorTransformer,
    Stratified,
    recipe,
)

PAIR = "runs/shapes_clip"


def get_config(kind="diffusion"):
    """Return the recipe.

    Args:
        kind: diffusion; or regression, of which x_t is noise alone at both levels.

    Raises:
        UserError: the kind is neither.
    """
    schedules = {"diffusion": Cosine(1000), "regression": Constant(2, beta=0.99999)}
    if kind not in schedules:
        raise UserError(
            f"configs/shapes_prior.py has no {kind!r:.40}; use diffusion or regression."
        )
    return recipe(
        Diffusion(
            data=Data(source="shapes:partial", image_size=16, flip=False),
            codec=Embeddings(PAIR),
            network=PriorTransformer(width=128, depth=2),
            conditioners={"text": ClipText(run=PAIR)},
            schedule=schedules[kind],
            prediction="x0",
            variance="small",
            times=Stratified(),
            preview_steps=50 if kind == "diffusion" else 1,
        ),
        Fit(
            num_steps=3000,
            batch_size=128,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            checkpoint_every=1000,
        ),
        sample={
            "clip": False,  # embeddings have no range
            "num_steps": 50 if kind == "diffusion" else 1,
            "batch_size": 500,
        },
    )
