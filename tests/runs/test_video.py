"""Clips as a user meets them: frames first, then clips, then longer clips."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from program import ROOT

import ddpm_jax
from ddpm_jax import assembly
from ddpm_jax.cli import main
from ddpm_jax.commands import about, begin
from ddpm_jax.data.motion import source
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import to_float, to_uint8
from ddpm_jax.training import checkpoints as store

TINY = {
    "network.channels": "4",
    "network.channel_multipliers": "(1,2)",
    "network.num_groups": "2",
    "conditioners.text.width": "8",
    "conditioners.text.depth": "1",
    "schedule.num_levels": "20",
    "training.num_steps": "3",
    "training.batch_size": "4",
    "training.warmup_steps": "1",
    "training.checkpoint_every": "3",
    "training.preview_every": "0",
    "sample.num_images": "2",
    "sample.num_steps": "2",
    "sample.film_frames": "2",
    "preview_steps": "2",
}


TEXT = "conditioners.text."


def train(stage, folder, **options):
    asked = {**TINY, **options}
    if "conditioners.text" in options:  # which is then left out
        asked = {n: v for n, v in asked.items() if not n.startswith(TEXT)}
    lines = [f"--config.{name}={value}" for name, value in asked.items()]
    recipe = f"--config={ROOT}/configs/motion.py:{stage}"
    return main([recipe, f"--workdir={folder}", *lines])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module", autouse=True)
def few_clips():
    with pytest.MonkeyPatch.context() as patch:
        for split, count in {"train": 40, "test": 10}.items():
            patch.setitem(source.COUNTS, split, count)
        yield


@pytest.fixture(scope="module")
def frames(folder):
    run = folder / "frames"
    assert train("frames", run) == 0
    return run


@pytest.fixture(scope="module")
def clips(folder, frames):
    run = folder / "clips"
    assert train("clips", run, init_from=frames) == 0
    return run


def test_clips_begin_with_the_parameters_of_frames(frames, clips):
    """What frames have not learned is as it was drawn: attention in time, silent."""
    spec = about.trained_recipe(clips).task
    info = about.info_of(store.read_metadata(clips, 3))
    begun = begin.start_params(spec, info)
    learned = store.restore_params(frames)
    assert set(begun) == set(learned)
    jax.tree.map(np.testing.assert_array_equal, begun, learned)
    # A frame alone sees nothing: attention in time has not moved from its start.
    drawn = assembly.init_params(spec, assembly.model(spec, info), info)
    for name in learned:
        if name.endswith("_time"):
            assert not np.any(learned[name]["out"]["kernel"])
            np.testing.assert_allclose(
                learned[name]["query"]["kernel"], drawn[name]["query"]["kernel"]
            )
    after = store.restore_params(clips)
    assert np.any(after["mid_attention_time"]["out"]["kernel"])


def test_an_image_model_begins_clips_too(folder, frames, capsys):
    """A U-Net of images, which has no parameter of attention in time."""
    run = folder / "images"
    stills = folder / "stills.npy"
    np.save(stills, np.zeros((20, 16, 16, 1), np.uint8))
    options = {
        "network.kind": "unet",
        "network.num_res_blocks": "1",
        "network.attention_resolutions": "(8,)",
        "network.num_heads": "2",
        "data.source": f"npy:{stills}",
        "conditioners.text": "None",
    }
    assert train("frames", run, **options) == 0
    plain = {"init_from": run, "conditioners.text": "None"}
    assert train("clips", folder / "of-images", **plain) == 0
    other = {**plain, "network.channels": "8"}
    capsys.readouterr()
    assert train("clips", folder / "of-others", **other) == 2
    line = capsys.readouterr().err
    assert "has other parameters than this network" in line
    assert "_time" not in line


def test_samples_are_animations(clips, capsys):
    run = clips / "samples" / "0001"
    for suffix in ("gif", "webp"):
        (path, _) = sorted((run / "images").glob(f"*.{suffix}"))
        with Image.open(path) as image:
            assert image.n_frames == 8
    items = np.load(run / "samples.npz")["arr_0"]
    assert items.shape == (2, 8, 16, 16, 1)
    np.testing.assert_array_equal(
        read(sorted((run / "images").glob("*.webp"))[0]), items[0]
    )


def read(path):
    """An animation as it was before it was enlarged."""
    with Image.open(path) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("L")))
    step = frames[0].shape[0] // 16
    return np.stack(frames)[:, ::step, ::step, None]


def extended(run, *words):
    assert main(["extend", str(run), *words, "--num-steps=2"]) == 0
    return sorted((run / "edits").iterdir())[-1]


def test_a_clip_is_made_longer_and_begins_as_it_did(clips, capsys):
    shown = sorted((clips / "samples" / "0001" / "images").glob("*.webp"))[0]
    out = extended(clips, str(shown), "--frames=19", "--num-images=2")
    made = np.load(out / "images.npz")["arr_0"]
    assert made.shape == (2, 19, 16, 16, 1)
    np.testing.assert_array_equal(made[:, :8], np.stack([read(shown)] * 2))
    assert np.any(made[0] != made[1])
    record = json.loads((out / "edit.json").read_text())
    assert record["extend"]["frames"] == 19
    with Image.open(out / "images" / "000000.webp") as image:
        assert image.n_frames == 19
    # Asked for again it is found.
    assert extended(clips, str(shown), "--frames=19", "--num-images=2") == out
    # Row by row and block by block it is a function of the seed.
    again = extended(
        clips, str(shown), "--frames=19", "--num-images=2", "--batch-size=1"
    )
    assert again == out
    shorter = extended(clips, str(shown), "--frames=15", "--num-images=2")
    np.testing.assert_array_equal(
        np.load(shorter / "images.npz")["arr_0"][:, :12], made[:, :12]
    )


def test_one_block_more_unless_told(clips):
    made = np.load(extended(clips, "data:3", "--num-images=1") / "images.npz")["arr_0"]
    assert made.shape == (1, 12, 16, 16, 1)
    few = extended(clips, "data:3", "--num-images=1", "--known=2", "--method=replace")
    assert np.load(few / "images.npz")["arr_0"].shape[1] == 14


def test_what_cannot_be_is_one_line(clips, folder, capsys):
    short = folder / "short.npy"
    np.save(short, np.zeros((3, 16, 16), np.uint8))
    broken = folder / "broken.gif"
    broken.write_bytes(b"GIF89a")
    capsys.readouterr()
    for words, said in {
        ("extend", clips, "data:3", "--frames=8"): "--frames=8 is no more than the 8",
        ("extend", clips, "data:3", "--known=8"): "--known=8 does not fit blocks of 8",
        ("extend", clips, broken): "cannot read frame 0 of",
        ("extend", clips): "extend needs IMAGE",
        ("extend", clips, "data:3", "--frames=1000000000"): "of memory",
        ("edit", "interpolate", clips, f"--image={short},data:1"): "has 3 frames, and",
        ("extend", clips, "data:3", "--eta=0.5"): "--eta=0.5 does nothing",
        ("extend", clips, "data:3", "--jump-length=2"): "--jump-length=2 does nothing",
    }.items():
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
    unfit = {"network.kind": "unet", "init_from": ""}
    assert train("clips", folder / "unfit", **unfit) == 2
    assert "takes items of height x width x channels" in capsys.readouterr().err


def test_the_library_samples_clips(clips):
    model = ddpm_jax.load(clips)
    drawn = model.sample(2, prompt="a 7 moving fast up", num_steps=2)
    assert np.shape(drawn) == (2, 8, 16, 16, 1)


def test_the_library_makes_clips_longer_as_the_command_does(clips, capsys):
    out = extended(clips, "data:3-4", "--frames=12", "--num-images=2")
    by_command = np.load(out / "images.npz")["arr_0"]
    model = ddpm_jax.load(clips)
    given = model.spec.data.open().source.items[3:5]
    made = model.extend(given, 12, num_images=2, num_steps=2)
    assert made.shape == (2, 2, 12, 16, 16, 1)
    assert made.dtype == np.float32
    in_bytes = np.asarray(to_uint8(made)).reshape(by_command.shape)
    np.testing.assert_array_equal(in_bytes, by_command)
    as_floats = model.extend(to_float(given), 12, num_images=2, num_steps=2)
    np.testing.assert_allclose(as_floats, made, atol=1e-4)  # other last bits
    with pytest.raises(UserError, match=r"clips of shape \[1, 8, 15, 16, 1\]; want"):
        model.extend(given[:1, :, 1:])
    with pytest.raises(UserError, match="known=8 does not fit blocks of 8 frames"):
        model.extend(given, known=8)
    with pytest.raises(UserError, match="mask"):
        model.extend(given, mask="1-6")


def test_a_model_of_known_frames_goes_on_and_fills_in(folder, frames, capsys):
    run = folder / "known"
    known = {"conditioners.frames.kind": "known_frames", "init_from": ""}
    assert train("clips", run, **known) == 0
    out = extended(run, "data:3", "--num-images=1")
    made = np.load(out / "images.npz")["arr_0"]
    assert made.shape == (1, 12, 16, 16, 1)
    assert json.loads((out / "request.json").read_text())["edit"]["method"] is None
    words = ["edit", "inpaint", str(run), "--image=data:3", "--num-images=2"]
    assert main([*words, "--mask=1-6", "--num-steps=2"]) == 0
    out = sorted((run / "edits").iterdir())[-1]
    filled = np.load(out / "images.npz")["arr_0"]
    np.testing.assert_array_equal(filled[:, [0, 7]], made[[0, 0]][:, [0, 7]])
    assert np.any(filled[0, 1:7] != filled[1, 1:7])
    for mask in ("0-7", "8", "x", "6-1"):
        capsys.readouterr()
        assert main([*words, f"--mask={mask}"]) == 2
        assert "names no frames to fill of 0 to 7" in capsys.readouterr().err
