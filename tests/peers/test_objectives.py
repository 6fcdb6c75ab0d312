"""Training objectives against Hugging Face diffusers, from the same tables.

Their functions are float32; the tables here are float64 and cast once.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import loss_weights, losses, process, schedules
from ddpm_jax.diffusion.process import EPS, V
from ddpm_jax.diffusion.schedules import from_betas

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
scheduling_ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
training_utils = pytest.importorskip("diffusers.training_utils")

TABLES = {
    "linear": schedules.linear_betas(1000),
    "scaled_linear": schedules.quadratic_betas(1000, 0.00085, 0.012),
    "squaredcos_cap_v2": schedules.cosine_betas(1000),
}


@pytest.mark.parametrize("name", TABLES)
def test_zero_terminal_snr_is_their_rescaling(name):
    betas = torch.from_numpy(TABLES[name])  # float64: their function keeps the dtype
    theirs = scheduling_ddim.rescale_zero_terminal_snr(betas).numpy()
    ours = schedules.zero_terminal_snr(TABLES[name])
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [EPS, V], ids=lambda kind: kind.name)
def test_min_snr_is_that_of_their_training_scripts(kind):
    """min(SNR, gamma) / SNR for eps and / (SNR + 1) for v, with their SNR."""
    peer = diffusers.DDPMScheduler(1000, beta_schedule="linear")
    times = np.arange(0, 1000, 37)
    snr = training_utils.compute_snr(peer, torch.from_numpy(times)).double()
    over = snr + (1 if kind is V else 0)
    theirs = (torch.clamp(snr, max=5.0) / over).numpy()

    schedule = from_betas(TABLES["linear"])
    level = schedule.at(jnp.asarray(times))
    x0 = eps = jnp.ones((len(times), 2))
    x_t = process.add_noise(x0, eps, level)
    draw = losses.Noised(x0, eps, x_t, level, level, jnp.asarray(times))
    output = kind.target(x0, eps, level) + 1.0
    ours = loss_weights.snr_weighted_loss(kind, loss_weights.min_snr(5.0))(output, draw)
    # Their 1 - alpha_bar in float32 has 3 digits at t = 0.
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-4)
