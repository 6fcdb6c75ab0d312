"""Any finished scene, refined as a mesh: the fine stage of Magic3D.

Command:   python main.py --config=configs/refine.py:runs/dream
           with the run of a scene (configs/dream.py) in the place of runs/dream
Model:     signed distance, offsets and colors at 25 x 25 x 25 points, 109,375 numbers;
           2 views of 48x48 a step, pooled to the 16x16 of runs/solids
"""

from ddpm_jax.recipe import Adam, Fit, Refinement, recipe


def get_config(coarse=""):
    """Return the recipe.

    Args:
        coarse: folder of the run of a scene.
    """
    return recipe(
        Refinement(coarse=coarse),
        Fit(
            num_steps=300,
            batch_size=2,
            optimizer=Adam(b1=0.9, b2=0.99),
            learning_rate=5e-2,
            decay="cosine",
            warmup_steps=0,
            max_grad_norm=0.0,
            ema_decay=0.9,
            report_every=50,
            preview_every=100,
            checkpoint_every=100,
        ),
    )
