"""A scene that looks from all sides as a 2-D model says: DreamFusion.

Command:   python main.py --config=configs/dream.py --config.prompt='a snowman'
           with the run of configs/solids.py, which is its prior
           :fourier for a perceptron, :hash for a hash grid, in the place of voxels
Model:     24 x 24 x 24 voxels of density and color, 55,296 numbers; 8 views of 16x16 a
           step, 32 samples a ray
"""

from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    Adam,
    Fit,
    FourierField,
    HashGrid,
    Scene,
    VoxelGrid,
    recipe,
)

FIELDS = {
    "voxels": (VoxelGrid(resolution=24), 3e-2),
    "fourier": (FourierField(), 3e-3),
    "hash": (HashGrid(), 1e-2),
}
"""Name -> field, and the learning rate that suits it."""


def get_config(name="voxels"):
    """Return the recipe.

    Args:
        name: of the field: voxels, fourier or hash.

    Raises:
        UserError: there is no such field.
    """
    if name not in FIELDS:
        raise UserError(
            f"configs/dream.py has no field {name!r:.40}; use {', '.join(FIELDS)}."
        )
    field, rate = FIELDS[name]
    return recipe(
        Scene(prior="runs/solids", prompt="a snowman", field=field),
        Fit(
            num_steps=1500,
            batch_size=8,
            optimizer=Adam(b1=0.9, b2=0.99),
            learning_rate=rate,
            warmup_steps=0,
            max_grad_norm=0.0,
            ema_decay=0.95,
            report_every=100,
            preview_every=500,
            checkpoint_every=500,
        ),
    )
