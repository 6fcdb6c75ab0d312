"""The recipe of tiny.py with a U-Net, where that is what a test is about."""

from tiny import recipe_of

from ddpm_jax.recipe import UNet


def get_config():
    """Return the recipe."""
    return recipe_of(
        UNet(
            channels=8,
            num_groups=4,
            channel_multipliers=(1,),
            num_res_blocks=1,
            attention_resolutions=(),
            dropout=0.1,
        )
    )
