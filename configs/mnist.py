"""MNIST at 32x32, class-conditional, sized so that a CPU can train it.

Command:   python main.py --config=configs/mnist.py --workdir=runs/mnist
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared mnist
Model:     687,473 parameters; 28x28 padded to 32x32 with background; 3 levels of 16, 32
           and 64 channels; cosine schedule, T = 1000, drawn in 250 steps
Time:      36 minutes on two x86-64 cores (jax 0.10.2), at about 120 images a second
Result:    88 of 100 drawn digits are read as the digit asked for by a support vector
           machine that reads 97.0% of real test digits right (docs/pictures.md)
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "mnist"
    config.data.pad_to = 32  # 28x28 would end in maps of 7x7
    config.data.flip = False  # a mirrored 2 is no 2
    config.model.channels = 16
    config.model.num_groups = 8
    config.model.channel_multipliers = (1, 2, 4)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.dropout = 0.0
    config.model.class_conditional = True
    config.diffusion.schedule = "cosine"
    config.diffusion.variance = "small"  # the better one at fewer steps than T
    config.diffusion.times = "stratified"
    config.training.num_steps = 4000
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 200
    config.training.decay = "cosine"
    config.training.ema_decay = 0.999
    config.training.report_every = 50
    config.training.sample_every = 500
    config.training.sample_num_steps = 50
    config.training.checkpoint_every = 250
    config.training.keep_every = 0
    config.evaluate.features = "runs/mnist_features"  # of configs/mnist_features.py
    config.sample.num_images = 100
    config.sample.batch_size = 50
    config.sample.num_steps = 250  # of 1000, evenly spaced
    return config
