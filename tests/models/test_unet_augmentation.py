"""The noise of a condition in the U-Net: who is told, and who is as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.models import UNet

PLAIN = UNet(
    out_channels=1,
    channels=8,
    channel_multipliers=(1,),
    num_res_blocks=1,
    num_groups=4,
    num_classes=3,
)
TOLD = PLAIN.clone(augmentation=True)
X = np.random.default_rng(0).standard_normal((3, 4, 4, 2)).astype(np.float32)
T = np.asarray([0, 7, 999], np.int32)
OF_THE_NOISE = {"augmentation_0", "augmentation_1"}


@pytest.fixture(scope="module")
def run():
    """The network as a function of time and noise, all parameters drawn at random."""
    shapes = jax.eval_shape(TOLD.init, jax.random.key(0), X, T)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )
    return jax.jit(
        lambda t, level: TOLD.apply({"params": params}, X, t, None, None, level)
    )


def test_other_parameters_are_what_they_are_without():
    told, plain = (net.init(jax.random.key(0), X, T)["params"] for net in (TOLD, PLAIN))
    assert set(told) - set(plain) == OF_THE_NOISE
    kept = {name: leaf for name, leaf in told.items() if name not in OF_THE_NOISE}
    jax.tree.map(np.testing.assert_array_equal, kept, plain)


def test_each_row_is_told_its_own_noise_and_none_is_zero(run):
    told = np.asarray(run(T, jnp.asarray([0.0, 250.0, 0.0])))
    none = np.asarray(run(T, jnp.zeros(3)))
    change = np.abs(told - none).max(axis=(1, 2, 3))
    assert change[1] > 1e-2
    np.testing.assert_allclose(change[[0, 2]], 0, atol=1e-5)
    np.testing.assert_allclose(run(T, None), none, atol=1e-5)  # another program


def test_noise_and_time_are_told_apart(run):
    """Level 7 at time 250 is not level 250 at time 7: each has layers of its own."""
    one, other = (
        np.asarray(run(np.full(3, t, np.int32), jnp.full(3, level)))
        for t, level in ((7, 250.0), (250, 7.0))
    )
    assert np.abs(one - other).max() > 1e-2


def test_noise_is_refused_by_a_network_that_is_told_none():
    with pytest.raises(UserError, match="augmentation=True"):
        PLAIN.init(jax.random.key(0), X, T, noise_level=jnp.zeros(3))
