"""Bad input: one line that helps, exit status 2, nothing compiled, nothing lost."""

import re
import shutil
from pathlib import Path

import pytest
from program import ROOT, TINY, TINY_UNET
from settings import changed, default

from ddpm_jax.cli import main, override
from ddpm_jax.commands import train
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.fitting import refuse_another_config
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training import workdir_lock

SETTINGS = [
    ("--config.training.batchsize=3", "unknown option .*batch_size"),
    ("--config.trainin.batch_size=3", "unknown option .*training"),
    ("--config.training=3", "is a section; set one of"),
    ("--config.training.num_steps=1e4", "num_steps"),
    (
        "--config.schedule.kind=lineer",
        r"kind='lineer'.*use constant, cosine, .*\(did you mean linear\?\)",
    ),
    ("--config.prediction=noise", "use eps, x0, v, flow, edm"),
    ("--config.variance=medium", "use small, large, learned"),
    (
        "--config.loss.kind=l1",
        "kind='l1'.*use bound, consistency, hybrid, mean, .*simple",
    ),
    ("--config.loss.kind=hybrid", "needs a learned variance"),
    ("--config.variance=learned", "does not train"),
    ("--config.schedule.kind=jsd", "pure noise.*use prediction v or x0"),
    ("--config.sample.sampler=eulers", "use ancestral, ddim, euler, heun"),
    ("--config.sample.spacing=log", "use trailing, leading"),
    ("--config.sample.num_steps=21", "use 1 to 20"),
    ("--config.sample.eta=1.5", r"not in \[0, 1\]"),
    ("--config.sample.labels=10", "use 0 to 9"),
    ("--config.data.source=cifar99", "cifar99"),
    ("--config.data.source=folder:nowhere", "nowhere"),
    ("--config.data.split=dev", "use train, test or all"),
    ("--config.data.resize=fit", "use crop, pad_black, pad_white, squash"),
    ("--config.data.skip_broken=True", "is for folders of images"),
    ("--config.data.label_field=kind", "is for folders of images"),
    ("--config.network.dtype=float16", "use float32, bfloat16"),
    ("--config.network.attention=cudnn", "needs bfloat16 on a GPU"),
    ("--config.network.channels=10", "num_groups=4 does not divide"),
    ("--config.network.channel_multipliers=(1,2,2,2,2)", "8x8 do not halve 4 times"),
    ("--config.network.dropout=1.0", r"not in \[0, 1\)"),
    ("--config.training.batch_size=0", "batch_size=0 is too small"),
    ("--config.training.optimizer.b1=1.0", r"not in \[0, 1\)"),
    ("--config.network.channel_multipliers=(1,-2)", "whole number of 1 or more"),
    ("--config.schedule.t_range=0", "too small"),
    ("--config.seed=-1", "config.seed=-1 is too small; use 0 or more"),
    ("--config.data.source=folder:tests/runs", "holds no PNG"),
    ("--config.network.head_channels=0", "too small; use 1 or more"),
    ("--config.network.norm_epsilon=0.0", r"not in \(0, 1\)"),
    ("--config.network.frequency_shift=2", "use 0, 1"),
    ("--config.network.downsample_padding=2", "use 0, 1"),
    ("--config.schedule.beta_end=1.0", r"not in \(0, 1\)"),
    ("--config.training.learning_rate=-1.0", "must be positive"),
    ("--config.training.checkpoint_every=0", "too small; use 1 or more"),
    ("--config.seed", "config.seed has no value; write --config.seed=VALUE"),
    ("--config.data.source=", "data.source is empty; give --config.data.source="),
    ("--config.schedule.num_levels=1000000000", "use 1,000,000 or less"),
    ("--config.sample.num_images=2000000000", "use .* or fewer"),
    ("--config.data.image_size=60000", "1498 digits of 60000x60000 take 5,392.80 GB"),
    ("--config.evaluate.batch_size=2000000000", "evaluate.batch_size=2000000000 takes"),
    ("--config.kind=wizard", "use autoencoder, .* flow, gan, refinement, scene, vae"),
    ("--config.training.kind=linear", "config.training.kind='linear'.*use fit"),
    ("--mode=sample", "--mode is gone; write main.py sample RUN"),
    ("--mode=inpaint", "--mode is gone; write main.py edit inpaint RUN"),
    ("--mode=features", "--mode=features is gone: --config=RECIPE trains whatever"),
    ("--workdirr=x", "unknown flag"),
    ("stray", "unknown argument 'stray'"),
]


def refused(capsys, monkeypatch, arguments):
    """Run, and return the one line of the refusal; a compile would be a failure."""

    def no_compile(*args, **kwargs):
        raise AssertionError("compiled before checking")

    monkeypatch.setattr("ddpm_jax.assembly.parts.init_params", no_compile)
    monkeypatch.setattr("ddpm_jax.training.fit.compile_step", no_compile)
    monkeypatch.setattr("ddpm_jax.sampling.plan.run_stage", no_compile)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(("setting", "message"), SETTINGS)
def test_a_bad_setting(tmp_path, capsys, monkeypatch, setting, message):
    monkeypatch.setattr("ddpm_jax.runtime.capacity.machine_memory", lambda: 8 * 10**9)
    workdir = tmp_path / "run"
    line = refused(
        capsys, monkeypatch, [f"--config={TINY_UNET}", f"--workdir={workdir}", setting]
    )
    assert re.search(message, line), line
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        (
            "training.batch_size=1000000000",
            r"use config.training.batch_size=\d{4,5} or",
        ),
        (
            "network.channels=60000",
            "a smaller network.* share it by config.devices.fsdp",
        ),
    ],
)
def test_training_beyond_memory_is_refused_by_what_the_plan_knows(
    tmp_path, capsys, monkeypatch, setting, remedy
):
    monkeypatch.setattr("ddpm_jax.runtime.capacity.machine_memory", lambda: 8 * 10**9)
    given = [
        f"--config={TINY_UNET}",
        f"--workdir={tmp_path}/run",
        f"--config.{setting}",
    ]
    assert main(given) == 2  # traced, and never compiled
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(
        rf"training needs about [\d,.]+ GB on a device of .*{remedy}", line
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--workdir=", "--config="])
def test_a_flag_of_a_variable_that_is_not_set(capsys, monkeypatch, tmp_path, flag):
    """Before, `--workdir=` wrote to runs/RECIPE, which may be another run."""
    monkeypatch.chdir(tmp_path)
    given = [f"--config={TINY_UNET}", flag]
    assert f"{flag} is empty" in refused(capsys, monkeypatch, given)
    assert not list(tmp_path.iterdir())


def test_an_option_without_a_value_does_not_take_the_next_flag(capsys, monkeypatch):
    alone = ["--config.data.source", "--config.data.flip"]  # the second may stand so
    line = refused(capsys, monkeypatch, [f"--config={TINY_UNET}", *alone])
    assert "config.data.source has no value; write --config.data.source=VALUE" in line


def test_an_option_of_yes_or_no_may_stand_alone():
    made = default("network.remat=False")
    spec = override(made, ["--config.network.remat", "--config.seed", "3"]).task
    assert (spec.network.remat, spec.seed) == (True, 3)


def test_a_recipe_that_is_not_there(capsys, monkeypatch):
    line = refused(capsys, monkeypatch, ["--config=configs/cifer.py"])
    assert "is not a file; configs/ has cifar, cifar_autoencoder, " in line


def test_a_misspelt_flag_is_named_before_what_is_missing_for_it(capsys, monkeypatch):
    line = refused(capsys, monkeypatch, ["--confg=configs/digits.py"])
    assert "unknown flag --confg;" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("get_config = 3 +", "invalid syntax"),
        ("x = 1", "defines get_config"),
        ("def get_config():\n    pass", "returned NoneType"),
        ("def get_config():\n    return nothing", "'nothing' is not defined"),
        (
            "from ddpm_jax.recipe import Diffusion, recipe\n"
            "def get_config():\n    c = recipe(Diffusion())\n"
            "    c.network.chanels = 3\n",
            "chanels",
        ),
    ],
)
def test_a_broken_recipe(tmp_path, capsys, monkeypatch, text, message):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(text)
    assert message in refused(capsys, monkeypatch, [f"--config={recipe}"])


def test_nothing_asked(capsys, monkeypatch):
    assert "give --config=RECIPE" in refused(capsys, monkeypatch, [])


COMMANDS = [
    ("simple", "unknown command 'simple'; did you mean sample?"),
    ("--config", "expected one argument"),
    ("edit", "edit needs a word after it: inpaint, image-to-image, interpolate"),
    ("edit impaint runs/a", "unknown edit 'impaint'; did you mean inpaint?"),
    ("inpaint runs/a", "unknown command 'inpaint'; write edit inpaint."),
    ("sample", "sample needs RUN (folder of the run)"),
    ("sample runs/a runs/b", "unknown argument 'runs/b'; sample takes RUN, and flags"),
    ("sample --workdir=runs/a", "write the run without a flag: sample runs/a"),
    ("sample runs/a --out=", "--out= is empty, as of a variable that is not set"),
    ("sample runs/a --num-step=3", "--num-step; did you mean --num-steps?"),
    ("export runs/a b --labels=3", "unknown flag --labels; the flags of export are"),
    ("sample runs/a --num-steps", "--num-steps has no value; write --num-steps=VALUE"),
    ("sample runs/a --num-steps=1e4", "--num-steps=1e4 is not a whole number"),
    ("sample runs/a --eta=much", "--eta=much is not a number"),
    ("sample runs/a --clip=False", "--clip takes no value; write --clip or --no-clip"),
    (
        "sample runs/a --config.sample.num_steps=3",
        "num_steps sets the default of a recipe; here it is --num-steps",
    ),
    (
        "edit encode runs/a --config.edit.mask=m",
        "edit.mask does nothing in edit encode",
    ),
    ("edit encode runs/a --config.edit.strenth=1", "did you mean --strength?"),
    (
        "sample runs/a --config.sample.label=3",
        "sample.label is no option of a recipe; sample has --label.",
    ),
    ("sample runs/a --config.sample.labl=3", "nothing in sample; did you mean --label"),
    *(
        (
            f"{command} runs/a --config.{option}",
            f"of training, and does nothing in {command}",
        )
        for command in ("sample", "likelihood")
        for option in ("init_from=runs/b", "preview_steps=3", "training.num_steps=3")
    ),
    ("look", "look needs --config=RECIPE, or a run"),
    ("look runs/a --workdir=runs/b", "look got two runs, runs/a and --workdir=runs/b"),
    ("plan runs/a --workdir=runs/b", "plan got two runs, runs/a and --workdir=runs/b"),
    ("options runs/a --config=digits", "does not look at beside --config=digits;"),
    ("look runs/a --config=digits --out=b", "beside --config=digits and --out; leave"),
    ("import a.pt --qkv-order=foo", "--qkv-order='foo' is not known; use legacy, new"),
    ("import a.pt --step=-1", "--step=-1 is too small; use 0 or more"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS)
def test_a_command_that_cannot_be_read(capsys, monkeypatch, words, message):
    line = refused(capsys, monkeypatch, words.split())
    assert message in line, line


def test_a_workdir_of_another_config(finished, capsys, monkeypatch):
    before = (finished / "config.json").read_text()
    line = refused(
        capsys,
        monkeypatch,
        [f"--config={TINY}", f"--workdir={finished}", "--config.network.depth=2"],
    )
    assert "network.depth: 1 -> 2" in line
    assert (finished / "config.json").read_text() == before


def test_how_attention_is_computed_makes_no_other_run(finished_unet):
    """Though the name of the option begins that of one which does."""
    run = finished_unet
    made = trained_recipe(run)
    free = train._free(run, made, "unknown")
    refuse_another_config(changed(made, "network.attention=cudnn"), run, free)
    other = changed(made, "network.attention_resolutions=4,")
    with pytest.raises(UserError, match=r"attention_resolutions: \(\) -> \(4,\)"):
        refuse_another_config(other, run, free)


def test_a_workdir_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    line = refused(
        capsys, monkeypatch, [f"--config={TINY_UNET}", f"--workdir={tmp_path}/file/run"]
    )
    assert f"cannot write {tmp_path}/file/run (Not a directory)" in line


def test_a_second_trainer_of_one_run(tmp_path, capsys, monkeypatch):
    """Refused before anything is written, also with options of its own."""
    with workdir_lock.hold(tmp_path):
        line = refused(
            capsys, monkeypatch, [f"--config={TINY_UNET}", f"--workdir={tmp_path}"]
        )
        assert [path.name for path in tmp_path.iterdir()] == [workdir_lock.FILE]
    assert f"another process trains in {tmp_path} since" in line


@pytest.mark.parametrize(
    "content", [b"[]", b"", b"\xff", b"7", b"[" * 100_000, b'{"a": ' * 100_000]
)
def test_a_damaged_config(finished, tmp_path, capsys, monkeypatch, content):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "config.json").write_bytes(content)
    arguments = [f"--config={TINY}", f"--workdir={workdir}"]
    line = refused(capsys, monkeypatch, [*arguments, "--config.training.num_steps=99"])
    assert f"{workdir / 'config.json'} cannot be read (" in line


def test_sampling_an_empty_workdir(tmp_path, capsys, monkeypatch):
    line = refused(capsys, monkeypatch, ["sample", f"{tmp_path}"])
    assert "no checkpoint in" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("--config.network.width=16", "network.width: 8 -> 16"),
        ("--num-steps=0", r"--num-steps=0 is not in 1\.\.T; use 1 to 20"),
        ("--num-images=0", "--num-images=0 is too small; use 1 or more"),
        ("--sampler=eulers", "--sampler=eulers is not known; use ancestral, ddim"),
        ("--churn-low=0.1", "--churn-low=0.1 does nothing without churn; set --churn"),
        ("--num-images=3000000000", "--num-images=3000000000 is out of range"),
        ("--label=eleven", "is not a class"),
        ("--step=5", "no checkpoint of step 5.*use one of 3, 6, 9, 12"),
        ("--variance=learned", "predicts none"),
    ],
)
def test_sampling_with_options_the_model_cannot_serve(
    finished, capsys, monkeypatch, setting, message
):
    line = refused(capsys, monkeypatch, ["sample", f"{finished}", setting])
    assert re.search(message, line), line


def test_a_batch_that_the_devices_do_not_divide(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 3)
    line = refused(
        capsys, monkeypatch, [f"--config={TINY_UNET}", f"--workdir={tmp_path}/r"]
    )
    assert "batch_size=8 cannot be spread evenly over 3" in line


def test_control_c_while_compiling_is_quiet(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpm_jax.assembly.parts.init_params", interrupted)
    assert main([f"--config={TINY_UNET}", f"--workdir={tmp_path}/r"]) == 130
    assert capsys.readouterr().err == "interrupted.\n"


def test_a_loss_that_is_not_finite_names_step_rate_and_last_good_checkpoint(
    tmp_path, capsys
):
    # Adam moves by about the rate, whatever the gradient: this overflows float32.
    assert (
        main(
            [
                f"--config={TINY_UNET}",
                f"--workdir={tmp_path}/other",
                "--config.training.learning_rate=1e30",
                "--config.training.num_steps=9",
            ]
        )
        == 2
    )
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "at step" in line
    assert "learning rate 1e+30" in line
    assert "Last good checkpoint: " in line


def test_a_run_of_the_first_version_is_refused_and_the_version_named(
    finished, tmp_path, capsys, monkeypatch
):
    stored = store.read_metadata(finished)
    old = {"data": {"source": "digits"}, "model": {}, "training": {}}  # without kinds
    versions = {**stored["versions"], "ddpm_jax": "0.1.0"}
    monkeypatch.setattr(
        store,
        "read_metadata",
        lambda *_: {**stored, "config": old, "versions": versions},
    )
    assert main(["sample", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "was trained by ddpm_jax 0.1.0" in error and error.count("\n") == 1
    assert "use that version, or train it again" in error


SHAPES = [
    *("--config.data.source=shapes:90", "--config.data.hold_out=0"),
    *("--config.data.image_size=16", "--config.text.kind=words"),
]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (ROOT / "configs" / "digits_features.py", []),
        (Path(TINY_UNET).with_name("tiny_autoencoder.py"), []),
        (ROOT / "configs" / "emoji_retrieval.py", SHAPES),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_previews_of_what_has_none_are_refused(recipe, options, tmp_path, capsys):
    line = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *options]
    assert main([*line, "--config.training.preview_every=5"]) == 2
    error = capsys.readouterr().err
    assert "config.training.preview_every=5 does nothing in the training of" in error
    assert error.count("\n") == 1 and not (tmp_path / "run" / "config.json").exists()
