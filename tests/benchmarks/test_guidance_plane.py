"""The figure of guidance in the plane, in small: what editing.md says of it holds."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import guidance_plane
from ddpm_jax.diffusion.schedules import Level


def test_the_model_blurs_and_its_unconditional_half_is_of_all_classes():
    """Near a center and with little noise, x_0 is shrunk as of one Gaussian."""
    center = guidance_plane.arms()[1, -1]
    sigma, blur = 0.01, 2.0
    v = blur * guidance_plane.STD**2
    off = np.array([[0.01, 0.0], [0.0, 0.0]])
    x_t = jnp.asarray(center + off, jnp.float32)
    level = Level(jnp.float32(0), jnp.float32(1), jnp.float32(sigma))
    denoise = guidance_plane.model(blur)
    far = denoise(x_t, level, {"label": jnp.array([1, guidance_plane.NULL])}).x0
    # Its neighbour on the arm pulls it a little inwards.
    shrunk = center + 0.01 * v / (v + sigma**2) * np.array([1, 0])
    np.testing.assert_allclose(far[0], shrunk, atol=2e-3)
    noise = Level(jnp.float32(0), jnp.float32(0), jnp.float32(1))
    both = denoise(x_t, noise, {"label": jnp.array([1, guidance_plane.NULL])}).x0
    np.testing.assert_allclose(both[0], guidance_plane.arms()[1].mean(0), atol=1e-5)
    np.testing.assert_allclose(both[1], [0, 0], atol=1e-5)


def test_the_claims_of_the_document(tmp_path, capsys):
    path = tmp_path / "plane.png"
    words = ["--num-points=600", "--num-steps=60", "--num-seeds=2", f"--out={path}"]
    assert guidance_plane.main(words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "to" in line]
    found = {
        name.split(",")[0].strip(): [float(cell.split()[0]) for cell in cells[:2]]
        for _, name, *cells in (row.split("|") for row in rows)
    }
    assert len(found) == 6
    distance, width = (
        {name: numbers[i] for name, numbers in found.items()} for i in (0, 1)
    )
    # Guidance leaves out a part of the class, autoguidance none of it.
    assert distance["classifier-free"] > 2 * distance["projected (APG)"]
    assert distance["projected (APG)"] > 2 * distance["autoguidance"]
    # It sets right what the model blurs, by the root of twice the variance.
    assert abs(width["the model"] - 2**0.5 * width["data"]) < 0.15
    assert abs(width["autoguidance"] - width["data"]) < 0.15
    with Image.open(path) as image:
        assert image.width > 5 * image.height
