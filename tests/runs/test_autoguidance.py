"""Autoguidance by the parameters that a run has: checkpoints, raw ones, averages."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import TINY, TINY_UNET, flags
from settings import changed
from untrained import with_noise

import ddpm_jax
from ddpm_jax import assembly, data
from ddpm_jax.assembly import cascade, conditions
from ddpm_jax.cli import load_recipe, main
from ddpm_jax.codecs import Params
from ddpm_jax.commands import about
from ddpm_jax.commands.image_sets import drawn_set
from ddpm_jax.conditioning import Words
from ddpm_jax.diffusion import generate, grids, samplers
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.training import checkpoints as store

TEXTS = ("a red cat", "a blue dog", "a green bird")


def write(folder, recipe, info, steps):
    """Write checkpoints in which every set of parameters is of another model."""
    spec, fit = recipe.task, recipe.training
    drawn = assembly.init_params(spec, assembly.model(spec, info), info)
    with store.open_checkpoints(folder) as checkpoints:
        for step in steps:
            params, average, *tracks = (
                with_noise(drawn, 10 * step + i) for i in range(2 + len(fit.ema_stds))
            )
            state = dataclasses.replace(
                assembly.start_state(spec, info, fit, params, step),
                ema_params=average,
                ema_profiles=tuple(tracks),
            )
            store.save(checkpoints, state, about.metadata(recipe, info), wait=True)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with checkpoints 3, 6 and 12, and two averages of a length in each."""
    folder = tmp_path_factory.mktemp("autoguidance") / "run"
    recipe = changed(load_recipe(TINY)[0], "training.ema_stds=0.05,0.10")
    source = data.load("digits")
    info = assembly.data_info(source, recipe.task)
    return write(folder, recipe, info, (3, 6, 12))


@pytest.fixture
def model(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "model" / "checkpoints")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A text-conditional model of two checkpoints, which are two models."""
    folder = tmp_path_factory.mktemp("autoguidance") / "reader"
    recipe = changed(
        load_recipe(TINY_UNET)[0],
        *("conditioners.label=None", "conditioners.text.kind=words"),
        *("conditioners.text.width=8", "conditioners.text.depth=1"),
        *("conditioners.text.num_heads=2", "prediction=x0"),
    )
    words = Words.learn(TEXTS, None).to_json()
    info = assembly.DataInfo("texts", (8, 8, 1), None, "0" * 16, words, TEXTS)
    return write(folder, recipe, info, (3, 6))


def level_of(model):
    return model.schedule.at(jnp.asarray(9))


def x_of(rows):
    return jnp.asarray(np.random.default_rng(0).normal(size=(rows, 8, 8, 1)), "float32")


def both(model, **options):
    return jax.jit(model.denoiser(clip=False, **options))(x_of(3), level_of(model))


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ({"step": 3}, {"autoguidance_step": 3}),
        ({"ema": False}, {"autoguidance_ema": False}),
        (
            {"step": 6, "ema_std": 0.10},
            {"autoguidance_step": 6, "autoguidance_ema_std": 0.10},
        ),
        ({"ema_std": 0.07}, {"autoguidance_ema_std": 0.07}),
    ],
)
def test_the_worse_model_is_that_which_the_options_name(run, chosen, options):
    """By two models that are loaded on their own: 3 D_1 - 2 D_0, and D_1 at scale 1."""
    label = [3, 1, 4]
    loaded = ddpm_jax.load(run)
    good, bad = (
        both(one, label=label) for one in (loaded, ddpm_jax.load(run, **chosen))
    )
    found = both(loaded, label=label, autoguidance=3, **options)
    assert np.abs(np.asarray(good.x0 - bad.x0)).max() > 1e-4
    np.testing.assert_allclose(found.x0, 3 * good.x0 - 2 * bad.x0, atol=1e-4)
    np.testing.assert_allclose(found.eps, 3 * good.eps - 2 * bad.eps, atol=1e-4)


def test_classifier_free_guidance_is_laid_around_it(run):
    good, bad = ddpm_jax.load(run), ddpm_jax.load(run, step=3)
    c, u = (
        3 * both(good, label=label).eps - 2 * both(bad, label=label).eps
        for label in ([3, 1, 4], "none")
    )
    options = {"autoguidance": 3, "autoguidance_step": 3, "guidance_scale": 2}
    found = both(good, label=[3, 1, 4], **options)
    np.testing.assert_allclose(found.eps, 2 * c - u, atol=2e-4)


def test_a_model_opened_with_others_goes_away_from_the_ordinary_average(run):
    """What is worse is compared with what was opened, and not with the default."""
    raw = ddpm_jax.load(run, ema=False)
    found = both(raw, label=[3], autoguidance=2)
    good, bad = both(raw, label=[3]), both(ddpm_jax.load(run), label=[3])
    np.testing.assert_allclose(found.eps, 2 * good.eps - bad.eps, atol=1e-4)
    with pytest.raises(UserError, match=r"away from the model itself \(raw, step 12\)"):
        raw.sample(2, autoguidance=2, autoguidance_ema=False)


def test_the_command_and_the_library_make_the_same_images(model, capsys):
    asked = ["autoguidance=4", "autoguidance_step=3", "sampler=ddim", "num_images=4"]
    assert main(["sample", f"{model}", *flags("sample", *asked)]) == 0
    line = "the averaged (EMA) parameters of step 12, away from the averaged (EMA) "
    assert f"{line}parameters of step 3: ddim" in capsys.readouterr().out
    folder = model / "samples" / "0001"
    images = np.load(folder / "samples.npz")["arr_0"]
    loaded = ddpm_jax.load(model)
    options = {"sampler": "ddim"}
    found = loaded.sample(4, autoguidance=4, autoguidance_step=3, **options)
    np.testing.assert_array_equal(np.asarray(to_uint8(found)), images)
    assert np.abs(found - loaded.sample(4, **options)).max() > 1e-3
    for name in ("request", "sample"):
        worse = json.loads((folder / f"{name}.json").read_text())["worse"]
        assert (worse["checkpoint_step"], worse["parameters"]) == (3, "ema")
    # The same is found; by another checkpoint it is something else.
    assert main(["sample", f"{model}", *flags("sample", *asked)]) == 0
    assert "Nothing to do" in capsys.readouterr().out
    asked[1] = "autoguidance_step=6"
    assert main(["sample", f"{model}", *flags("sample", *asked)]) == 0
    other = np.load(model / "samples" / "0002" / "samples.npz")["arr_0"]
    assert (other != images).any()


def test_the_other_ways_to_guide_reach_the_program(run):
    """What is compiled holds them: each makes other images of the same noise."""
    loaded = ddpm_jax.load(run)
    options = {"sampler": "ddim", "num_steps": 4, "guidance_scale": 3}
    ways = [
        {},
        {"guidance_parallel": 0},
        {"guidance_norm": 1e-3},  # of which the difference has more
        {"guidance_optimized": True},
        {"guidance_optimized": True, "zero_init_steps": 1},
    ]
    made = [loaded.sample(2, **options, **way) for way in ways]
    for i, one in enumerate(made):
        for other in made[:i]:
            assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["autoguidance=2"],
            "--autoguidance=2 is away from the model itself (ema, step",
        ),
        (
            ["autoguidance=2", "autoguidance_step=12"],
            "give worse parameters with --autoguidance-step, --autoguidance-ema-std or "
            "--no-autoguidance-ema",
        ),
        (
            ["autoguidance=2", "autoguidance_step=7"],
            "no checkpoint of step 7 in",
        ),
        (
            ["autoguidance=2", "autoguidance_ema_std=0.5"],
            "--autoguidance-ema-std=0.5 is not in (0, 0.289]",
        ),
        (
            ["autoguidance_step=3"],
            "--autoguidance-step=3 does nothing without autoguidance",
        ),
        (
            ["autoguidance=2000", "autoguidance_step=3"],
            "--autoguidance=2000.0 is out of range",
        ),
    ],
)
def test_autoguidance_that_does_nothing_is_refused(model, capsys, options, message):
    assert main(["sample", f"{model}", *flags("sample", *options)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_run_without_averages_cannot_build_one_to_go_away_from(finished, capsys):
    options = ["autoguidance=2", "autoguidance_ema_std=0.07"]
    assert main(["sample", f"{finished}", *flags("sample", *options)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--autoguidance-ema-std=0.07 is built from averages that this run" in line


def test_a_model_of_no_run_has_nothing_to_go_away_from(run):
    loaded = ddpm_jax.load(run)
    alone = type(loaded)(loaded.recipe, loaded._trained)
    with pytest.raises(UserError, match="not opened from a run; leave it out"):
        alone.sample(2, autoguidance=2, autoguidance_step=3)


def test_each_network_reads_the_prompt_itself(reader):
    """The chain of the program is that of two denoisers that share no encoding."""
    loaded = ddpm_jax.load(reader)
    prompt, steps = list(TEXTS), {"sampler": "ddim", "num_steps": 4}
    wanted = {"autoguidance": 2, "autoguidance_step": 3, "clip": False}
    found = loaded.sample(3, prompt=prompt, **steps, **wanted)
    good, bad = (
        one.denoiser(prompt=prompt, clip=False)
        for one in (loaded, ddpm_jax.load(reader, step=3))
    )
    keys = generate.image_keys(assembly.sample_key(0), jnp.arange(3))

    def extrapolated(x_t, level, cond=None):
        to, away = good(x_t, level), bad(x_t, level)
        return to._replace(x0=2 * to.x0 - away.x0, eps=2 * to.eps - away.eps)

    expected, _ = generate.generate(
        keys,
        samplers.ddim(0.0),
        extrapolated,
        generate.initial_noise(keys, (8, 8, 1)),
        grids.grid(loaded.schedule, 4),
    )
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=2e-4)
    with pytest.raises(UserError, match="autoguidance has two; leave one of them out"):
        loaded.sample(3, prompt=TEXTS[0], prompt_to=TEXTS[1], **steps, **wanted)


def test_edits_and_scored_samples_take_it(model):
    recipe = about.trained_recipe(model)
    asked = recipe.request(
        Sample, run=str(model), num_images=2, autoguidance=3.0, autoguidance_step=3
    )
    drawn = drawn_set(recipe, asked, model, lambda: False)
    assert "autoguidance 3 of step 3 (ema)" in drawn.described
    assert drawn.request["worse"]["checkpoint_step"] == 3
    assert drawn.model["worse"] == drawn.request["worse"]
    loaded = ddpm_jax.load(model)
    items = loaded.sample(2, sampler="ddim", num_steps=5)
    options = {"label": [7], "num_steps": 5, "strength": 0.9}
    plain = loaded.interpolate(items[:1], items[1:], 3, **options)
    found = loaded.interpolate(
        items[:1], items[1:], 3, autoguidance=3, autoguidance_step=3, **options
    )
    assert np.abs(found - plain).max() > 1e-3
    edit = [
        *("edit", "image-to-image", f"{model}", "--image=data:7", "--num-steps=5"),
        *("--autoguidance=3", "--autoguidance-step=3", f"--out={model}/out"),
    ]
    assert main(edit) == 0
    record = json.loads((model / "out" / "request.json").read_text())
    assert record["worse"]["checkpoint_step"] == 3


def test_a_stage_of_a_cascade_takes_it(run):
    good, bad = ddpm_jax.load(run), ddpm_jax.load(run, step=3)
    asked = Sample(clip=False, autoguidance=3.0, autoguidance_step=3)
    member = cascade.Member(good.spec, asked, good.info, good.network)
    params = Params(good.params, (), bad.params)
    cond = {"label": jnp.array([3, 1, 4])}
    stage = cascade.stage_of(member, params)
    found = stage.denoise(x_of(3), level_of(good), cond)
    to, away = (both(one, label=[3, 1, 4]).eps for one in (good, bad))
    np.testing.assert_allclose(found.eps, 3 * to - 2 * away, atol=1e-4)
    assert conditions.encode_for(good.network, params, cond) == cond
