"""A folder of pictures from a first look to a trained model; plans by hand."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from program import TINY, TINY_UNET
from settings import changed, classifier

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.features import KIND
from ddpm_jax.cli import main
from ddpm_jax.commands import plan as plans
from ddpm_jax.commands.about import check_same_model, trained_recipe
from ddpm_jax.commands.fitting import already_finished
from ddpm_jax.errors import UserError
from ddpm_jax.networks.cost import count_flops
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for index in range(12):
        path = tmp_path / "pictures" / ("cat", "dog", "dog")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (10, 16, 3) if index else (30, 20, 3)
        Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(path)
    return tmp_path / "pictures"


def arguments(folder, tmp_path, *more, recipe=TINY):
    return [
        f"--config={recipe}",
        f"--workdir={tmp_path}/run",
        f"--config.data.source=folder:{folder}",
        "--config.data.image_size=8",
        "--config.training.num_steps=2",
        "--config.training.preview_every=0",
        *(["--config.sample.num_steps=4"] if recipe == TINY else []),
        *more,
    ]


def test_a_look_counts_and_names(folder, tmp_path, capsys):
    (folder / "cat" / "b1.png").write_bytes(b"broken")
    (folder / "dog" / "b2.jpg").write_bytes(b"")
    assert main(["look", *arguments(folder, tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "14 files" in said
    assert "10x16 11, 30x20 1 (height x width)" in said
    assert "colour 12" in said
    assert "2: cat/b1.png (" in said and "dog/b2.jpg (" in said
    assert "12 images of 8x8x3, crop" in said
    assert "2: cat 4, dog 8" in said
    listed = (tmp_path / "run" / "broken.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["cat/b1.png", "dog/b2.jpg"]
    assert (tmp_path / "run" / "look.txt").read_text() == said
    with Image.open(tmp_path / "run" / "look.png") as sheet:
        assert sheet.size == (8 * 66 + 2, 2 * 66 + 2)  # 12 of 8x8 times 8, and margins


def test_a_look_at_captions_and_at_other_data(folder, tmp_path, capsys):
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "cat/0.png", "text": "a grey cat"}\n'
    )
    assert main(["look", *arguments(folder, tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "captions  1, the first: 'a grey cat'" in said
    assert main(["look", f"--config={TINY}", f"{tmp_path}/d"]) == 0
    said = capsys.readouterr().out
    assert "1,498 images of 8x8x1" in said and "10: 0 " in said
    assert (tmp_path / "d" / "look.png").exists()


def test_a_look_names_what_is_left_out_and_the_bits_that_are_used(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "scans").mkdir()
    for index in range(3):
        samples = np.full((8, 8), 1000 * index, np.uint16)
        Image.fromarray(samples).save(tmp_path / "scans" / f"{index}.png")
    for name in ("a.heic", ".thumbs.png"):
        (tmp_path / "scans" / name).write_bytes(b"")
    line = ["look", *arguments(tmp_path / "scans", tmp_path)]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert (
        "16-bit    3, the largest sample 2,000 of 65,535, so that no pixel is" in said
    )
    assert "brighter than 8 of 255; --config.data.sample_bits=11 makes 2,047" in said
    assert "left out  2: of other kinds 1 (a.heic); hidden 1 (.thumbs.png)" in said
    listed = (tmp_path / "run" / "left-out.txt").read_text()
    assert listed == ".thumbs.png\thidden\na.heic\tof other kinds\n"
    assert main([*line, "--config.data.sample_bits=11"]) == 0
    said = capsys.readouterr().out
    assert "largest sample 2,000 of 2,047\n" in said
    assert main([*line, "--config.data.sample_bits=10"]) == 2
    assert "the largest sample in" in capsys.readouterr().err


def test_training_stops_at_broken_files_or_skips_them_from_memory_or_disk(
    folder, tmp_path, capsys, monkeypatch
):
    (folder / "dog" / "b.png").write_bytes(b"")
    asked = functools.partial(arguments, folder, tmp_path, "--config.data.channels=3")
    line = asked()
    # Where the channels are looked up, the header of the broken file is met first.
    of_an_autoencoder = asked(recipe="configs/cifar_autoencoder.py")
    for refused in (line, [*line, "--config.data.channels=0"], of_an_autoencoder):
        assert main(refused) == 2
        error = capsys.readouterr().err
        assert "broken files, 1 of 13: " in error and "dog/b.png" in error
        assert f"{tmp_path}/run/broken.txt" in error
        listed = tmp_path / "run" / "broken.txt"
        assert listed.read_text().startswith("dog/b.png\t")
        listed.unlink()
    assert not (tmp_path / "run" / "checkpoints").exists()

    line += ["--config.data.skip_broken=True", "--config.training.report_every=1"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "12 images of 8x8x3. Left out as broken: 1 (dog/b.png)." in said
    assert re.search(r"memory   about [\d.]+ MB a device", said)
    assert re.search(r"time     about \d+ minutes for 2 steps", said)
    assert (tmp_path / "run" / "look.png").exists()

    monkeypatch.setattr(data, "ready", functools.partial(data.ready, max_bytes=0))
    assert main([*line, f"--workdir={tmp_path}/disk"]) == 0
    assert str(tmp_path / "cache" / "decoded") in capsys.readouterr().out
    texts = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("run", "disk")]
    losses = [re.findall(r'"loss": ([\d.e-]+)', text) for text in texts]
    assert len(losses[0]) == 2 and losses[0] == losses[1]


def test_a_run_goes_on_when_its_folder_is_moved_or_spelled_otherwise(
    folder, tmp_path, capsys
):
    short = ("--config.training.num_steps=1", "--config.training.warmup_steps=0")
    line = arguments(folder, tmp_path, *short)
    assert main(line) == 0
    moved = folder.rename(tmp_path / "moved")
    capsys.readouterr()
    for spelled in (f"{moved}", f"{moved}/", f"{tmp_path}/./moved"):
        assert main([*line, f"--config.data.source=folder:{spelled}"]) == 0
        assert "is finished: 1 steps" in capsys.readouterr().out
        made = trained_recipe(tmp_path / "run")
        spec = changed(made, f"data.source=folder:{spelled}").task
        check_same_model(spec, tmp_path / "run")
    (moved / "cat" / "0.png").unlink()
    assert main([*line, f"--config.data.source=folder:{moved}"]) == 2
    assert "holds a run of another config (data.source: " in capsys.readouterr().err
    with pytest.raises(UserError, match="trained with other options"):
        check_same_model(spec, tmp_path / "run")


def test_a_small_network_knows_its_data_by_their_fingerprint_too(tmp_path):
    before = classifier("data.source=folder:photos", "data.image_size=8")
    now = classifier("data.source=folder:moved/photos/", "data.image_size=8,8")
    known = {"config": to_json(before), "data_fingerprint": "same"}
    auxiliary.write(tmp_path, KIND, {"bias": np.zeros(3)}, known, {})
    (tmp_path / "result.json").unlink()  # it is not finished
    files.write_json(tmp_path / "config.json", to_json(before))
    assert already_finished(now, tmp_path, KIND, "same") is None
    with pytest.raises(UserError, match=r"another config .*data\.source: "):
        already_finished(now, tmp_path, KIND, "other")
    now = changed(now, "data.flip=False")
    with pytest.raises(UserError, match=r"another config \(data.flip: True -> False\)"):
        already_finished(now, tmp_path, KIND, "same")


def test_a_model_of_images_that_are_not_square_is_trained_drawn_from_and_edited(
    folder, tmp_path, capsys
):
    line = arguments(folder, tmp_path, "--config.data.image_size=8,12")
    assert main(line) == 0
    assert "12 images of 8x12x3" in capsys.readouterr().out
    (drawn,) = (tmp_path / "run" / "samples").glob("*/grid.png")
    with Image.open(drawn) as sheet:  # images of 8x12 times 8, and margins
        width, height = sheet.size
        assert (width - 2) % 98 == (height - 2) % 66 == 0
    # A telephone's picture of 4x6: on its side in the file, upright to be upscaled.
    exif = Image.Exif()
    exif[0x0112] = 6
    small = np.random.default_rng(1).integers(96, 160, (4, 6, 3), np.uint8)
    Image.fromarray(np.rot90(small)).save(tmp_path / "phone.png", exif=exif)
    edit = [
        *("edit", "upscale", f"{tmp_path}/run", "--factor=2"),
        *(f"--image={tmp_path}/phone.png", "--num-images=1"),
        "--num-steps=4",
    ]
    assert main(edit) == 0, capsys.readouterr().err
    (stored,) = (tmp_path / "run").glob("edits/*/images.npz")
    with np.load(stored) as found:
        blocks = found["arr_0"].reshape(4, 2, 6, 2, 3)
    # Blocks keep the pixels of the small picture as their means, but where black or
    # white cut something off.
    inside = (blocks.min((1, 3)) > 0) & (blocks.max((1, 3)) < 255)
    assert inside.mean() > 0.25
    assert np.abs(blocks.mean((1, 3)) - small)[inside].max() <= 0.5


def test_a_plan_prints_its_numbers(tmp_path, capsys):
    assert main(["plan", f"--config={TINY_UNET}", f"{tmp_path}/run"]) == 0
    said = capsys.readouterr().out
    for word in ("parameters", "GFLOP an image", "exactly", "would fit", "measured"):
        assert word in said
    assert not (tmp_path / "run").exists()


def cost(*changes):
    from ddpm_jax.cli import load_recipe, override

    made, _ = load_recipe(TINY_UNET)
    made = override(made, [f"--config.{change}" for change in changes])
    info = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
    return plans.cost_of(made.task, made.training, info)


def test_the_cost_of_a_tiny_network_by_hand():
    # One level of 8 channels at 8x8: conv_in, a block down, two blocks and attention in
    # the middle, two blocks up (of 16 channels each, with a shortcut), conv_out.
    time = 8 * 32 + 32 * 32
    block, wide = 2 * 9 * 8 * 8, 9 * 16 * 8 + 9 * 8 * 8 + 16 * 8
    attention = 4 * 8 * 8 + 2 * 64 * 8  # projections, and 64 positions by 64
    dense = 5 * 32 * 8  # the time in each block
    maps = 64 * (9 * 8 + 3 * block + 2 * wide + attention + 9 * 8)
    got = cost()
    assert got.forward_flops == 2 * (time + maps + dense)
    assert got.train_flops == 3 * got.forward_flops
    assert cost("network.remat=True").train_flops == 4 * got.forward_flops

    biases = 8 + 3 * 2 * 8 + 2 * 2 * 8 + 2 * 8 + 4 * 8 + 1 + 2 * 32 + 5 * 8
    norms = 3 * 2 * 16 + 2 * (2 * 16 + 2 * 8) + 16 + 16
    kernels = 9 * 8 + 3 * block + 2 * wide + 4 * 8 * 8 + 9 * 8 + dense
    assert got.num_params == time + kernels + biases + norms + 11 * 32
    assert got.param_bytes == got.ema_bytes == 4 * got.num_params
    # Adam keeps two moments and counts its steps; the learning rate counts them too.
    assert got.optimizer_bytes == 8 * got.num_params + 2 * 4
    assert cost("training.ema_stds=(0.05,0.1)").ema_bytes == 3 * got.param_bytes


def test_remat_keeps_less_and_maps_grow_with_the_width():
    one, two, three = (cost(f"network.channels={n}").image_bytes for n in (8, 16, 24))
    assert cost("network.remat=True").image_bytes < one / 2
    assert three - two == two - one > 0.6 * one  # attention's 64 by 64 do not grow


def test_a_batch_that_fits_fills_the_memory():
    some = plans.Cost(0, 0, 0, 100, 100, 200, 7)
    assert some.fixed_bytes == 500
    assert plans.batch_that_fits(some, 1000, 2) == 2 * ((900 - 500) // 7)
    assert plans.batch_that_fits(some, 500, 1) == 0


def test_the_rate_is_that_of_the_product_it_times(monkeypatch):
    side = 8
    monkeypatch.setattr(plans, "_MATMUL_SIDE", side)
    clock = iter(np.arange(0, 1000, 0.25))
    monkeypatch.setattr(plans.time, "perf_counter", lambda: next(clock))
    one = count_flops(jnp.dot, jnp.ones((side, side)), jnp.ones((side, side)))
    assert plans.matmul_rate(jnp.float32) == one / 0.25
