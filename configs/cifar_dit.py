"""CIFAR-10, class-conditional, by a transformer on patches that predicts x_0.

Command:   python main.py --config=configs/cifar_dit.py --workdir=runs/cifar_dit
           with $TFDS_DATA_DIR (or --config.data.data_dir) naming the folder that holds
           the prepared cifar10
Model:     32,483,340 parameters; 256 patches of 2x2 pixels, DiT-S of Peebles & Xie
           2023 with the parts of Li & He 2025 (JiT); the straight path, the network
           outputs x_0 and the loss is the velocity's; sampled in 50 steps of Heun's
           rule
Time:      400,000 steps of batch 128; for a GPU; not measured here yet
Expected:  nothing that is published: both papers train on ImageNet
"""

from ddpm_jax.recipe import (
    Data,
    Diffusion,
    DiT,
    Fit,
    Label,
    LogitNormal,
    Straight,
    Velocity,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(),
            network=DiT(
                mlp="swiglu", norm="rms", rotary=True, qk_norm=True, dropout=0.1
            ),
            conditioners={"label": Label()},
            # A thousandth of signal, so that every grid and sampler has a start.
            schedule=Straight(1000, alpha_min=0.001),
            prediction="x0",
            loss=Velocity(),
            times=LogitNormal(mean=0.8, std=0.8),  # as Li & He: mostly noise
            variance="small",  # the better one at fewer steps than T
            preview_steps=50,
        ),
        Fit(num_steps=400_000, preview_every=10_000),
        sample={"sampler": "heun", "num_steps": 50},
    )
