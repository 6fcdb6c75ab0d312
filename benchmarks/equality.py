"""The recipe's network in diffusers, and the check that outputs are equal."""

import contextlib
from typing import Any

import diffusers
import jax
import numpy as np
import torch

from benchmarks import diffusers_weights as weights
from benchmarks import parts
from benchmarks.peer_networks import device
from benchmarks.peer_steps import autocast
from ddpm_jax import assembly
from ddpm_jax.conditioning.conditioned import Conditioned
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
    classes = assembly.num_classes(of.recipe.task, of.info)
    options = weights.options_of(of.unet.network, *of.info.image_shape, classes)
    module = diffusers.UNet2DModel(**options)
    drawn = weights.random_weights(module, np.random.default_rng(0))
    params = weights.to_flax(drawn, len(of.unet.network.channel_multipliers))
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
    inputs = parts.forward_inputs(of, min(2, of.recipe.training.batch_size))
    actual = _of_ddpm_jax(with_dtype(of.unet, "float32"), params, inputs)
    desired = _of_diffusers(module, inputs)
    difference = float(np.abs(actual - desired).max())
    scale = float(desired.std())
    print(f"largest difference from diffusers: {difference:.2e}, outputs {scale:.2f}")
    if not difference < BOUND * max(1.0, scale):
        raise UserError(
            f"the outputs differ by {difference:.2e} from those of diffusers, from the "
            "same weights and input; nothing is timed, as it is not the same network."
        )
    return {"largest_difference": difference, "output_std": scale}


def in_bfloat16(of: Any, module: Any, params: Any) -> dict[str, float]:
    """Compare the outputs of both networks in bfloat16, as they are timed.

    Nothing is refused: float32 has proved that they are the same network, and this
    measures how far rounding takes either of them.

    Args:
        of: a `parts.Parts`.
        module: of diffusers.
        params: of ddpm_jax.

    Returns:
        Distances ||a - b|| / ||b||: of each library in bfloat16 from diffusers in
        float32, and of the two in bfloat16 from each other.
    """
    inputs = parts.forward_inputs(of, min(2, of.recipe.training.batch_size))
    exact = _of_diffusers(module, inputs)
    own = _of_ddpm_jax(with_dtype(of.unet, "bfloat16"), params, inputs)
    theirs = _of_diffusers(module, inputs, autocast(of.recipe.task.network.dtype))
    found = {
        "ddpm_jax_from_float32": distance(own, exact),
        "diffusers_from_float32": distance(theirs, exact),
        "from_each_other": distance(own, theirs),
    }
    print(", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    return found


def with_dtype(net: Conditioned, dtype: str) -> Conditioned:
    """Return a network that computes in another dtype."""
    return net.clone(network=net.network.clone(dtype=dtype))


def distance(actual: np.ndarray, desired: np.ndarray) -> float:
    """Return ||actual - desired|| / ||desired||."""
    actual, desired = (np.asarray(x, np.float64) for x in (actual, desired))
    return float(np.linalg.norm(actual - desired) / np.linalg.norm(desired))


def _of_ddpm_jax(net: Any, params: Any, inputs: tuple[Any, ...]) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        x_t, t, label = inputs
        cond = None if label is None else {"label": label}
        output = jax.jit(net.apply)({"params": params}, x_t, t, cond)
        return np.asarray(output, np.float32)


def _of_diffusers(
    module: Any, inputs: tuple[Any, ...], context: Any = None
) -> np.ndarray:
    x_t, t, label = inputs
    is_training, before = module.training, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        context or contextlib.nullcontext(),
    ):
        on_device = device()
        output = module.eval()(
            torch.from_numpy(x_t).permute(0, 3, 1, 2).to(on_device),
            torch.from_numpy(t).to(on_device),
            class_labels=None if label is None else torch.tensor(label).to(on_device),
        ).sample
    torch.set_float32_matmul_precision(before)
    module.train(is_training)
    return output.permute(0, 2, 3, 1).float().cpu().numpy()
