"""The smallest recipe that goes through every part of the program in seconds."""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "digits"
    config.model.channels = 8
    config.model.num_groups = 4
    config.model.channel_multipliers = (1,)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = ()
    config.model.class_conditional = True
    config.diffusion.num_levels = 20
    config.training.num_steps = 12
    config.training.batch_size = 8
    config.training.warmup_steps = 2
    config.training.report_every = 2
    config.training.sample_every = 6
    config.training.sample_num_steps = 5
    config.training.checkpoint_every = 3
    config.training.keep_last = 10
    config.sample.num_images = 6
    config.sample.batch_size = 4
    config.sample.film_frames = 4
    config.sample.film_images = 2
    return config
