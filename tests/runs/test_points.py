"""A model of points in the plane, by every command that is defined for it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rough_plane import rough_map

from ddpm_jax.assembly import guidance
from ddpm_jax.cli import main
from ddpm_jax.codecs import Plane
from ddpm_jax.data.points import MIXTURES
from ddpm_jax.data.spec import Data
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.guidance import classifier_guidance
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.diffusion.schedules import cosine_betas, from_betas

SMALL = [
    "--config=configs/points.py:ring",
    "--config.network.width=8",
    "--config.network.depth=1",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.warmup_steps=1",
    "--config.training.preview_every=0",
    "--config.training.checkpoint_every=4",
    "--config.sample.num_images=64",
    "--config.sample.num_steps=4",
    "--config.sample.film_frames=3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of seconds, with its first samples."""
    folder = tmp_path_factory.mktemp("points") / "run"
    with rough_map():
        assert main([*SMALL, f"--workdir={folder}"]) == 0
    return folder


def test_a_run_leaves_plots_and_figures(run):
    samples = run / "samples" / "0001"
    for path in (run / "density.png", run / "field.png", samples / "grid.png"):
        with Image.open(path) as picture:
            assert picture.width > 200, "a plot, not two pixels"
    with Image.open(samples / "trajectories.gif") as film:
        assert film.n_frames == 3  # where the chain starts is the first
    figures = json.loads((samples / "figures.json").read_text())
    assert figures["num_modes"] == 8 and 0 <= figures["good"] <= 1
    about = json.loads((run / "plane.json").read_text())
    assert about["checkpoint_step"] == 4 and about["integral"] > 0
    assert list(about["score_errors"]) == ["0.1", "0.3", "1", "3"]


def test_what_is_of_the_model_alone_is_made_once(run):
    before = (run / "density.png").stat().st_mtime_ns
    assert main(["sample", str(run), "--seed=3", "--sampler=heun"]) == 0
    assert (run / "density.png").stat().st_mtime_ns == before
    assert (run / "samples" / "0002" / "figures.json").exists()


def test_the_likelihood_is_a_density(run, capsys):
    """A hardly trained model is about N(0, I): 2.05 bits each, and 0.72 for x^2."""
    words = ["likelihood", str(run), "--num-images=32", "--ode-steps=8"]
    assert main(words) == 0
    capsys.readouterr()
    (path,) = run.glob("likelihood/*/likelihood.json")
    found = json.loads(path.read_text())
    assert found["bits_per_dim"]["mean"] == pytest.approx(2.05, abs=0.7)
    assert main(["likelihood", str(run), "--method=bound"]) == 2
    error = capsys.readouterr().err
    assert "measures bytes" in error and error.count("\n") == 1


@pytest.mark.parametrize("method", ["repaint", "replace", "project"])
def test_a_known_coordinate_is_kept(run, tmp_path, method):
    (tmp_path / "p.csv").write_text("x,y\n0.5,9\n-1.25,9\n")
    words = ["edit", "inpaint", str(run), f"--image={tmp_path}/p.csv", "--mask=y"]
    words += [f"--method={method}", f"--out={tmp_path}/out"]
    words += [] if method == "project" else ["--sampler=ancestral"]
    assert main([*words, "--num-images=3", "--num-steps=4"]) == 0
    made = np.load(tmp_path / "out" / "images.npz")["arr_0"]
    known = np.float32([0.5] * 3 + [-1.25] * 3)
    np.testing.assert_allclose(made[:, 0], known, atol=1e-6)
    assert len(set(made[:, 1].tolist())) == 6 and abs(made[:, 1]).max() < 8


def test_the_classifier_of_points_makes_the_model_conditional():
    """Gaussians of one covariance are what it assumes, so that Bayes' rule is exact.

    It knows the centers from 20,000 points, to about std / sqrt(2,500): 0.0006.
    """
    mixture = MIXTURES["ring"]
    log_prob = guidance._classifier(Data(source="points:ring", flip=False), Plane())
    whole = mixture_denoiser(mixture.centers, mixture.std)
    guided = jax.jit(classifier_guidance(whole, log_prob, 1.0))
    schedule = from_betas(cosine_betas(1000))
    labels = jnp.arange(64) % 8
    x0 = jnp.asarray(mixture.centers, jnp.float32)[labels]
    for ratio in (0.1, 0.5, 2.0, 10.0):
        level = schedule.at_logsnr(jnp.float32(-2 * np.log(ratio)))
        x_t = add_noise(x0, jax.random.normal(jax.random.key(1), x0.shape), level)
        found = guided(x_t, level, {"label": labels})
        # E[x_0 | x_t] of the Gaussian of that center alone, by Bayes' rule.
        a, s2 = float(level.alpha), mixture.std**2
        shrink = a * s2 / (a**2 * s2 + float(level.sigma) ** 2)
        wanted = np.asarray(x0) + shrink * np.asarray(x_t - a * x0)
        np.testing.assert_allclose(found.x0, wanted, atol=0.02)


def test_sampling_by_the_classifier_asks_for_a_class(run, tmp_path):
    words = ["sample", str(run), "--classifier-scale=1", "--label=2", "--num-images=4"]
    assert main([*words, f"--out={tmp_path}/out"]) == 0
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["num_modes"] == 8


def test_the_plan_of_points(capsys):
    assert main(["plan", *SMALL, "--config.training.num_steps=1"]) == 0
    assert "20,000 float32 arrays of 2." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edit", "colorize", "RUN", "--image=data:1"], "colorize is of images"),
        (["edit", "upscale", "RUN", "--image=data:1"], "upscale is of images"),
        (["edit", "inpaint", "RUN", "--image=data:1", "--mask=z"], "use x, y"),
        (
            ["edit", "inpaint", "RUN", "--image=data:1", "--mask=x,y"],
            "leave some known",
        ),
        (["edit", "inpaint", "RUN", "--image=data:1"], "of points the coordinate"),
        (["evaluate", "RUN"], "images"),
        (["export", "RUN", "nowhere"], "images"),
        (["sample", "RUN", "--clip"], "--clip clamps to [-1, 1]"),
        (["sample", "RUN", "--dynamic-percentile=0.9"], "--dynamic-percentile=0.9 cl"),
        (["sample", "RUN", "--prompt=a point"], "trained without text"),
        (["sample", "RUN", "--picture=data:test"], "trained without pictures"),
    ],
)
def test_what_is_not_defined_on_points_is_one_line(run, capsys, words, message):
    assert main([str(run) if word == "RUN" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
