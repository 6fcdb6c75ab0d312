"""A variational autoencoder of points in the plane: docs/families.md.

Command:   python main.py --config=configs/points_vae.py:ring --workdir=runs/ring-vae
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
Model:     54,663 parameters; two perceptrons with Fourier features, a decoder whose
           width is learned; the weight of the KL rises over the first 200 steps: where
           it rises over thousands, codes spread first and cover the prior unevenly
"""

from ddpm_jax.recipe import VAE, Data, Fit, VectorAutoencoder, recipe


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    return recipe(
        VAE(
            data=Data(source=f"points:{name}", flip=False),
            network=VectorAutoencoder(width=112, depth=3, num_frequencies=3),
            kl_warmup=200,
            initial_std=0.1,
        ),
        Fit(
            num_steps=6000,
            batch_size=256,
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.998,
            report_every=500,
            preview_every=3000,
            checkpoint_every=3000,
        ),
        sample={"num_images": 2000, "batch_size": 2000},
    )
