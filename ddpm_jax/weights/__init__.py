"""Files of other programs: pretrained models in and out, and networks that score.

    diffusers.py          the folder of Hugging Face diffusers, in and out
    diffusers_unet.py, diffusers_scheduler.py    its two JSON files <-> our options
    diffusers_autoencoder.py    AutoencoderKL
    openai.py, openai_names.py    the state dicts of improved- and guided-diffusion
    torch_layout.py       tensors of theirs <-> the nested parameters of our U-Net
    hub.py                fetching from a repository of the Hugging Face hub
    inception_*.py, tensorflow_graph.py    Inception-v3: graph or state dict
    lpips_file.py         the linear layers of LPIPS and its VGG-16
    safetensors_file.py, torch_file.py, torch_pickle.py    files of tensors

Nothing that a file holds is run, and no PyTorch is needed. Options are plain nested
dictionaries here, {"model": {"channels": 128, ...}, "diffusion": {...}, ...}.
"""

from ddpm_jax.weights.pretrained import Pretrained

__all__ = ["Pretrained"]
