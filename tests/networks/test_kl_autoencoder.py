"""The autoencoder and its discriminator: published sizes, and what they refuse.

tests/peers/test_autoencoder.py holds the network against another program's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks.discriminator import PatchDiscriminator, check_discriminator
from ddpm_jax.networks.kl_autoencoder import (
    KLAutoencoder,
    check_autoencoder,
    sample_posterior,
)

TINY = KLAutoencoder(
    image_channels=1,
    latent_channels=2,
    channels=4,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    num_groups=2,
)


def shapes_of(net, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def randomised(net, *shape):
    rng = np.random.default_rng(1)

    def fill(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4.0
        return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(fill, shapes_of(net, *shape))


@pytest.fixture(scope="module")
def tiny():
    images = np.random.default_rng(2).uniform(-1, 1, (3, 4, 8, 1)).astype(np.float32)
    return randomised(TINY, 1, 4, 8, 1), images


def test_number_of_parameters_of_the_published_networks():
    """Stable Diffusion's: https://huggingface.co/stabilityai/sd-vae-ft-mse, 83.7 M."""
    published = KLAutoencoder(3, channels=128, channel_multipliers=(1, 2, 4, 4))
    assert count(shapes_of(published, 1, 256, 256, 3)) == 83_653_863
    # pix2pix's "basic" discriminator has 2,764,737, without scale and shift of its
    # normalisations of 128, 256 and 512 channels.
    found = count(shapes_of(PatchDiscriminator(num_layers=3), 1, 256, 256, 3))
    assert found == 2_764_737 + 2 * (128 + 256 + 512)


@pytest.mark.parametrize(
    ("multipliers", "factor"), [((1, 1), 2), ((1, 1, 1), 4), ((1,) * 4, 8)]
)
def test_each_level_but_the_last_halves(multipliers, factor):
    net = KLAutoencoder(
        1, 3, 4, multipliers, num_res_blocks=1, num_groups=4, attention=False
    )
    x = jax.ShapeDtypeStruct((2, 16, 24, 1), jnp.float32)
    params = shapes_of(net, 2, 16, 24, 1)
    moments = jax.eval_shape(
        lambda p, x: net.apply({"params": p}, x, method="encode"), params, x
    )
    latents = (2, 16 // factor, 24 // factor, 3)
    assert [moment.shape for moment in moments] == [latents, latents]
    assert net.factor == factor
    z = jax.ShapeDtypeStruct(latents, jnp.float32)
    images = jax.eval_shape(
        lambda p, z: net.apply({"params": p}, z, method="decode"), params, z
    )
    assert images.shape == x.shape


def test_an_image_is_coded_as_it_would_be_alone(tiny):
    params, images = tiny
    code = jax.jit(lambda p, x: TINY.apply({"params": p}, x, method="encode"))
    whole, one = code(params, images), code(params, images[1:2])
    for both, alone in zip(whole, one, strict=True):
        np.testing.assert_allclose(both[1:2], alone, atol=1e-5)
    assert np.std(whole[0], axis=0).min() > 1e-4  # they are not all alike


def test_the_log_variance_is_clipped_and_the_mean_is_not(tiny):
    params, images = tiny
    params = jax.tree.map(np.copy, params)
    params["quant_conv"]["bias"][:] = [100, -100, 1000, -1000]
    mean, log_variance = TINY.apply({"params": params}, images, method="encode")
    np.testing.assert_array_equal(log_variance[..., 0], 20)
    np.testing.assert_array_equal(log_variance[..., 1], -30)
    assert mean[..., 0].mean() > 50 and mean[..., 1].mean() < -50


def test_draws_have_the_moments_of_the_posterior():
    mean, log_variance = jnp.full((40_000, 1), 2.0), jnp.full((40_000, 1), -1.0)
    drawn = np.asarray(sample_posterior(jax.random.key(0), mean, log_variance))
    std = np.exp(-0.5)
    assert abs(drawn.mean() - 2.0) < 4 * std / 200
    assert abs(drawn.std() - std) < 4 * std / np.sqrt(2 * 40_000)


def test_bfloat16_computes_so_and_answers_in_float32(tiny):
    params, images = tiny
    half = TINY.clone(dtype=jnp.bfloat16)
    ours, exact = (net.apply({"params": params}, images) for net in (half, TINY))
    assert ours.dtype == jnp.float32
    difference = np.abs(ours - exact).max() / np.std(exact)
    assert 1e-4 < difference < 0.1


def test_a_logit_sees_its_patch_alone():
    """34 pixels for two halvings: Isola et al. 2017, appendix 6.1.2, count alike."""
    net = PatchDiscriminator(4, num_layers=2, num_groups=2)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))["params"]

    # Normalisation sees the whole map, so it is taken away by freezing its input.
    def convolutions(x):
        for name, stride in (("conv_0", 2), ("conv_1", 2), ("conv_2", 1)):
            x = convolve(x, params[name]["kernel"], stride)
        return convolve(x, params["logits"]["kernel"], 1)

    def convolve(x, kernel, stride):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    slope = jax.grad(lambda x: convolutions(x)[0, 7, 7, 0])(jnp.zeros((1, 64, 64, 1)))
    rows = np.flatnonzero(np.abs(slope[0]).sum((1, 2)))
    assert rows[-1] - rows[0] + 1 == len(rows) == 34


def test_logits_do_not_depend_on_the_rest_of_the_batch():
    net = PatchDiscriminator(4, num_layers=1, num_groups=2)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    params = net.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        net.apply(params, x)[2:], net.apply(params, x[2:]), atol=1e-6
    )


SIZES = {
    "channels": 8,
    "channel_multipliers": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 4,
    "num_groups": 4,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channel_multipliers": (1,)}, "two levels or more"),
        ({"channel_multipliers": (1, 0)}, "whole number of 1 or more"),
        ({"latent_channels": 0}, "latent_channels=0 is too small"),
        ({"num_groups": 3}, "num_groups=3 does not divide the 8 channels of level 0"),
        ({"channel_multipliers": (1, 2, 2, 2, 2)}, "multiples of 16"),
    ],
)
def test_what_cannot_be_built_is_refused(change, said):
    check_autoencoder(24, 8, **SIZES)
    with pytest.raises(UserError, match=said):
        check_autoencoder(24, 8, **SIZES | change)


@pytest.mark.parametrize(
    ("side", "channels", "layers", "groups", "said"),
    [
        (8, 8, 2, 4, "too small for a discriminator that halves 2 times"),
        (32, 6, 2, 4, "does not divide the 6 channels"),
        (32, 8, 0, 4, "num_layers=0"),
    ],
)
def test_a_discriminator_that_cannot_be_is_refused(
    side, channels, layers, groups, said
):
    check_discriminator(32, 32, channels=8, num_layers=2, num_groups=4)
    with pytest.raises(UserError, match=said):
        check_discriminator(
            side, side, channels=channels, num_layers=layers, num_groups=groups
        )
