"""Models that other programs trained or should load: their names, files and settings.

    diffusers.py          the folder of Hugging Face diffusers, in and out
    diffusers_unet.py, diffusers_scheduler.py    its two JSON files <-> our options
    openai.py, openai_names.py    the state dicts of improved- and guided-diffusion
    carry.py              tensors of theirs <-> the nested parameters of our U-Net
    hub.py                fetching from a repository of the Hugging Face hub

Nothing that a file holds is run, and no PyTorch is needed. Options are plain nested
dictionaries here, {"model": {"channels": 128, ...}, "diffusion": {...}, ...}.
"""

from ddpm_jax.exchange.pretrained import Pretrained

__all__ = ["Pretrained"]
