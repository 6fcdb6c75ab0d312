"""The control of score distillation in small: what is exact in it, and its table."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from benchmarks import scene_control
from ddpm_jax.diffusion.schedules import Cosine
from ddpm_jax.scenes import cameras


def test_its_denoiser_is_that_of_the_set_of_its_condition():
    """Each of K sets has the closed form of a finite set of points."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((3, 5, 4))
    x_t = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    cond = jnp.asarray([0, 1, 2, 2, 1, 0])
    level = Cosine(1000).build().at(jnp.full((6,), 400))
    denoise = scene_control.finite_denoiser(jnp.asarray(points, jnp.float32))
    found = denoise(x_t, level, cond)
    for row, k in enumerate(cond):
        one = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], level)
        expected = oracles.finite(points[k])(x_t[row : row + 1], one)
        np.testing.assert_allclose(found.x0[row], expected.x0[0], atol=2e-5)
        np.testing.assert_allclose(found.eps[row], expected.eps[0], atol=2e-5)


def test_its_renders_lie_in_their_bins():
    renders = scene_control.renders_of("car", 8, 3, seed=1)
    bins = cameras.azimuth_bins(renders.camera, 8)
    np.testing.assert_array_equal(bins, np.arange(8)[:, None] + np.zeros((8, 3), int))
    assert renders.image.shape == (8, 3, 8, 8, 3)
    assert -1 <= renders.image.min() < renders.image.max() <= 1


def test_the_table(capsys):
    flags = ["--num-steps=2", "--num-seeds=1", "--per-bin=2"]
    assert scene_control.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == list(scene_control.KINDS)
    assert all(0 < float(line.split("|")[3]) < 40 for line in lines[2:])
    with pytest.raises(SystemExit):
        scene_control.main(["--kinds=best"])
    assert "use conditional, blind, fitted" in capsys.readouterr().err


def test_the_table_of_the_fine_stage(capsys):
    """A coarse scene of two steps, refined for two, by renders of its own size."""
    flags = ["--num-steps=2", "--num-seeds=1", "--per-bin=2", "--size=8"]
    flags += ["--fine", "--cells=6", "--fine-size=8", "--fine-steps=2"]
    flags += ["--view-size=8"]
    assert scene_control.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert len(lines) == 3 and len(cells) == 11 and cells[:2] == ["snowman", "0"]
    volume, mesh, refined, gain, *angles = map(float, cells[2:9])
    assert all(0 < level < 40 for level in (volume, mesh, refined))
    assert gain == pytest.approx(refined - volume, abs=0.11)
    assert all(0 < angle < 120 for angle in angles)


def test_a_prior_of_the_control_is_told_the_bin():
    """Its denoiser is that of the set of the bin that a camera stands in."""
    truth = scene_control.renders_of("car", 4, 2, seed=0)
    prior = scene_control.prior_of(truth)
    camera = cameras.from_degrees([90.0, 200.0])
    rows = prior.cond[prior.view(camera)]
    np.testing.assert_array_equal(rows, [2, 4])
    rng = np.random.default_rng(0)
    x_t = jnp.asarray(rng.standard_normal((2, 4, 4, 3)), jnp.float32)
    level = prior.schedule.at(jnp.full((2,), 400))
    found = prior.denoise(x_t, level, rows)
    for row, k in enumerate((2, 4)):
        one = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], level)
        points = truth.image[k].reshape(2, -1).astype(np.float64)
        expected = oracles.finite(points)(x_t[row : row + 1].reshape(1, -1), one)
        np.testing.assert_allclose(found.x0[row].reshape(-1), expected.x0[0], atol=2e-5)
