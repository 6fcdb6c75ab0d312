"""A classifier of CIFAR-10, to evaluate its models by where Inception is not at hand.

Command:   python main.py --config=configs/cifar_features.py
           with $TFDS_DATA_DIR naming the folder that holds the prepared cifar10
Model:     140,362 parameters; 3 levels of 16, 32 and 64 channels, 256 features
Time:      16 minutes on two x86-64 cores beside other work (jax 0.10.2)
Result:    reads 68.55% of the 10,000 test images right (a copy of the data that went
           through JPEG); on a GPU, make it wider: --config.network.channels=64
"""

from ddpm_jax.recipe import AdamW, Classifier, ClassifierTask, Fit, recipe


def get_config():
    """Return the recipe."""
    return recipe(
        ClassifierTask(network=Classifier(num_features=256), max_shift=3),
        Fit(
            num_steps=2000,
            optimizer=AdamW(),
            learning_rate=3e-3,
            warmup_steps=100,
            decay="cosine",
            max_grad_norm=0.0,
            ema_decay=0.995,
            checkpoint_every=500,
        ),
    )
