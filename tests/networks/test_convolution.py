"""3x3 convolutions, by tiles and by XLA, against sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks.convolution import (
    conv3x3,
    conv3x3_of_upsampled,
    upsample_nearest,
)

# The first is computed by tiles on a CPU; the others by XLA, for want of channels, of
# pixels, or of an even side.
SIZES = [(2, 8, 12, 64, 72), (2, 8, 8, 64, 3), (2, 4, 8, 64, 64), (1, 9, 8, 64, 64)]


def arrays(batch, height, width, channels, features):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, channels, features)).astype(np.float32)
    return x, kernel


def expected(x, kernel):
    """Sum over the nine taps in float64, zeros around the map."""
    _, height, width, _ = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )


def enlarged(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def assert_close(found, wanted):
    """Agree to float32, as a share of the largest number."""
    error = np.abs(np.asarray(found, np.float64) - wanted).max()
    assert error < 3e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_sum_over_nine_taps(size):
    x, kernel = arrays(*size)
    assert_close(jax.jit(conv3x3)(x, kernel), expected(x, kernel))


@pytest.mark.parametrize("size", [(2, 4, 6, 64, 72), (2, 4, 4, 8, 8)], ids=str)
def test_the_convolution_of_repeated_pixels(size):
    x, kernel = arrays(*size)
    found = jax.jit(conv3x3_of_upsampled)(x, kernel)
    assert_close(found, expected(enlarged(x), kernel))


def adjoints(x, kernel, slope):
    """Gradients of sum(slope * conv(x, kernel)), written out in float64."""
    _, height, width, _ = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    of_padded = np.zeros_like(padded)
    of_kernel = np.zeros(kernel.shape)
    for i in range(3):
        for j in range(3):
            here = np.s_[:, i : i + height, j : j + width]
            of_padded[here] += slope @ kernel[i, j].astype(np.float64).T
            of_kernel[i, j] = np.einsum("bhwc,bhwd->cd", padded[here], slope)
    return of_padded[:, 1:-1, 1:-1], of_kernel


def test_gradients_by_tiles():
    x, kernel = arrays(2, 8, 12, 64, 72)
    slope = np.random.default_rng(1).standard_normal((2, 8, 12, 72))
    by_x, by_kernel = jax.vjp(conv3x3, x, kernel)[1](slope.astype(np.float32))
    wanted_x, wanted_kernel = adjoints(x, kernel, slope.astype(np.float32))
    assert_close(by_x, wanted_x)
    assert_close(by_kernel, wanted_kernel)


def test_gradients_of_repeated_pixels():
    x, kernel = arrays(2, 4, 6, 64, 72)
    slope = np.random.default_rng(1).standard_normal((2, 8, 12, 72))
    _, pull = jax.vjp(conv3x3_of_upsampled, x, kernel)
    by_x, by_kernel = pull(slope.astype(np.float32))
    wanted_x, wanted_kernel = adjoints(enlarged(x), kernel, slope.astype(np.float32))
    # A pixel that was repeated four times gathers the slopes of all four.
    wanted_x = wanted_x.reshape(2, 4, 2, 6, 2, 64).sum(axis=(2, 4))
    assert_close(by_x, wanted_x)
    assert_close(by_kernel, wanted_kernel)


@pytest.mark.parametrize("convolve", [conv3x3, conv3x3_of_upsampled])
def test_forward_derivatives_and_batches_of_them(convolve):
    # A convolution is linear in the map: its derivative along v is that of v itself.
    x, kernel = arrays(1, 8, 8, 64, 64)
    directions = arrays(3, 8, 8, 64, 64)[0][:, None]
    slopes = jax.vmap(lambda v: jax.jvp(lambda x: convolve(x, kernel), (x,), (v,))[1])(
        directions
    )
    for slope, direction in zip(slopes, directions, strict=True):
        double = convolve is conv3x3_of_upsampled
        wanted = expected(enlarged(direction) if double else direction, kernel)
        assert_close(slope, wanted)


def products(x, kernel, platform):
    """Count matrix products and convolutions in the program for a platform."""
    text = jax.export.export(jax.jit(conv3x3), platforms=[platform])(
        x, kernel
    ).mlir_module()
    return text.count("stablehlo.dot_general"), text.count("stablehlo.convolution")


def test_tiles_are_for_float32_on_the_cpu_alone():
    x, kernel = arrays(2, 8, 12, 64, 72)
    half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    assert products(x, kernel, "cpu") == (16, 0)
    assert products(x, kernel, "cuda") == (0, 1)
    assert products(x, kernel, "tpu") == (0, 1)
    assert products(*half, "cpu") == (0, 1)


def test_upsampling_repeats_pixels():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(x)), enlarged(x))
