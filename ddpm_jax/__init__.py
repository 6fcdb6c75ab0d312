"""Denoising diffusion probabilistic models in JAX.

    model = ddpm_jax.load("runs/digits")
    images = model.sample(16, label=7, num_steps=50, seed=0)

The rooms: `diffusion` (the mathematics), `networks`, `data`, `training`, `sampling`,
`evaluation` (scores), `runtime`; `assembly` joins them as a recipe says. Importing this
loads no JAX and touches no device.
"""

import os
from typing import Any

__version__ = "0.2.0.dev0"


def load(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    ema_std: float | None = None,
) -> Any:
    """Open a trained model.

    On the CPU, where nothing has used JAX yet, each core becomes a device, as for the
    commands; `JAX_NUM_CPU_DEVICES=1` in the environment leaves it at one.

    Args:
        run: folder of a run; or of a model in the layout of Hugging Face diffusers,
            which is read as it lies, and nothing is written.
        step: of the checkpoint of a diffusion model; None for the newest.
        ema: whether its averaged (EMA) parameters are used, or the raw ones.
        ema_std: length of an average built from those that the run tracked, as a share
            of the run; None for the average of the training.

    Returns:
        `loading.DiffusionModel`, `ClassifierModel`, `AutoencoderModel` or
        `ContrastiveModel`, whichever the folder holds.

    Raises:
        UserError: the folder holds no model, a damaged one, or not such parameters.
    """
    from ddpm_jax import loading  # which loads JAX

    return loading.load(run, step=step, ema=ema, ema_std=ema_std)
