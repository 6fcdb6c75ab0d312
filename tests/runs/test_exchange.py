"""Models in and out by the program itself; diffusers' own reading is in tests/peers."""

import json
import re
import shutil

import jax
import numpy as np
import program
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from settings import changed

from ddpm_jax import data
from ddpm_jax.cli import main
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.model import find_model
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.training.checkpoints import latest_step, restore_params

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"


@pytest.fixture(scope="session")
def pipeline(finished_unet, tmp_path_factory):
    """The tiny run in the layout of diffusers, with what else it says of itself."""
    folder = tmp_path_factory.mktemp("exchange") / "pipeline"
    assert main(["export", f"{finished_unet}", f"{folder}"]) == 0
    return folder


@pytest.fixture
def foreign(pipeline, tmp_path):
    """A copy without the latter, as another program would write it."""
    folder = tmp_path / "foreign"
    shutil.copytree(pipeline, folder)
    (folder / "ddpm_jax.json").unlink()
    return folder


def import_from(source, workdir, *options):
    given = program.flags("import", *options)
    return main(["import", f"{source}", f"{workdir}", *given])


def samples(workdir, *options):
    given = program.flags("sample", *options)
    assert main(["sample", f"{workdir}", *given]) == 0
    (path,) = (workdir / "samples").rglob("samples.npz")
    with np.load(path) as stored:
        return stored["arr_0"], stored["arr_1"]


def edit(path, **changes):
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | changes))


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(capsys, *arguments):
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


# --- There and back -------------------------------------------------------------------


def test_export_then_import_is_the_same_run_bit_for_bit(
    finished_unet, pipeline, tmp_path
):
    workdir = tmp_path / "again"
    assert import_from(pipeline, workdir) == 0
    before, after = restore_params(finished_unet), restore_params(workdir)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    jax.tree.map(
        np.testing.assert_array_equal, after, restore_params(workdir, ema=False)
    )
    assert latest_step(workdir) == latest_step(finished_unet) == 12
    assert trained_recipe(workdir) == trained_recipe(finished_unet)
    drawn = tmp_path / "drawn"
    shutil.copytree(finished_unet / "checkpoints", drawn / "checkpoints")
    for ours, theirs in zip(samples(workdir), samples(drawn), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_its_record_the_network_is_the_same_and_classes_are_numbered(
    finished_unet, foreign, tmp_path, capsys
):
    """Sampled without data; an unconditional guess is what only the record tells."""
    workdir = tmp_path / "run"
    assert import_from(foreign, workdir, "condition_dropout=0.1") == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        restore_params(finished_unet),
        restore_params(workdir),
    )
    capsys.readouterr()
    options = ("num_images=4", "label=3,none", "guidance_scale=2", "num_steps=3")
    images, labels = samples(workdir, *options)
    assert images.shape == (4, 8, 8, 1)
    assert labels.tolist() == [3, 10, 3, 10]
    assert "no forward.png, for want of the data" in capsys.readouterr().err


def test_classes_without_a_row_for_none_get_one_of_zeros(foreign, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert import_from(foreign, workdir) == 0
    rows = restore_params(workdir)["label"]["embedding"]
    theirs = load_file(foreign / WEIGHTS)["class_embedding.weight"]
    np.testing.assert_array_equal(rows, np.concatenate([theirs, 0 * theirs[:1]]))
    line = refusal(
        capsys,
        *("sample", f"{workdir}", "--guidance-scale=2"),
    )
    assert "has also been trained without labels" in line


def test_an_imported_model_is_trained_further_on_data_named_then(
    foreign, tmp_path, capsys
):
    workdir = tmp_path / "run"
    given = ("condition_dropout=0.1", "step=5")
    assert import_from(foreign, workdir, *given) == 0
    start = restore_params(workdir)
    line = refusal(capsys, f"--workdir={workdir}")
    assert "data.source is empty; give --config.data.source=folder:PATH" in line
    training = {"num_steps": 7, "batch_size": 8, "warmup_steps": 1, "preview_every": 0}
    flags = [f"--config.training.{name}={value}" for name, value in training.items()]
    flags += ["--config.data.source=digits", "--config.training.max_grad_norm=0.0"]
    flags += ["--config.sample.num_images=2"]
    line = refusal(capsys, f"--workdir={workdir}", *flags, "--config.data.pad_to=16")
    assert "is made for images of (8, 8, 1) and 10 classes" in line
    assert main([f"--workdir={workdir}", *flags]) == 0
    assert latest_step(workdir) == 7
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()),
        start,
        restore_params(workdir, ema=False),
    )
    # Two Adam steps move a parameter by about the learning rate, 2e-4, each.
    assert 0 < max(jax.tree.leaves(moved)) < 1e-3
    line = refusal(capsys, f"--workdir={workdir}", "--config.data.flip=False")
    assert "holds a run of another config (data.flip" in line


def test_a_picture_is_completed_by_an_imported_model(foreign, tmp_path):
    workdir = tmp_path / "run"
    assert import_from(foreign, workdir, "condition_dropout=0.1") == 0
    known = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    for name, picture in (("picture", known), ("mask", mask)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    options = {"image": tmp_path / "picture.png", "mask": tmp_path / "mask.png"}
    options |= {"num_images": 2, "method": "replace"}
    given = program.flags("edit inpaint", **options)
    assert main(["edit", "inpaint", f"{workdir}", *given]) == 0
    (path,) = workdir.glob("edits/*/images.npz")
    with np.load(path) as stored:
        made = stored["arr_0"][..., 0]
    np.testing.assert_array_equal(made[:, :4], np.stack([known[:4]] * 2))
    assert (made[:, 4:] != known[4:]).any()


def test_the_data_to_measure_by_are_named_afterwards(foreign, tmp_path):
    workdir = tmp_path / "run"
    assert import_from(foreign, workdir) == 0
    made = changed(trained_recipe(workdir), "data.source=digits", "data.split=test")
    known = find_model(made.task, Sample(), workdir).info
    assert known.fingerprint == "unknown"
    other = changed(made, "data.image_size=None", "network.channels=16")
    with pytest.raises(UserError, match=r"\(network.channels: 8 -> 16\)"):
        find_model(other.task, Sample(), workdir)


def test_data_given_at_import_are_those_of_the_model(foreign, tmp_path, capsys):
    workdir = tmp_path / "run"
    given = ("condition_dropout=0.1", "data.source=digits", "data.split=test")
    assert import_from(foreign, workdir, *given) == 0
    known = find_model(trained_recipe(workdir).task, Sample(), workdir).info
    digits = data.load("digits", split="test", image_size=8, channels=1)
    assert (known.name, known.fingerprint) == ("digits", digits.fingerprint)
    capsys.readouterr()
    flags = ("--config.data.source=digits", "--config.data.pad_to=16")
    other = ("import", f"{foreign}", f"{tmp_path / 'other'}")
    line = refusal(capsys, *other, *flags)
    assert "digits has images of (16, 16, 1) and 10 classes" in line


# --- What is refused ------------------------------------------------------------------

SETTINGS = [
    (UNET, {"norm_eps": "small"}, "norm_eps='small', which is not of type float"),
    (
        UNET,
        {"down_block_types": ["ResnetDownsampleBlock2D"]},
        "ResnetDownsampleBlock2D",
    ),
    (UNET, {"up_block_types": ["AttnUpBlock2D"]}, "attention at the same of the 1"),
    (UNET, {"act_fn": "gelu"}, "act_fn='gelu', and here it can only be 'silu'"),
    (UNET, {"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
    (UNET, {"mid_block_type": None}, "mid_block_type=None"),
    (UNET, {"downsample_padding": 2}, "downsample_padding=2, .* 0 or 1"),
    (UNET, {"block_out_channels": [0]}, "they are no sizes"),
    (UNET, {"block_out_channels": [8, 12]}, "each is a multiple of the first"),
    (UNET, {"resnet_time_scale_shift": "ada_group"}, "ada_group"),
    (UNET, {"sample_size": None}, "--config.data.image_size=SIDE"),
    (UNET, {"cross_attention_dim": 768}, "cross_attention_dim=768, which is not known"),
    (UNET, {"_class_name": "UNet2DConditionModel"}, "can only be 'UNet2DModel'"),
    (UNET, {"in_channels": 6}, "in_channels=6 and out_channels=1"),
    (SCHEDULER, {"_class_name": "PNDMScheduler"}, "'DDPMScheduler' or 'DDIMScheduler'"),
    (SCHEDULER, {"beta_schedule": "laplace"}, "'linear' or 'scaled_linear' or"),
    (SCHEDULER, {"variance_type": "learned"}, "variance_type='learned'"),
    (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "trained_betas"),
    (SCHEDULER, {"thresholding": True}, "thresholding=True"),
    (SCHEDULER, {"num_train_timesteps": "many"}, "which is not of type int"),
]


@pytest.mark.parametrize(("file", "change", "message"), SETTINGS)
def test_a_setting_that_cannot_be(file, change, message, foreign, tmp_path, capsys):
    edit(foreign / file, **change)
    workdir = tmp_path / "run"
    line = refusal(capsys, "import", f"{foreign}", f"{workdir}")
    assert re.search(message, line), line
    assert not workdir.exists()


def drop(tensors):
    del tensors["conv_in.bias"], tensors["mid_block.attentions.0.to_q.weight"]


def add(tensors):
    tensors["down_blocks.9.resnets.0.norm1.weight"] = np.ones(8, np.float32)


def widen(tensors):
    tensors["conv_out.weight"] = np.zeros((1, 9, 3, 3), np.float32)


def break_off(tensors):
    tensors["conv_in.bias"] = np.full(8, np.inf, np.float32)


def count(tensors):
    tensors["conv_in.bias"] = np.arange(8)


TENSORS = [
    (drop, r"lacks 2 of the 75 tensors \(conv_in.bias, mid_block.*to_q.weight\)"),
    (add, r"1 tensors \(down_blocks.9.resnets.0.norm1.weight\)"),
    (widen, r"conv_out.weight has shape \[1, 9, 3, 3\].*takes \[1, 8, 3, 3\]"),
    (break_off, "conv_in.bias holds numbers that are not finite"),
    (count, "conv_in.bias holds int64"),
]


@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_tensors_that_do_not_fit(change, message, foreign, tmp_path, capsys):
    rewrite(foreign / WEIGHTS, change)
    workdir = tmp_path / "run"
    line = refusal(capsys, "import", f"{foreign}", f"{workdir}")
    assert re.search(message, line), line
    assert not workdir.exists()


def test_files_that_are_damaged_or_missing(foreign, tmp_path, capsys):
    def line():
        return refusal(capsys, "import", f"{foreign}", f"{tmp_path / 'run'}")

    whole = (foreign / WEIGHTS).read_bytes()
    for damaged in (b"", whole[:5], whole[:1000], whole[:-1], b"\xff" * 100):
        (foreign / WEIGHTS).write_bytes(damaged)
        assert re.search(r"safetensors is cut short or damaged \(.+\)", line())
    (foreign / WEIGHTS).unlink()
    assert "put diffusion_pytorch_model.safetensors or" in line()
    (foreign / SCHEDULER).unlink()
    assert "has no scheduler_config.json" in line()
    (foreign / UNET).write_text("{")
    assert "config.json cannot be read" in line()
    (foreign / UNET).write_text("[]")
    assert "it holds a list, not an object" in line()
    (foreign / UNET).unlink()
    assert "has no config.json and no file of weights" in line()


def test_half_precision_is_read_as_it_is(foreign, tmp_path):
    def halve(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16)

    rewrite(foreign / WEIGHTS, halve)
    assert import_from(foreign, tmp_path / "run") == 0
    kernel = restore_params(tmp_path / "run")["conv_in"]["kernel"]
    theirs = load_file(foreign / WEIGHTS)["conv_in.weight"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))


def test_a_record_of_another_model(pipeline, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(pipeline, folder)
    edit(folder / SCHEDULER, beta_schedule="squaredcos_cap_v2")
    line = refusal(capsys, "import", f"{folder}", f"{tmp_path / 'run'}")
    assert "ddpm_jax.json says otherwise" in line and "schedule.kind" in line


FLAGS = [
    (["import"], "import needs SOURCE (a folder, a file of weights, or OWNER/NAME"),
    (["export", "x"], "export needs TO (folder to be made)"),
    (["sample", "x", "y"], "unknown argument 'y'; sample takes RUN"),
    (["import", "x", "--config=configs/digits.py"], "takes no recipe"),
    (["import", "no such place"], "neither a folder nor a file here"),
    (["import", "x/y", "--stp=3"], "unknown flag --stp; did you mean --step?"),
]


@pytest.mark.parametrize(("arguments", "message"), FLAGS)
def test_a_wrong_command(arguments, message, capsys):
    assert message in refusal(capsys, *arguments)


def test_an_option_against_the_checkpoint_and_a_workdir_that_is_taken(
    finished_unet, foreign, tmp_path, capsys
):
    flags = ("import", f"{foreign}")
    contrary = (f"{tmp_path / 'run'}", "--config.network.channels=16")
    line = refusal(capsys, *flags, *contrary)
    assert "config.network.channels=16 is not what" in line and "which is 8" in line
    line = refusal(capsys, *flags, f"{finished_unet}")
    assert "holds a model already; use another folder" in line
    line = refusal(capsys, "export", f"{finished_unet}", f"{foreign}")
    assert "holds a model already; use another folder" in line
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for place, said in (("mine", "holds files already"), ("mine/thesis.txt", "a file")):
        line = refusal(capsys, "export", f"{finished_unet}", f"{tmp_path / place}")
        assert said in line and "use a new or an empty folder" in line
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
