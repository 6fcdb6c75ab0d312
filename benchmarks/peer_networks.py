"""The networks of `benchmarks.peers`: how their libraries train and sample with them.

Each peer is given what it is usually run with. What is timed of it, and in which
variants, is in `peer_steps`.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import torch
from torch import nn

from ddpm_jax.errors import UserError
from ddpm_jax.specs import kind_of


class Peer(NamedTuple):
    """A network of another library, and how that library trains and samples.

    Attributes:
        name: of the library.
        module: the network, float32.
        is_same: whether it is the network of ddpm_jax, weights included.
        loss: (module, images float [B, C, H, W] in [-1, 1], labels) -> [].
        reverse: (module, num_steps) -> (x_t, i, labels) -> x_s, the i-th reverse step.
        average: (module) -> a function that updates its moving average.
    """

    name: str
    module: nn.Module
    is_same: bool
    loss: Callable[..., torch.Tensor]
    reverse: Callable[..., Callable[..., torch.Tensor]]
    average: Callable[[nn.Module], Callable[[], None]]


def device() -> str:
    """Return where PyTorch computes: where JAX does, whatever else there is.

    Raises:
        UserError: this PyTorch cannot.
    """
    platform = jax.default_backend()
    found = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if found is None or (found == "cuda" and not torch.cuda.is_available()):
        raise UserError(
            f"JAX computes on a {platform}, and this PyTorch cannot; install one that "
            "can, or set JAX_PLATFORMS=cpu."
        )
    return found


# --- diffusers ------------------------------------------------------------------------


def diffusers_peer(module: nn.Module, recipe: Any) -> Peer:
    """Describe diffusers' UNet2DModel with its DDPMScheduler."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    num_levels = recipe.task.schedule.num_levels
    schedules = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
    scheduler = DDPMScheduler(
        num_train_timesteps=num_levels,
        # Another schedule has other numbers in its table, and takes as long.
        beta_schedule=schedules.get(kind_of(recipe.task.schedule), "linear"),
        variance_type={"small": "fixed_small"}.get(recipe.task.variance, "fixed_large"),
        clip_sample=True,
    )

    def call(module: nn.Module, x_t: Any, t: Any, labels: Any) -> torch.Tensor:
        return module(x_t, t, class_labels=labels, return_dict=False)[0]

    def loss(module: nn.Module, images: Any, labels: Any) -> torch.Tensor:
        noise = torch.randn_like(images)
        t = torch.randint(0, num_levels, images.shape[:1], device=images.device)
        noised = scheduler.add_noise(images, noise, t)
        output = call(module, noised, t, labels).float()
        return nn.functional.mse_loss(output, noise)

    def reverse(module: nn.Module, num_steps: int) -> Callable[..., torch.Tensor]:
        scheduler.set_timesteps(num_steps, device=device())

        def step(x_t: torch.Tensor, i: int, labels: Any) -> torch.Tensor:
            t = scheduler.timesteps[i]
            output = call(module, x_t, t, labels).float()
            return scheduler.step(output, t, x_t, return_dict=False)[0]

        return step

    def average(module: nn.Module) -> Callable[[], None]:
        ema = EMAModel(
            module.parameters(), decay=recipe.training.ema_decay, foreach=True
        )
        return lambda: ema.step(module.parameters())

    return Peer("diffusers", module, True, loss, reverse, average)


# --- denoising-diffusion-pytorch ------------------------------------------------------


@contextlib.contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    """Let denoising-diffusion-pytorch be imported where torchvision is missing.

    It imports torchvision for reading and writing images, which nothing here does;
    torchvision has to be built for the very torch that is installed, and often is not
    to be had. So empty modules stand in, in this process and during the import alone,
    so that no other library takes them for the real one.
    """
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    whole = types.ModuleType("torchvision", "An empty stand-in, of benchmarks.peers.")
    for part in ("transforms", "utils"):
        setattr(whole, part, types.ModuleType(f"torchvision.{part}"))
    sys.modules["torchvision"] = whole
    try:
        yield
    finally:
        del sys.modules["torchvision"]


def ddp_peer(recipe: Any, image_shape: tuple[int, int, int]) -> Peer:
    """Describe denoising-diffusion-pytorch's Unet, of sizes as near as it can have.

    It is another network: two blocks per level both ways, a 7x7 convolution first,
    RMS norms, linear attention where there is no full one, no classes. It is here
    because it is what many use, and its number of parameters is reported.

    Raises:
        UserError: the images are of no shape that it takes.
    """
    from ema_pytorch import EMA

    with _stand_in_for_torchvision():
        from denoising_diffusion_pytorch.denoising_diffusion_pytorch import (
            GaussianDiffusion,
            Unet,
        )

    height, width, channels = image_shape
    options = recipe.task.network
    levels = range(len(options.channel_multipliers))
    sides = [min(height, width) >> i for i in levels]
    module = Unet(
        dim=options.channels,
        dim_mults=tuple(options.channel_multipliers),
        channels=channels,
        full_attn=tuple(side in options.attention_resolutions for side in sides),
        dropout=options.dropout,
        flash_attn=device() == "cuda",
    ).to(device())

    def of(module: nn.Module) -> GaussianDiffusion:
        return GaussianDiffusion(
            module,
            image_size=(height, width),
            timesteps=recipe.task.schedule.num_levels,
            objective="pred_noise",
            beta_schedule="linear",
            auto_normalize=False,
        ).to(device())

    made: dict[int, GaussianDiffusion] = {}

    def diffusion_of(module: nn.Module) -> GaussianDiffusion:
        if id(module) not in made:  # and it keeps the module, and so its number
            made[id(module)] = of(module)
        return made[id(module)]

    def loss(module: nn.Module, images: Any, labels: Any) -> torch.Tensor:
        del labels
        return diffusion_of(module)(images)

    def reverse(module: nn.Module, num_steps: int) -> Callable[..., torch.Tensor]:
        del num_steps
        diffusion, last = diffusion_of(module), recipe.task.schedule.num_levels - 1

        def step(x_t: torch.Tensor, i: int, labels: Any) -> torch.Tensor:
            del labels
            return diffusion.p_sample(x_t, max(last - i, 0))[0]

        return step

    def average(module: nn.Module) -> Callable[[], None]:
        ema = EMA(
            module,
            beta=recipe.training.ema_decay,
            update_every=1,  # its trainer's 10 would leave out what the others do
            update_after_step=0,
            use_foreach=True,
        )
        return ema.update

    return Peer("denoising-diffusion-pytorch", module, False, loss, reverse, average)
