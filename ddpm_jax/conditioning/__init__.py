"""Conditioning: from labels, prompts and images to the ports of a network.

    conditioner.py        the protocol; condition dropout, null condition, for any set
    conditioned.py        a network with its conditioners, as one module

    label.py              the conditioners, a file each
    text.py
    clip_text.py          a text read by a frozen dual encoder (CLIP)
    image_embedding.py    an image embedding of one: the decoder of unCLIP
    low_res.py            with noise-conditioning augmentation
    grey.py
    masked.py
    known_frames.py       of a clip, with noise-conditioning augmentation
    self_conditioning.py
    image_maps.py         what low_res, grey and masked have in common

    encoded_text.py       Tokens, Encoded; interpolation; what tokenizers share
    tokenizers.py            a tokenizer, from its plain data
    tokens.py             Words, Bytes: for an encoder that trains (networks/text.py)
    minilm.py             MiniLM: a sentence encoder that others trained, frozen
    minilm_folder.py      where its files lie, and what is in them
    encoded_file.py       its vectors of texts, kept on disk
    clip.py               a frozen dual encoder, opened
    masks.py              random masks for inpainting

Nothing here knows of a config. `encoded_text` says how the two tokenizers are alike.
"""

from ddpm_jax.conditioning.encoded_text import Encoded, Tokenizer, Tokens, distinct
from ddpm_jax.conditioning.minilm import MiniLM
from ddpm_jax.conditioning.tokenizers import reopen
from ddpm_jax.conditioning.tokens import Bytes, Words

__all__ = [
    "Bytes",
    "Encoded",
    "MiniLM",
    "Tokenizer",
    "Tokens",
    "Words",
    "distinct",
    "reopen",
]
