"""Class-conditional DDPM on UCI's 1,797 optical digits of 8x8: the demo.

Command:   make demo, or
           python main.py --config=configs/digits.py --workdir=runs/digits
Model:     1,003,137 parameters; cosine schedule, T = 1000, drawn in 250 steps
Time:      3.5 minutes on two x86-64 cores (jax 0.10.2), at about 660 images a second
Result:    493 of 500 drawn digits are read as the digit asked for by a support vector
           machine fitted on the real ones (`make test-demo`)
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "digits"
    config.data.flip = False
    config.model.channels = 32
    config.model.channel_multipliers = (1, 2)
    config.model.attention_resolutions = (4,)
    config.model.dropout = 0.0
    config.model.class_conditional = True
    config.diffusion.schedule = "cosine"
    config.diffusion.variance = "small"  # the better one at fewer steps than T
    config.diffusion.times = "stratified"
    config.training.num_steps = 800
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 100
    config.training.decay = "cosine"
    config.training.ema_decay = 0.995
    config.training.report_every = 50
    config.training.sample_every = 400
    config.training.sample_num_steps = 50
    config.training.checkpoint_every = 200
    config.evaluate.features = "runs/digits_features"  # of configs/digits_features.py
    config.sample.num_images = 100
    config.sample.batch_size = 100
    config.sample.num_steps = 250  # of 1000, evenly spaced
    return config
