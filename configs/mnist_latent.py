"""MNIST in latents of 8x8x4, class-conditional, sized so that a CPU can train it.

Command:   python main.py --config=configs/mnist_autoencoder.py
           python main.py --config=configs/mnist_latent.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared mnist
Model:     1,026,308 parameters; 2 levels of 32 and 64 channels; cosine schedule,
           T = 1000, drawn in 250 steps
Time:      6 minutes on two x86-64 cores (jax 0.10.2) with the 100 pictures that it
           ends with, at about 420 images a second; before it once the latents of the
           data, half a minute
Result:    FD 1.46 of 2,000 pictures drawn in 20 steps of DPM-Solver++(2M); as many real
           ones have 0.10 (docs/results.md)
"""

from ddpm_jax.config import default


def get_config():
    """Return the recipe."""
    config = default()
    config.data.source = "mnist"
    config.data.pad_to = 32
    config.data.flip = False  # a mirrored 2 is no 2
    config.data.latents = "runs/mnist_autoencoder"
    config.model.channels = 32
    config.model.channel_multipliers = (1, 2)
    config.model.attention_resolutions = (8, 4)  # of latents
    config.model.dropout = 0.0
    config.model.class_conditional = True
    config.diffusion.schedule = "cosine"
    config.diffusion.prediction = "v"  # x0 is not clamped: see docs/latents.md
    config.diffusion.variance = "small"  # the better one at fewer steps than T
    config.diffusion.times = "stratified"
    config.training.num_steps = 2000
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
