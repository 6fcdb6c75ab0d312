"""The gradient accumulated over parts of a batch, against the gradient of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.training.step import gradient_in_parts


def squares(params, key, batch, carry):
    """Mean over rows of (w . row - label)^2 / 2, and a carry that counts its calls."""
    del key
    error = batch["image"] @ params["w"] - batch["label"]
    loss = 0.5 * jnp.mean(error**2)
    return loss, ({"loss": loss}, carry + 1)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 12])
def test_a_mean_over_rows_is_the_mean_over_parts(num_parts):
    rng = np.random.default_rng(0)
    rows, labels, w = rng.standard_normal((12, 5)), rng.standard_normal(12), np.ones(5)
    batch = {"image": jnp.asarray(rows), "label": jnp.asarray(labels)}
    gradient, (metrics, carry) = gradient_in_parts(squares, num_parts)(
        {"w": jnp.asarray(w)}, jax.random.key(0), batch, jnp.asarray(0)
    )
    error = rows @ w - labels
    np.testing.assert_allclose(gradient["w"], rows.T @ error / 12, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * np.mean(error**2), rtol=1e-5)
    assert carry == num_parts


def noisy(params, key, batch, carry):
    """A loss of rows times noise: its gradient shows which noise each row met."""
    noise = jax.random.normal(key, batch["image"].shape)
    loss = jnp.mean(params["w"] * noise * batch["image"])
    return loss, ({"loss": loss}, carry)


def test_part_i_is_every_third_row_with_a_key_of_its_own():
    key, image = jax.random.key(3), np.arange(1.0, 7.0)
    gradient, _ = gradient_in_parts(noisy, 3)(
        {"w": jnp.asarray(1.0)}, key, {"image": jnp.asarray(image)}, ()
    )
    wanted = [
        np.asarray(jax.random.normal(jax.random.fold_in(key, i), (2,))) @ image[i::3]
        for i in range(3)
    ]
    np.testing.assert_allclose(gradient["w"], np.sum(wanted) / 6, rtol=1e-5)
    noises = {float(one) for one in wanted}
    assert len(noises) == 3


def test_the_loop_is_written_out_on_the_cpu_alone():
    # A convolution's gradients are some 20 times slower inside a loop there.
    batch = {"image": jnp.ones((4, 5)), "label": jnp.ones(4)}
    arguments = ({"w": jnp.ones(5)}, jax.random.key(0), batch, jnp.asarray(0))
    program = jax.jit(gradient_in_parts(squares, 2)).lower(*arguments)
    assert "while" not in program.as_text()
