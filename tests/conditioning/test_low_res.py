"""The augmentation level in a U-Net: what it changes, and what it must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddpm_jax.conditioning.conditioned import Conditioned, as_network
from ddpm_jax.conditioning.label import Label
from ddpm_jax.conditioning.low_res import AugmentedMap, LowRes
from ddpm_jax.networks import UNet

UNET = UNet(
    out_channels=1,
    channels=8,
    channel_multipliers=(1,),
    num_res_blocks=1,
    num_groups=4,
)
LABEL = {"label": Label(3)}
PLAIN = Conditioned(UNET, LABEL | {"low_res": LowRes(2)})
AUGMENTED = Conditioned(UNET, LABEL | {"low_res": LowRes(2, 0.5)})
X = np.random.default_rng(0).standard_normal((3, 4, 4, 1)).astype(np.float32)
T = np.asarray([0, 7, 999], np.int32)
MAP = jnp.asarray(np.random.default_rng(2).standard_normal((3, 4, 4, 1)))


@pytest.fixture(scope="module")
def run():
    """The network as a function of time and noise, all parameters drawn at random."""
    shapes = jax.eval_shape(AUGMENTED.init, jax.random.key(0), X, T)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes
    )
    return jax.jit(
        lambda t, level: as_network(AUGMENTED)(
            params, X, t, {"low_res": AugmentedMap(MAP, level / 1000)}
        )
    )


def test_other_parameters_are_what_they_are_without():
    given, plain = (
        net.init(jax.random.key(0), X, T)["params"] for net in (AUGMENTED, PLAIN)
    )
    assert set(given) - set(plain) == {"low_res"}
    kept = {name: leaf for name, leaf in given.items() if name != "low_res"}
    jax.tree.map(np.testing.assert_array_equal, kept, plain)


@pytest.mark.parametrize("width", [4, 8, 12])
def test_a_narrow_network_is_told_its_level_too(width):
    """A quarter of its width would hold no two frequencies, and be NaN."""
    embedder = LowRes(max_aug_level=0.5).embedder(width)
    given = AugmentedMap(MAP, jnp.asarray([0.0, 0.2, 0.4]))
    params = embedder.init(jax.random.key(0), given)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # begins at 0
    vector = np.asarray(embedder.apply(params, given).vector)
    assert np.isfinite(vector).all() and vector.shape == (3, width)
    assert np.abs(np.diff(vector, axis=0)).max(axis=1).min() > 1e-3


def test_each_row_has_its_own_level(run):
    given = np.asarray(run(T, jnp.asarray([0.0, 250.0, 0.0])))
    none = np.asarray(run(T, jnp.zeros(3)))
    change = np.abs(given - none).max(axis=(1, 2, 3))
    assert change[1] > 1e-2
    np.testing.assert_allclose(change[[0, 2]], 0, atol=1e-5)


def test_level_and_time_are_told_apart(run):
    """Level 7 at time 250 is not level 250 at time 7: each has layers of its own."""
    one, other = (
        np.asarray(run(np.full(3, t, np.int32), jnp.full(3, level)))
        for t, level in ((7, 250.0), (250, 7.0))
    )
    assert np.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("shift", [0, 1])
def test_time_and_noise_are_coded_with_the_shift_of_the_network(shift):
    """Frequencies 10000^(-i / (4 - shift)) of codes of eight, into the first layers."""
    net, codes = (
        AUGMENTED.clone(
            network=UNET.clone(frequency_shift=shift),
            conditioners={"low_res": LowRes(2, 0.5, frequency_shift=shift)},
        ),
        {},
    )

    def keep(next_fun, args, kwargs, context):
        if context.module.name in ("time_0", "dense_0"):
            codes[context.module.name] = np.asarray(args[0])
        return next_fun(*args, **kwargs)

    level = np.array([0.0, 250.0, 30.5], np.float32)
    rows = AugmentedMap(MAP, jnp.asarray(level / 1000))
    params = net.init(jax.random.key(0), X, T)["params"]
    with nn.intercept_methods(keep):
        net.apply({"params": params}, X, T, {"low_res": rows})
    w = 10000.0 ** (-np.arange(4) / (4 - shift))
    for name, t in (("time_0", T), ("dense_0", level)):
        angles = np.outer(t.astype(np.float64), w)
        expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        # Angles near 1000 keep about 6e-5 radians in float32.
        np.testing.assert_allclose(codes[name], expected, atol=2e-4, err_msg=name)
