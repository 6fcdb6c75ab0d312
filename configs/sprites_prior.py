"""The diffusion prior of unCLIP on named game sprites: from a name to an embedding.

Command:   python main.py --config=configs/sprites_clip.py
           python main.py --config=configs/sprites_prior.py
           configs/sprites_prior.py:regression is its baseline, the same transformer
           without noise: it predicts the mean of the embeddings of a name
Model:     595,200 parameters
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    AdamW,
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

PAIR = "runs/sprites_clip"


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
            f"configs/sprites_prior.py has no {kind!r:.40}; use diffusion or "
            "regression."
        )
    return recipe(
        Diffusion(
            data=Data(source="folder:sprites", image_size=32, hold_out=10, flip=False),
            codec=Embeddings(PAIR),
            # Five thousand embeddings are few: against learning them by heart it has
            # dropout, and weight decay below.
            network=PriorTransformer(width=128, depth=2, dropout=0.1),
            conditioners={"text": ClipText(run=PAIR)},
            schedule=schedules[kind],
            prediction="x0",
            variance="small",
            times=Stratified(),
            preview_steps=50 if kind == "diffusion" else 1,
        ),
        Fit(
            num_steps=2000,
            batch_size=128,
            optimizer=AdamW(weight_decay=0.05),
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
