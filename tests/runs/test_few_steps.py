"""A finished run becomes one of few steps, and is a run like any other."""

import json
import shutil

import numpy as np
import pytest
from program import TINY

import ddpm_jax
from ddpm_jax.cli import _stem, load_recipe, main
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.log import read_metrics

QUICK = ["--config.training.num_steps=8", "--config.training.checkpoint_every=3"]
QUICK += ["--config.sample.num_images=4"]
STAGES = "--config.loss.num_stages=4"


def tune(run, workdir, *options, recipe="configs/tune.py"):
    line = [f"--config={recipe}:{run}", f"--workdir={workdir}", *QUICK]
    if recipe != "configs/meanflow.py":
        line += [STAGES]
    return main([*line, *options])


@pytest.fixture(scope="module")
def tuned(finished, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    assert tune(finished, workdir) == 0
    return workdir


def sums(workdir, step):
    path = workdir / f"checkpoints/{step}/metadata/metadata.json"
    return json.loads(path.read_text())["checksums"]


def refusal(capsys, *line):
    assert main(list(line)) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    return said


def test_a_tuned_run_is_a_diffusion_run_of_two_steps(finished, tuned):
    before, now = trained_recipe(finished), trained_recipe(tuned)
    assert now.kind == "diffusion" and now.task.network == before.task.network
    assert before.task.prediction == "eps" and now.task.prediction == "v"
    assert now.task.init_from == f"{finished}@12"
    assert now.task.preview_steps == 2
    asked = now.defaults["sample"]
    assert (asked.sampler, asked.num_steps) == ("consistency", 2)
    model = ddpm_jax.load(tuned)
    one, two = (
        model.sample(num_images=3, seed=1, num_steps=n, label="1") for n in (1, 2)
    )
    assert np.shape(one) == (3, 8, 8, 1) and (np.asarray(one) != np.asarray(two)).any()
    # What the run itself has sampled is what the program samples.
    (folder,) = (tuned / "samples").iterdir()
    request = json.loads((folder / "request.json").read_text())
    assert "consistency" in json.dumps(request)


@pytest.mark.parametrize(
    "line",
    [
        ["sample", "--num-steps=1", "--num-images=2", "--label=3"],
        ["sample", "--sampler=dpmpp_2m", "--num-steps=3", "--num-images=2"],
        ["edit", "encode", "--image=digits"],
        ["likelihood", "--num-images=4", "--num-steps=2"],
    ],
    ids=["sample", "another sampler", "encode", "likelihood"],
)
def test_commands_take_a_tuned_run(tuned, tmp_path, line):
    if line[1] == "encode":
        (picture, *_) = sorted((tuned / "samples").glob("*/images/*.png"))
        line = ["edit", "encode", f"--image={picture}", "--num-steps=2"]
    words = 2 if line[0] == "edit" else 1
    options = [*line[words:], f"--out={tmp_path}/out"]
    if line[0] == "likelihood":
        options = line[1:]
    assert main([*line[:words], str(tuned), *options]) == 0


def test_a_tuned_run_that_is_stopped_ends_bit_for_bit_as_one_that_is_not(
    finished, tuned, tmp_path
):
    shutil.copytree(tuned, tmp_path / "run")
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"run/checkpoints/{step}", ignore_errors=True)
    assert store.latest_step(tmp_path / "run") == 3
    assert tune(finished, tmp_path / "run") == 0
    assert sums(tmp_path / "run", 8) == sums(tuned, 8)


def test_the_stage_follows_the_step_of_the_run(finished, tmp_path):
    """With one stage it is the diffusion loss; a second one changes the second half."""
    loss = {}
    for stages in (1, 2):
        at = tmp_path / str(stages)
        options = ["--config.training.report_every=1", "--config.loss.huber=0"]
        assert tune(finished, at, *options, f"--config.loss.num_stages={stages}") == 0
        loss[stages] = [record["loss"] for record in read_metrics(at)]
    assert loss[1][:4] == loss[2][:4] and loss[1][4] != loss[2][4]


def test_a_teacher_is_frozen_and_stays_with_the_run(finished, tmp_path):
    options = ["--config.loss.pairs=teacher", "--config.loss.guidance_scale=2"]
    assert tune(finished, tmp_path / "run", *options) == 0
    saved = [sums(tmp_path / "run", step)["memory"] for step in (3, 8)]
    assert saved[0] == saved[1] and len(saved[0]) > 10
    whole = sums(tmp_path / "run", 8)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"again/checkpoints/{step}")
    # The run that it began with is not needed for the teacher any more.
    assert tune(finished, tmp_path / "again", *options) == 0
    assert sums(tmp_path / "again", 8) == whole


def test_a_checkpoint_of_a_run_is_named_by_its_step(finished_unet, tmp_path):
    assert tune(f"{finished_unet}@3", tmp_path / "run") == 0
    assert trained_recipe(tmp_path / "run").task.init_from == f"{finished_unet}@3"


def test_a_learned_variance_is_left_out(tmp_path):
    """The prediction stays as it was: DDIM, which has no use for one, samples alike."""
    learned = ["--config.variance=learned", "--config.loss.kind=hybrid"]
    first, plain, few = (tmp_path / name for name in ("first", "plain", "few"))
    line = [f"--config={TINY}", "--config.training.preview_every=0"]
    assert main([*line, f"--workdir={first}", *learned]) == 0
    still = ["--config.training.num_steps=1", "--config.training.learning_rate=1e-12"]
    still += ["--config.training.warmup_steps=0", f"--config.init_from={first}"]
    assert main([*line, f"--workdir={plain}", *still]) == 0
    given = {"num_images": 3, "seed": 3, "num_steps": 4, "sampler": "ddim"}
    before, after = (
        np.asarray(ddpm_jax.load(run).sample(**given)) for run in (first, plain)
    )
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert tune(first, few) == 0
    assert trained_recipe(few).task.variance == "small"


# --- Progressive distillation and mean flow -------------------------------------------

STRAIGHT = ["--config.schedule.kind=straight", "--config.schedule.num_levels=20"]
STRAIGHT += ["--config.schedule.alpha_min=0.001", "--config.prediction=flow"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert main([f"--config={TINY}", f"--workdir={workdir}", *STRAIGHT]) == 0
    return workdir


def test_progressive_distillation_of_a_run_that_predicts_eps(finished, tmp_path):
    recipe = "configs/progressive.py"
    options = ["--config.loss.num_stages=3", "--config.loss.guidance_scale=2"]
    assert tune(finished, tmp_path / "run", *options, recipe=recipe) == 0
    made = trained_recipe(tmp_path / "run")
    # From eps to v, and then from 4 steps to 2 to 1.
    assert made.task.loss.plain_stages == 1 and made.task.loss.teacher_steps == 4
    asked = made.defaults["sample"]
    assert (asked.sampler, asked.num_steps) == ("ddim", 1)
    assert np.shape(ddpm_jax.load(tmp_path / "run").sample(num_images=2)) == (
        2,
        8,
        8,
        1,
    )
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"again/checkpoints/{step}")
    assert tune(finished, tmp_path / "again", *options, recipe=recipe) == 0
    assert sums(tmp_path / "again", 8) == sums(tmp_path / "run", 8)


def test_mean_flow_of_a_run_on_the_straight_path(straight, tmp_path, capsys):
    recipe = "configs/meanflow.py"
    options = ["--config.loss.guidance_scale=1.5"]
    assert tune(straight, tmp_path / "run", *options, recipe=recipe) == 0
    model = ddpm_jax.load(tmp_path / "run")
    given = {"num_images": 2, "seed": 3, "label": "4"}
    one, two = (np.asarray(model.sample(num_steps=n, **given)) for n in (1, 2))
    assert (one != two).any()
    assert "jump" in trained_recipe(tmp_path / "run").task.conditioners
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"again/checkpoints/{step}")
    assert tune(straight, tmp_path / "again", *options, recipe=recipe) == 0
    assert sums(tmp_path / "again", 8) == sums(tmp_path / "run", 8)
    capsys.readouterr()
    # Other samplers see the velocity at a level, and noise does not go with an average.
    assert np.isfinite(model.sample(num_steps=3, sampler="heun", **given)).all()
    said = refusal(capsys, "sample", str(tmp_path / "run"), "--eta=0.5")
    assert "noises anew what this model, of average velocities" in said


def test_a_run_that_gets_an_embedding_of_jumps_computes_at_first_what_it_did(
    straight, tmp_path
):
    recipe = "configs/meanflow.py"
    still = ["--config.training.num_steps=1", "--config.training.learning_rate=1e-12"]
    still += ["--config.training.warmup_steps=0"]
    assert tune(straight, tmp_path / "run", *still, recipe=recipe) == 0
    given = {"num_images": 3, "seed": 3, "num_steps": 4, "sampler": "ddim"}
    before, after = (
        np.asarray(ddpm_jax.load(run).sample(**given))
        for run in (straight, tmp_path / "run")
    )
    np.testing.assert_allclose(after, before, atol=1e-4)


# --- What cannot be tuned -------------------------------------------------------------


def test_what_is_no_run_of_diffusion(tmp_path, capsys):
    at = f"--workdir={tmp_path}/run"
    said = refusal(capsys, "--config=configs/tune.py", at)
    assert "none is named" in said
    said = refusal(capsys, f"--config=configs/tune.py:{tmp_path}/none", at)
    assert "holds no checkpoint of a run" in said
    options = ["--config.training.num_steps=1", "--config.training.warmup_steps=0"]
    options += ["--config.sample.num_images=1", "--config.training.batch_size=8"]
    flow = f"--workdir={tmp_path}/flow"
    assert main(["--config=configs/points_flow.py:ring", flow, *options]) == 0
    said = refusal(capsys, f"--config=configs/tune.py:{tmp_path}/flow", at)
    assert "holds a model of kind flow" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["prediction=eps"], "says next to nothing of x0; use prediction v"),
        (
            ["loss.guidance_scale=2"],
            "guidance_scale=2.0 does nothing without a teacher",
        ),
        (["loss.pairs=teacher", "init_from="], "has a teacher, the run of init_from"),
        (
            ["conditioners.self_conditioning.kind=self_conditioning"],
            "is of the step before; use a run without it",
        ),
        (["loss.num_stages=0"], "num_stages=0 is too small"),
        (["loss.num_stages=9"], "num_stages=9 is more than the 8 steps"),
        (["sample.eta=0.5"], "eta=0.5 does nothing but with sampler ddim"),
        (
            ["loss.pairs=teacher", "loss.guidance_scale=2", "conditioners.label=None"],
            "guidance_scale=2.0 is of conditions",
        ),
    ],
)
def test_options_that_cannot_be(finished, tmp_path, capsys, options, wanted):
    given = [f"--config.{option}" for option in options]
    recipe, at = f"--config=configs/tune.py:{finished}", f"--workdir={tmp_path}/run"
    assert wanted in refusal(capsys, recipe, at, *QUICK, STAGES, *given)
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("recipe", "options", "wanted"),
    [
        ("progressive", ["num_stages=9"], "begin with 256 steps, and there are 20"),
        ("progressive", ["plain_stages=3"], "leaves nothing to distil of num_stages=3"),
        ("meanflow", [], "is of average velocities on a straight path, and this is"),
    ],
)
def test_losses_that_a_run_is_not_made_for(
    finished, tmp_path, capsys, recipe, options, wanted
):
    given = ["--config.loss.num_stages=3", *(f"--config.loss.{o}" for o in options)]
    said = refusal(
        capsys,
        f"--config=configs/{recipe}.py:{finished}",
        f"--workdir={tmp_path}/run",
        *(given if options else []),
    )
    assert wanted in said


def test_an_embedding_of_jumps_without_its_loss(tmp_path, capsys):
    line = [f"--config={TINY}", "--config.conditioners.jump.kind=jump"]
    said = refusal(capsys, *line, f"--workdir={tmp_path}/run")
    assert "conditioners.jump is of loss mean_flow" in said


def test_the_default_folder_of_a_tuned_run_is_named_by_the_last_part_of_the_run():
    assert _stem("configs/tune.py:runs/digits") == "tune-digits"


def test_the_recipe_can_be_read_by_its_name(finished):
    made, fixed = load_recipe(f"tune:{finished}")
    assert made.task.loss.num_stages == 8 and not fixed
