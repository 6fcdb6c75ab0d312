"""Arrays of a file, train to sample: RGBA, five channels, floating point."""

import json

import numpy as np
from PIL import Image
from program import TINY, TINY_UNET

from ddpm_jax.cli import main
from ddpm_jax.training import checkpoints as store

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (40, 8, 8, 4), np.uint8)
FIVE = RNG.integers(0, 256, (40, 8, 8, 5), np.uint8)
FLOAT = RNG.standard_normal((40, 8, 8, 2)).astype(np.float32)


def run(workdir, items, *options, command="", labels=None, recipe=TINY):
    path = workdir.parent / "data.npz"
    np.savez(path, x=items, **({} if labels is None else {"label": labels}))
    flags = [f"--config.{option}" for option in options]
    if labels is None:
        flags.append("--config.conditioners.label=None")
    if items.dtype == np.float32:
        flags.append("--config.sample.clip=False")
    return main(
        [
            *command.split(),
            f"--config={recipe}",
            f"--workdir={workdir}",
            f"--config.data.source=npz:{path}",
            "--config.training.num_steps=6",
            *flags,
        ]
    )


def drawn(workdir):
    (folder,) = (workdir / "samples").iterdir()
    with np.load(folder / "samples.npz") as stored:
        return folder, stored["arr_0"]


def pixels(path):
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def test_rgba_trains_resumes_and_is_drawn_transparent(tmp_path, capsys):
    labels = np.arange(40) % 2
    whole = tmp_path / "whole" / "run"
    whole.parent.mkdir()
    assert run(whole, RGBA, labels=labels) == 0
    assert "40 images of 8x8x4" in capsys.readouterr().out
    folder, images = drawn(whole)
    assert (images.shape, images.dtype) == ((6, 8, 8, 4), np.uint8)
    mode, sheet = pixels(folder / "grid.png")
    assert mode == "RGBA"
    # Eight times enlarged, with two pixels around: the first is of class 0.
    np.testing.assert_array_equal(sheet[2:66:8, 2:66:8], images[0])
    assert sheet[0, 0, 3] == 0
    mode, first = pixels(folder / "images" / "000000-0.png")
    assert mode == "RGBA"
    np.testing.assert_array_equal(first, images[0])
    for name in ("film.png", "forward.png"):
        assert pixels(folder / name)[0] == "RGBA"
    # The start of forward.png is the data: the first real image.
    np.testing.assert_array_equal(
        pixels(folder / "forward.png")[1][2:66:8, 2:66:8], RGBA[0]
    )
    assert pixels(whole / "progress" / "step-0000006.png")[0] == "RGBA"


def test_five_channels_are_drawn_channel_by_channel(tmp_path):
    workdir = tmp_path / "run"
    assert run(workdir, FIVE) == 0
    folder, images = drawn(workdir)
    assert images.shape == (6, 8, 8, 5)
    _, stored = pixels(folder / "images" / "000002.png")
    np.testing.assert_array_equal(
        stored, np.concatenate(list(images[2].transpose(2, 0, 1)), 1)
    )
    mode, sheet = pixels(folder / "grid.png")
    assert mode == "L"
    np.testing.assert_array_equal(
        sheet[2:66:8, 2 + 64 * 4 : 66 + 64 * 4 : 8], images[0, ..., 4]
    )


def test_floating_point_trains_as_it_is_and_is_drawn_so(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert run(workdir, FLOAT, "data.hold_out=4") == 0
    assert "30 float32 arrays of 8x8x2" in capsys.readouterr().out
    folder, items = drawn(workdir)
    assert (items.shape, items.dtype) == ((6, 8, 8, 2), np.float32)
    assert np.abs(items).max() > 1, "nothing was clamped"
    assert (folder / "grid.png").exists()
    about = json.dumps(store.read_metadata(workdir)["data"])
    assert '"item_shape": [8, 8, 2]' in about and '"dtype": "float32"' in about
    for command, said in [
        ("evaluate", "this needs images, uint8"),
        ("likelihood", "use method ode, whose bits are those of a density"),
        ("edit inpaint --image=data:0 --mask=any.png", "this needs images, uint8"),
    ]:
        assert main([*command.split(), f"{workdir}"]) == 2
        assert said in capsys.readouterr().err
    edit = ["edit", "image-to-image", f"{workdir}", "--image=data:0", "--num-images=2"]
    assert main(edit) == 0
    with np.load(workdir / "edits" / "0001" / "images.npz") as stored:
        made = stored["arr_0"]
    assert (made.shape, made.dtype) == ((2, 8, 8, 2), np.float32)
    # The picture, what was given of it, and both that were made of it, on one sheet.
    _, sheet = pixels(workdir / "edits" / "0001" / "grid.png")
    assert sheet.shape[1] > 4 * 2 * 8
    assert main(["sample", f"{workdir}", "--clip"]) == 2
    assert "--clip clamps" in capsys.readouterr().err


def test_the_unet_refuses_items_that_are_no_images(tmp_path, capsys):
    assert run(tmp_path / "run", FLOAT[:, 0, 0], recipe=TINY_UNET) == 2
    error = capsys.readouterr().err
    assert "the U-Net takes" in error and "are 2;" in error


def test_look_shows_arrays_of_any_shape(tmp_path):
    for number, items in enumerate((RGBA, FIVE, FLOAT[:, 0, 0], FLOAT[:, None])):
        workdir = tmp_path / str(number)
        assert run(workdir, items, command="look") == 0
        mode, _ = pixels(workdir / "look.png")
        assert mode == ("RGBA", "L", "RGB", "L")[number]
        shape = "x".join(map(str, items.shape[1:]))
        assert f"of {shape}" in (workdir / "look.txt").read_text()
