"""CIFAR-10, unconditional: improved DDPM, L_hybrid (Nichol and Dhariwal 2021).

Command:   python main.py --config=configs/cifar_cosine.py --workdir=runs/cifar_cosine
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared cifar10
Model:     52,546,438 parameters; cosine schedule, T = 4000, learned variance
Time:      500,000 steps of batch 128; not measured here yet
Expected:  FID 3.19, 3.17 bits/dim with all 4000 steps (paper, table 2, as recorded by
           others; check it there before quoting); not reproduced here yet
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.flip = False  # the published code has no flips,
    config.training.warmup_steps = 0  # no warm-up
    config.training.max_grad_norm = 0.0  # and no clipping
    config.training.learning_rate = 1e-4
    config.training.num_steps = 500_000
    config.model.num_res_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.model.dropout = 0.3
    config.diffusion.schedule = "cosine"
    config.diffusion.num_levels = 4000
    config.diffusion.t_range = 1000  # the network is told t * 1000 / 4000
    config.diffusion.variance = "learned"
    config.diffusion.loss = "hybrid"
    return config
