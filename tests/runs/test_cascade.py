"""The cascade of the program: two models and three, what they write and refuse."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from program import TINY, flags

from ddpm_jax import assembly
from ddpm_jax.assembly.cascade import Member, stage_of
from ddpm_jax.cli import main
from ddpm_jax.commands.model import open_model
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.recipe import from_json
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import images
from ddpm_jax.sampling.plan import run_plan
from ddpm_jax.sampling.stages import CascadeModel, cascade_plan


def train(folder, *options):
    flags = ["training.num_steps=2", "training.preview_every=0", "sample.num_steps=3"]
    flags = [f"--config.{option}" for option in (*flags, *options)]
    assert main([f"--config={TINY}", f"--workdir={folder}", *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Models of 4x4 digits, and from 4x4 to 8x8; the second is told no class."""
    folder = tmp_path_factory.mktemp("cascade")
    small = train(folder / "small", "data.image_size=4")
    large = train(
        folder / "large",
        "conditioners.low_res.kind=low_res",
        "conditioners.low_res.max_aug_level=0.5",
        "conditioners.label=None",
    )
    return small, large


def draw(workdir, stages, *options):
    stages = ",".join(map(str, stages))
    given = ["cascade", f"{workdir}"]
    assert main([*given, f"--stages={stages}", *flags("cascade", *options)]) == 0
    return max((workdir / "cascades").iterdir(), key=lambda path: path.stat().st_mtime)


def images_in(folder):
    with np.load(folder / "samples.npz") as stored:
        return stored["arr_0"], stored["arr_1"]


def cell(path, number, side, columns=3):
    """Cut an image out of a grid, which shows it 64 pixels wide."""
    pixels = np.asarray(Image.open(path).convert("L")).astype(int)
    row, column = divmod(number, columns)
    step, pitch = 64 // side, 64 + 2
    own = pixels[2 + row * pitch :, 2 + column * pitch :][:64, :64]
    return own[::step, ::step]


def test_it_writes_what_a_drawing_writes_and_every_stage(runs, monkeypatch):
    small, large = runs
    folder = draw(small, [large], "sample.labels=3,5")
    with monkeypatch.context() as patch:  # found again, without reading parameters
        patch.setattr("ddpm_jax.training.checkpoints.restore_params", None)
        assert draw(small, [large], "sample.labels=3,5") == folder
    drawn, labels = images_in(folder)
    assert drawn.shape == (6, 8, 8, 1)
    assert labels.tolist() == [3, 5, 3, 5, 3, 5]  # which only the first was told
    written = {path.name for path in folder.iterdir()}
    assert written >= {"grid.png", "film.png", "film-x0.png", "chain.gif", "images"}
    assert written >= {"stage-1.png", "stage-2.png", "stages.png", "forward.png"}
    sheets = [np.asarray(Image.open(folder / f"{n}.png")) for n in ("grid", "stage-2")]
    np.testing.assert_array_equal(*sheets)
    np.testing.assert_array_equal(sheets[0], images.grid(drawn)[..., 0])
    record = json.loads((folder / "sample.json").read_text())
    assert [stage["workdir"] for stage in record["stages"]] == [str(small), str(large)]
    # The second agrees with the first as far as it is said to.
    with np.load(folder / "samples.npz") as stored:
        means = stored["arr_0"].reshape(6, 4, 2, 4, 2).mean((2, 4))
    low = np.stack([cell(folder / "stage-1.png", i, 4) for i in range(6)])
    errors = np.square((means - low) / 255).mean((1, 2))
    found = record["stages"][1]["consistency_db"]
    assert found == pytest.approx(np.mean(-10 * np.log10(errors)), rel=1e-5)
    # The first stage draws what the model alone would.
    assert main(["sample", f"{small}", "--label=3,5"]) == 0
    alone = max((small / "samples").iterdir(), key=lambda path: path.stat().st_mtime)
    np.testing.assert_array_equal(
        np.asarray(Image.open(folder / "stage-1.png")),
        np.asarray(Image.open(alone / "grid.png")),
    )


def test_the_images_are_those_of_the_library_whatever_the_batch(runs):
    """Against one plan with both networks, in one batch and not two."""
    small, large = runs
    asked = ["cascade.noise=0.3", "cascade.samplers=ddim", "cascade.num_steps=4"]
    made, _ = images_in(draw(small, [large], "sample.seed=5", *asked))
    opened, models = [], []
    for folder, chosen in (
        (small, {"seed": 5}),
        (large, {"seed": 5, "picture_noise": 0.3, "sampler": "ddim", "num_steps": 4}),
    ):
        recipe = from_json(json.loads((folder / "config.json").read_text()))
        spec, asked = recipe.task, recipe.request(Sample, **chosen)
        model = open_model(recipe, asked, folder)
        opened.append((spec, model.info, asked))
        member = Member(spec, asked, model.info, model.unet)
        stage = stage_of(member, model.params)
        models.append(
            CascadeModel(
                assembly.levels(spec, asked),
                lambda params, stage=stage: stage,
                lambda params, cond: cond,
            )
        )
    keys = image_keys(assembly.sample_key(5), jnp.arange(6))
    # The second network is not class-conditional.
    conds = (assembly.sample_cond(*opened[0]), None)
    x = run_plan(cascade_plan(models), (None, None), keys, {"stages": conds}).x
    off = np.asarray(images.to_uint8(x)).astype(int) - made
    assert np.abs(off).max() <= 1


def test_options_reach_their_stage(runs, tmp_path):
    """Three stages, 2x2 to 4x4 to 8x8, each with a number of its own."""
    _, large = runs
    tiny = train(tmp_path / "tiny", "data.image_size=2", "data.flip=False")
    middle = train(
        tmp_path / "middle",
        "data.image_size=4",
        "conditioners.low_res.kind=low_res",
        "prediction=v",
    )
    folder = draw(
        tiny,
        [middle, large],
        "cascade.samplers=ddim,heun",
        "cascade.num_steps=2,4",
        "cascade.dynamic_percentiles=0.9",
        "cascade.guidance_scales=3,1",
        "sample.num_images=2",
    )
    stages = json.loads((folder / "sample.json").read_text())["stages"]
    said = [
        (stage["sample"]["sampler"], stage["sample"]["num_steps"]) for stage in stages
    ]
    assert said == [("ancestral", 3), ("ddim", 2), ("heun", 4)]
    guided = [stage["sample"]["guidance_scale"] for stage in stages]
    assert guided == [1.0, 3.0, 1.0]
    clipped = [stage["sample"]["dynamic_percentile"] for stage in stages]
    assert clipped == [0.0, 0.9, 0.9]
    assert images_in(folder)[0].shape == (2, 8, 8, 1)
    shape = np.asarray(Image.open(folder / "stages.png")).shape
    assert shape == (3 * 66 + 2, 2 * 66 + 2)  # three rows of two pictures


@pytest.mark.parametrize(
    ("base", "stages", "options", "message"),
    [
        ("small", [], [], "give --stages=DIR"),
        ("large", ["large"], [], "begin a cascade with an unconditional base"),
        ("small", ["small"], [], "is a base model; after the first"),
        ("small", ["large", "large"], [], "makes 8x8, and"),
        ("small", ["large"], ["cascade.num_steps=2,3"], "2 values for 1 stages"),
        ("small", ["large"], ["cascade.num_steps=many"], "no list of numbers"),
        (
            "small",
            ["large"],
            ["cascade.noise=0.7"],
            "--stage-noise=0.7 is not in [0, 0.5]",
        ),
        (
            "small",
            ["large"],
            ["cascade.samplers=magic"],
            "--stage-samplers=magic is not known",
        ),
        ("small", ["large"], ["cascade.guidance_scales=2"], "without labels or text"),
        ("small", ["nowhere"], [], "nowhere"),
        ("small", ["large"], ["sample.prompt=x"], "trained without text"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    runs, capsys, base, stages, options, message
):
    root = runs[0].parent
    given = flags("cascade", *options)
    given.append("--stages=" + ",".join(str(root / s) for s in stages))
    capsys.readouterr()
    assert main(["cascade", f"{root / base}", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
