"""A variational autoencoder of points in the plane: docs/families.md.

Command:   python main.py --config=configs/points_vae.py:ring --workdir=runs/ring-vae
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
Model:     10,631 parameters; two perceptrons with Fourier features, a decoder whose
           width is learned; the weight of the KL rises over half of the run
"""

from ddpm_jax.recipe import VAE, Data, Fit, VectorAutoencoder, recipe


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    return recipe(
        VAE(
            data=Data(source=f"points:{name}", flip=False),
            network=VectorAutoencoder(width=64, depth=2, num_frequencies=3),
            kl_warmup=2000,
            initial_std=0.1,
        ),
        Fit(
            num_steps=8000,
            batch_size=256,
            learning_rate=3e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.998,
            report_every=1000,
            preview_every=4000,
            checkpoint_every=4000,
        ),
        sample={"num_images": 2000, "batch_size": 2000},
    )
