"""The recipe's network in diffusers, and the proof that it is the same."""

from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import diffusers_weights as weights
from benchmarks import parts
from benchmarks.peer_networks import device
from ddpm_jax.errors import UserError

# Largest difference of outputs of scale 1 in float32; tests/peers has it below 1e-4.
BOUND = 1e-3


def same_network(of: Any) -> tuple[Any, Any]:
    """Build the recipe's network in diffusers, with random weights, and carry them.

    Args:
        of: a `parts.Parts`.

    Returns:
        The torch module, and the parameters of ddpm_jax.

    Raises:
        UserError: diffusers has no such network.
    """
    options = weights.options_of(of.unet, *of.info.image_shape)
    module = diffusers.UNet2DModel(**options)
    drawn = weights.random_weights(module, np.random.default_rng(0))
    params = weights.to_flax(drawn, len(of.unet.channel_multipliers))
    return module.to(device()), params


def check_equal(of: Any, module: Any, params: Any) -> dict[str, float]:
    """Compare the outputs of both networks, computed in float32, on a few inputs.

    Args:
        of: a `parts.Parts`.
        module: of diffusers.
        params: of ddpm_jax.

    Returns:
        The largest difference, and the standard deviation of the output.

    Raises:
        UserError: they are not the same network; nothing may then be timed.
    """
    x_t, t, label = parts.forward_inputs(of, min(2, of.cfg.training.batch_size))
    net = of.unet.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(net.apply)({"params": params}, x_t, t, label)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        on_device = device()
        desired = module.eval()(
            torch.from_numpy(x_t).permute(0, 3, 1, 2).to(on_device),
            torch.from_numpy(t).to(on_device),
            class_labels=None if label is None else torch.tensor(label).to(on_device),
        ).sample
    torch.set_float32_matmul_precision(before)
    desired = desired.permute(0, 2, 3, 1).cpu().numpy()
    difference = float(np.abs(np.asarray(actual) - desired).max())
    scale = float(desired.std())
    print(f"largest difference from diffusers: {difference:.2e}, outputs {scale:.2f}")
    if not difference < BOUND * max(1.0, scale):
        raise UserError(
            f"the outputs differ by {difference:.2e} from those of diffusers, from the "
            "same weights and input; nothing is timed, as it is not the same network."
        )
    return {"largest_difference": difference, "output_std": scale}
