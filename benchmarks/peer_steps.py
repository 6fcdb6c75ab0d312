"""PyTorch side of `benchmarks.peers`: a training step, a reverse chain.

With what makes it faster: channels_last, torch.compile, fused Adam, and bfloat16
autocast if the recipe computes in bfloat16.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.peer_networks import Peer, device
from ddpm_jax.errors import UserError

VARIANTS = {  # name -> (channels_last, mode of torch.compile, or None for not)
    "eager": (False, None),
    "channels_last": (True, None),
    "compiled": (False, "default"),
    "compiled_channels_last": (True, "default"),
    # CUDA graphs, which spare the launching of single kernels.
    "graphs_channels_last": (True, "reduce-overhead"),
}


def synchronise() -> None:
    """Wait until the GPU has finished."""
    if device() == "cuda":
        torch.cuda.synchronize()


def autocast(dtype: str) -> Any:
    """Compute in bfloat16 where PyTorch deems it safe, or in float32 throughout."""
    if dtype == "bfloat16":
        return torch.autocast(device(), dtype=torch.bfloat16)
    return contextlib.nullcontext()


def prepared(module: nn.Module, variant: str) -> nn.Module:
    """Return the network in a variant: same parameters, other layout or compiled.

    Raises:
        UserError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise UserError(f"unknown variant {variant!r}; use {', '.join(VARIANTS)}.")
    channels_last, mode = VARIANTS[variant]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout)
    if mode is None:
        return module
    # What was compiled for other variants counts towards the number of recompilations
    # after which PyTorch gives up and runs a network as it is.
    torch.compiler.reset()
    return torch.compile(module, mode=mode)


def layout_of(variant: str) -> torch.memory_format:
    """Return the layout of images in a variant."""
    return torch.channels_last if VARIANTS[variant][0] else torch.contiguous_format


def make_train_step(
    peer: Peer, variant: str, recipe: Any, batch: dict[str, Any]
) -> Callable[[], None]:
    """Return one step of training: forward, backward, clip, Adam, average.

    Args:
        peer: the library.
        variant: of `VARIANTS`.
        recipe: the recipe.
        batch: "image" uint8 [B, H, W, C], "label" int [B] or none; NumPy.
    """
    module = prepared(peer.module, variant).train()
    parameters = list(peer.module.parameters())
    options = recipe.training
    adam = torch.optim.Adam(
        parameters,
        lr=options.learning_rate,
        betas=(options.optimizer.b1, options.optimizer.b2),
        eps=options.optimizer.eps,
        fused=True,
    )
    update_average = peer.average(peer.module)
    pixels = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(device())
    pixels = pixels.contiguous(memory_format=layout_of(variant))
    labels = None
    if "label" in recipe.task.conditioners:
        labels = torch.from_numpy(batch["label"]).long().to(device())

    def step() -> None:
        images = pixels.float() / 127.5 - 1
        if recipe.task.data.flip:
            mirrored = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        with autocast(recipe.task.network.dtype):
            loss = peer.loss(module, images, labels)
        loss.backward()
        if options.max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        adam.step()
        adam.zero_grad(set_to_none=True)
        update_average()

    return step


def make_chain(
    peer: Peer, variant: str, recipe: Any, x_init: Any, labels: Any, num_steps: int
) -> Callable[[], torch.Tensor]:
    """Return a reverse chain of so many steps from [B, H, W, C] noise.

    Args:
        peer: the library.
        variant: of `VARIANTS`.
        recipe: the recipe.
        x_init: float32 [B, H, W, C], NumPy.
        labels: int [B] or None, NumPy.
        num_steps: N, each of one forward pass.
    """
    module = prepared(peer.module, variant).eval()
    reverse = peer.reverse(module, num_steps)
    first = torch.from_numpy(x_init).permute(0, 3, 1, 2).to(device())
    first = first.contiguous(memory_format=layout_of(variant))
    class_labels = (
        None if labels is None else torch.from_numpy(labels).long().to(device())
    )

    def chain() -> torch.Tensor:
        x_t = first
        with torch.inference_mode(), autocast(recipe.task.network.dtype):
            for i in range(num_steps):
                x_t = reverse(x_t, i, class_labels)
        return x_t

    return chain
