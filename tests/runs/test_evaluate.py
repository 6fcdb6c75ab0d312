"""Evaluation as a user meets it; a random projection stands for the network."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import TINY, flags

from ddpm_jax import assembly, data
from ddpm_jax.cli import main
from ddpm_jax.commands import evaluate, extraction, image_sets
from ddpm_jax.evaluation.feature_extractor import (
    FeatureExtractor,
    Outputs,
    make_extract,
)
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import data_mesh

SMALL = ["--num-images=40"]
D = 12


def projection(name="projection", fingerprint="0123456789abcdef", seed=0):
    """Features that a person could check: fixed linear maps of the pixels."""
    mix = jax.random.normal(jax.random.key(seed), (64, D + 10)) / 64

    def apply(params, pixels):
        x = jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1) @ params
        return Outputs(x[:, :D], x[:, D:])

    labels = tuple(str(digit) for digit in range(10))
    return FeatureExtractor(name, fingerprint, D, labels, "none", (8, 8, 1), mix, apply)


@pytest.fixture(autouse=True)
def eyes(monkeypatch, tmp_path):
    """Look through the projection, and keep references in a cache of the test."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assembly, "evaluation_features", lambda asked: projection())


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of a trained workdir, to be written into."""
    return shutil.copytree(finished, tmp_path / "run")


def run(workdir, *arguments):
    drawn = not any(argument.startswith("--images=") for argument in arguments)
    batches = ["--batch-size=16"] if drawn else []
    return main(["evaluate", f"{workdir}", *SMALL, *batches, *arguments])


def rows(workdir):
    return json.loads((workdir / "evaluation" / "evaluation.json").read_text())


def scores(workdir, images_start):
    (found,) = [r for r in rows(workdir) if r["images"].startswith(images_start)]
    return {name: value["value"] for name, value in found["scores"].items()}


def folder_of(workdir, images):
    (row,) = [r for r in rows(workdir) if r["request"]["images"] == images]
    return workdir / "evaluation" / row["set"]


def is_drawn(folder):
    """Tell the folder of a drawn set, or one in it, from those of given images."""
    here = folder if (folder / "request.json").exists() else folder.parent
    return json.loads((here / "request.json").read_text())["images"] == "samples"


def refuse(*args, **kwargs):
    raise AssertionError("this was done already")


def test_samples_are_scored_beside_real_images_and_kept(workdir, capsys, monkeypatch):
    assert run(workdir) == 0
    said = capsys.readouterr().out
    for needed in ("40 samples of step 12", "FD", "real: ", "weights 0123456789abcdef"):
        assert needed in said
    table = (workdir / "results.md").read_text()
    assert "samples of step 12" in table and "real digits (test)" in table
    folder = folder_of(workdir, "samples")
    with np.load(folder / "samples.npz") as stored:
        assert stored["arr_0"].shape == (40, 8, 8, 1)
        assert stored["arr_1"].tolist() == (list(range(10)) * 4)
    # The second time nothing is drawn, seen or scored, and the same is said.
    for place, name in [(image_sets, "sample_batches"), (evaluate, "score")]:
        monkeypatch.setattr(place, name, refuse)
    assert run(workdir) == 0
    assert capsys.readouterr().out == said


class Killed(BaseException):
    """What kill -9 leaves: no code of the program runs after it."""


@pytest.mark.parametrize("kind", ["drawn", "extracted"])
def test_a_killed_evaluation_goes_on_to_the_same_bits(
    workdir, tmp_path, monkeypatch, kind
):
    whole = shutil.copytree(workdir, tmp_path / "whole")
    assert run(whole, "--feature-batch-size=16") == 0
    save, count = image_sets.parts.save_part, 0

    def killed_after_two(folder, start, arrays, part_kind):
        nonlocal count
        save(folder, start, arrays, part_kind)
        count += part_kind == kind and is_drawn(folder)
        if count == 2:
            raise Killed

    monkeypatch.setattr(image_sets.parts, "save_part", killed_after_two)
    with pytest.raises(Killed):
        run(workdir, "--feature-batch-size=16")
    starts = []

    def watched(folder, start, arrays, part_kind):
        save(folder, start, arrays, part_kind)
        if part_kind == kind and is_drawn(folder):
            starts.append(start)

    monkeypatch.setattr(image_sets.parts, "save_part", watched)
    assert run(workdir, "--feature-batch-size=16") == 0
    assert starts == [32]  # 16 + 16 of 40 were there
    for one, other in zip(rows(workdir), rows(whole), strict=True):
        assert one["scores"] == other["scores"]


def test_ctrl_c_saves_and_says_so(workdir, monkeypatch, capsys):
    asked = 0

    @contextlib.contextmanager
    def pressed_after_three():
        def interrupted():
            nonlocal asked
            asked += 1
            return 2 if asked > 3 else 0

        yield interrupted

    monkeypatch.setattr(image_sets, "catch_interrupts", pressed_after_three)
    assert run(workdir) == 130
    assert "goes on from here" in capsys.readouterr().out
    monkeypatch.undo()


def test_the_reference_against_itself_is_perfect(workdir):
    everything = "--num-images=1498"
    assert run(workdir, "--images=data:train", everything) == 0
    found = scores(workdir, "real digits (train)")
    assert abs(found["frechet_distance"]) < 1e-6
    assert found["precision"] == found["recall"] == found["coverage"] == 1.0
    assert found["nearest_distance"] < 1e-6


def test_noise_is_further_than_real_images(workdir):
    assert run(workdir, "--images=noise") == 0
    noise, real = (
        scores(workdir, "uniform noise"),
        scores(workdir, "real digits (test)"),
    )
    assert noise["frechet_distance"] > 10 * real["frechet_distance"]
    assert noise["precision"] < real["precision"]
    assert noise["nearest_distance"] > real["nearest_distance"]


def test_a_folder_and_an_npz_of_samples_score_as_the_samples_do(workdir, tmp_path):
    assert run(workdir) == 0
    folder = folder_of(workdir, "samples")
    with np.load(folder / "samples.npz") as stored:
        images.save_images(tmp_path / "pictures", stored["arr_0"])
    expected = scores(workdir, "samples of step 12")
    expected.pop("class_accuracy")  # a folder has no labels
    given = f"--images=folder:{tmp_path / 'pictures'}"
    assert run(workdir, given) == 0
    assert scores(workdir, "folder:") == expected
    given = f"--images=npz:{folder / 'samples.npz'}"
    assert run(workdir, given) == 0
    found = scores(workdir, "images of")
    assert found.pop("class_accuracy") == scores(workdir, "samples")["class_accuracy"]
    assert found == expected


def test_images_need_no_model_but_data_to_be_held_against(tmp_path, capsys):
    pixels = data.in_memory(data.load("digits", split="test"))[0]
    images.save_images(tmp_path / "pictures", pixels[:30])
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    given = f"--images=folder:{tmp_path / 'pictures'}"
    line = ["evaluate", f"--config={TINY}", f"{tmp_path / 'new'}"]
    assert main([*line, *SMALL, given]) == 0
    assert "pictures: of other kinds 1 (notes.txt).\n" in capsys.readouterr().err
    (found,) = [r for r in rows(tmp_path / "new") if r["images"].startswith("folder")]
    assert found["num_images"] == 30  # all there are


def test_checkpoints_and_seeds_are_compared(workdir):
    few = "--scores=frechet"
    sweep = ["--checkpoints=6,12", "--num-seeds=2"]
    assert run(workdir, few, *sweep) == 0
    table = (workdir / "results.md").read_text()
    assert table.count("2 seeds)") == 2 and "±" in table
    assert (workdir / "evaluation" / "over-training-steps.png").exists()
    drawn = [row["model"] for row in rows(workdir) if row["model"]]
    assert [one["checkpoint_step"] for one in drawn] == [6, 6, 12, 12]
    assert (
        len({row["scores"]["frechet_distance"]["value"] for row in rows(workdir)}) == 5
    )


def test_published_statistics_give_the_same_distance(workdir, tmp_path):
    assert run(workdir) == 0
    (stored,) = (tmp_path / "cache").rglob("statistics.npz")
    published = tmp_path / "mu-and-sigma.npz"
    with np.load(stored) as file:
        np.savez(published, mu=file["mu"], sigma=file["sigma"])  # says nothing else
    own = scores(workdir, "samples")["frechet_distance"]
    assert run(workdir, f"--reference=npz:{published}") == 0
    both = [r for r in rows(workdir) if r["images"].startswith("samples")]
    assert len(both) == 2
    for row in both:
        value = row["scores"]["frechet_distance"]["value"]
        assert value == pytest.approx(own, rel=1e-9)


def test_bits_per_dim_come_from_the_likelihood_mode(workdir):
    options = [
        "--scores=bits_per_dim",
        "--likelihood-num-images=8",
        "--likelihood-batch-size=8",
    ]
    assert run(workdir, *options) == 0
    (result,) = workdir.glob("likelihood/*/likelihood.json")
    expected = json.loads(result.read_text())["bits_per_dim"]["mean"]
    assert scores(workdir, "samples") == {"bits_per_dim": expected}
    # Another number of steps is another bound, though the score has the same name.
    assert run(workdir, *options, "--likelihood-num-steps=2") == 0
    assert scores(workdir, "samples")["bits_per_dim"] > expected
    assert run(workdir, *options) == 0
    assert scores(workdir, "samples") == {"bits_per_dim": expected}


# --- Bad input ------------------------------------------------------------------------


def refused(workdir, capsys, *arguments):
    before = sorted(path for path in workdir.rglob("*") if path.is_file())
    assert run(workdir, *arguments) == 2
    assert sorted(path for path in workdir.rglob("*") if path.is_file()) == before
    said = capsys.readouterr().err.strip().splitlines()
    return said[-1]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("num_images=12", "12 images are no more than the 12 features"),
        ("images=pictures", "use folder:PATH"),
        ("images=npz:absent.npz", "cannot read absent.npz"),
        ("scores=fid", "some of frechet"),
        ("reference=stats.npz", "use npz:FILE"),
        ("checkpoints=7", "it has 3, 6, 9, 12"),
        ("checkpoints=some", "no list of numbers"),
        ("sample_steps=10,x", "no list of numbers"),
        ("num_images=1", "too small"),
        ("resize=best", "use tensorflow, pytorch, clean"),
        ("images=data:nothing", "no split 'nothing'"),
    ],
)
def test_wrong_options_are_one_line(workdir, capsys, option, said):
    assert said in refused(workdir, capsys, *flags("evaluate", option))


def test_given_images_have_no_bits_per_dim(workdir, capsys):
    line = refused(workdir, capsys, "--scores=frechet,bits_per_dim", "--images=noise")
    assert "for bits_per_dim, which is of a model, beside --images=noise; leave" in line


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"arr_0": np.zeros((40, 8, 8, 1))}, "values 0 to 255"),
        ({"arr_0": np.zeros((40, 8, 8), np.uint8)}, "[N, H, W, C]"),
        ({"x": np.zeros(3)}, "has x in it"),
        ({"arr_0": np.zeros((40, 9, 9, 1), np.uint8)}, "the reference is of 8x8x1"),
        (
            {"arr_0": np.zeros((40, 8, 8, 1), np.uint8), "arr_1": np.zeros(3, int)},
            "one for each image",
        ),
    ],
)
def test_images_that_do_not_fit_are_one_line(workdir, capsys, tmp_path, arrays, said):
    np.savez(tmp_path / "given.npz", **arrays)
    given = f"--images=npz:{tmp_path / 'given.npz'}"
    assert said in refused(workdir, capsys, given)


def test_statistics_of_other_features_are_refused(
    workdir, capsys, tmp_path, monkeypatch
):
    real = data.load("digits", split="test")
    other = projection("another", "fedcba9876543210", seed=1)
    run_other = make_extract(other, data_mesh())
    folder = tmp_path / "other"
    folder.mkdir()
    extraction.Extraction(other, run_other, 64, lambda: 0).of(real, folder)
    reference = f"--reference=npz:{folder / 'statistics.npz'}"
    said = refused(workdir, capsys, reference)
    assert "was made with features 'another'" in said
    # The same network, other pictures.
    monkeypatch.setattr(assembly, "evaluation_features", lambda asked: other)
    stored = dict(np.load(folder / "statistics.npz"))
    about = json.loads(str(stored["provenance"]))
    stored["provenance"] = json.dumps(about | {"resolution": [16, 16, 1]})
    np.savez(folder / "statistics.npz", **stored)
    assert "the reference is of 16x16x1" in refused(workdir, capsys, reference)
