"""Captioned shapes."""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "shapes"
    config.data.image_size = 16
    config.data.flip = False
    config.model.channels = 32
    config.model.channel_multipliers = (1, 2, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.num_heads = 2
    config.model.num_groups = 8
    config.model.dropout = 0.0
    config.model.text = "words"
    config.model.text_width = 64
    config.diffusion.schedule = "cosine"
    config.diffusion.num_levels = 1000
    config.diffusion.prediction = "v"
    config.diffusion.times = "stratified"
    config.training.num_steps = 4000
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 200
    config.training.decay = "cosine"
    config.training.ema_decay = 0.998
    config.training.report_every = 100
    config.training.sample_every = 1000
    config.training.sample_num_steps = 20
    config.training.checkpoint_every = 1000
    config.sample.sampler = "ddim"
    config.sample.num_steps = 50
    config.sample.guidance_scale = 3.0
    return config
