"""A generative adversarial network of points: docs/families.md.

Command:   python main.py --config=configs/points_gan.py:ring --workdir=runs/ring-gan
           with ring, grid, moons, swiss_roll, checkerboard, tree, or file:points.csv;
           ring if none is named
Model:     a generator of 34,690 parameters, Fourier features in both networks;
           relativistic loss with R1 and R2
"""

from ddpm_jax.recipe import (
    GAN,
    Adam,
    Data,
    Fit,
    VectorDiscriminator,
    VectorGenerator,
    recipe,
)


def get_config(name: str = "ring"):
    """Return the recipe for a set of points."""
    return recipe(
        GAN(
            data=Data(source=f"points:{name}", flip=False),
            network=VectorGenerator(width=128, depth=3, num_frequencies=2),
            discriminator=VectorDiscriminator(width=128, depth=3, num_frequencies=5),
            gamma=0.02,
        ),
        Fit(
            num_steps=4000,
            batch_size=256,
            optimizer=Adam(b1=0.0, b2=0.99),
            learning_rate=1e-3,
            warmup_steps=100,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.998,
            report_every=500,
            preview_every=2000,
            checkpoint_every=2000,
        ),
        sample={"num_images": 2000, "batch_size": 2000},
    )
