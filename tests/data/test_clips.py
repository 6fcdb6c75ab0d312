"""Clips of a person's own: what is read, and what is refused in a line."""

import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.clips import read_clip
from ddpm_jax.data.layout import Layout
from ddpm_jax.data.sources import load
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import images

AS_IT_IS = Layout()


@pytest.fixture
def clip():
    """5 frames of 6x8, grey."""
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 1), np.uint8)


def write_frames(folder, clip, names=None):
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip):
        name = f"frame-{number}" if names is None else names[number]
        Image.fromarray(frame[..., 0]).save(folder / f"{name}.png")
    return folder


def test_all_ways_to_store_a_clip_are_read(tmp_path, clip):
    color = np.repeat(clip, 3, axis=-1)
    images.save_webp(tmp_path / "a.webp", color)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.webp", AS_IT_IS), color)
    images.save_gif(tmp_path / "a.gif", clip)
    grey = Layout(channels=1)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.gif", grey), clip)
    np.save(tmp_path / "a.npy", clip)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.npy", AS_IT_IS), clip)
    np.save(tmp_path / "b.npy", clip[..., 0])
    np.testing.assert_array_equal(read_clip(tmp_path / "b.npy", AS_IT_IS), clip)
    # Frame 10 comes after frame 9.
    long = np.concatenate([clip] * 3)
    folder = write_frames(tmp_path / "frames", long)
    np.testing.assert_array_equal(read_clip(folder, AS_IT_IS), long)


def test_what_is_shown_enlarged_is_read_as_it_was(tmp_path, clip):
    large = clip.repeat(9, axis=1).repeat(9, axis=2)
    images.save_webp(tmp_path / "a.webp", np.repeat(large, 3, axis=-1))
    frame = Layout((6, 8), 1, (6, 8))
    np.testing.assert_array_equal(read_clip(tmp_path / "a.webp", frame), clip)
    # Others are scaled.
    large[0, 0, 0] ^= 255
    images.save_webp(tmp_path / "b.webp", np.repeat(large, 3, axis=-1))
    found = read_clip(tmp_path / "b.webp", frame)
    assert found.shape == clip.shape
    np.testing.assert_array_equal(found[1:], clip[1:])
    assert np.any(found[0] != clip[0])


def test_a_video_is_read_or_what_reads_it_is_named(tmp_path, clip, monkeypatch):
    path = tmp_path / "a.mp4"
    try:
        import av
    except ImportError:
        pass
    else:
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for level in (20, 120, 220):
                frame = np.full((32, 32, 3), level, np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(frame)):
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
        found = read_clip(path, AS_IT_IS)
        assert found.shape == (3, 32, 32, 3)
        np.testing.assert_allclose(found.mean((1, 2, 3)), [20, 120, 220], atol=4)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        read_clip(path, AS_IT_IS)


def test_broken_frames_are_named(tmp_path, clip):
    folder = write_frames(tmp_path / "frames", clip)
    (folder / "frame-3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"frame 3 of .*frames .*it is not a"):
        read_clip(folder, AS_IT_IS)
    path = tmp_path / "a.webp"
    images.save_webp(path, np.repeat(clip, 3, axis=-1))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot read frame") as refusal:
        read_clip(path, AS_IT_IS)
    assert "\n" not in str(refusal.value)


def test_mixed_sizes_are_named(tmp_path, clip):
    folder = write_frames(tmp_path / "frames", clip)
    Image.fromarray(clip[0, :5, :, 0]).save(folder / "frame-2.png")
    with pytest.raises(
        UserError, match=r"frame 2 of .* is 5x8, and those before are 6"
    ):
        read_clip(folder, AS_IT_IS)


@pytest.mark.parametrize("name", ["a.txt", "nothing.gif", "empty"])
def test_what_is_no_clip(tmp_path, name):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as refusal:
        read_clip(tmp_path / name, AS_IT_IS)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


def test_arrays_that_are_no_clip(tmp_path, clip):
    for bad in (clip.astype(np.float32), clip[0, 0], clip.repeat(2, axis=-1)):
        np.save(tmp_path / "a.npy", bad)
        with pytest.raises(UserError, match="a clip is uint8"):
            read_clip(tmp_path / "a.npy", AS_IT_IS)


# --- A folder of clips ----------------------------------------------------------------


def test_a_folder_is_a_data_set(tmp_path, clip):
    write_frames(tmp_path / "data" / "b", clip)
    np.save(tmp_path / "data" / "a.npy", clip[:4, ..., 0])
    (tmp_path / "data" / "notes.txt").write_text("no clip")
    data = load(f"clips:{tmp_path}/data:2")
    assert data.shape == (2, 6, 8, 1) and data.label_names is None
    expected = np.stack([clip[:2], clip[2:4], clip[:2], clip[2:4]])
    np.testing.assert_array_equal(data.source.items, expected)
    test = load(f"clips:{tmp_path}/data:2", split="test", hold_out=2)
    np.testing.assert_array_equal(test.source.items, expected[1::2])
    assert test.fingerprint != data.fingerprint
    small = load(f"clips:{tmp_path}/data:4", image_size=4, channels=3)
    assert small.shape == (4, 4, 4, 3) and len(small) == 2


def test_a_folder_that_does_not_fit_is_one_line(tmp_path, clip):
    folder = tmp_path / "data"
    write_frames(folder / "b", clip)

    def refused(spec, said, **options):
        with pytest.raises(UserError, match=said) as refusal:
            load(spec, **options)
        assert "\n" not in str(refusal.value)

    refused(f"clips:{folder}", "b has 5 frames, fewer than 8; take it out, or write")
    refused(f"clips:{folder}:1", "use 2 to 1024")
    refused(f"clips:{tmp_path}/none", "is no folder")
    refused(f"clips:{folder}/b/frame-0.png", "is no folder")
    (tmp_path / "void").mkdir()
    refused(f"clips:{tmp_path}/void", "holds no clips")
    refused(f"clips:{folder}:2", "skip_broken", skip_broken=True)
    np.save(folder / "a.npy", clip[:, :5])
    refused(f"clips:{folder}:2", "frames of 6x8x1, and clips before it 5x8x1; give")
    assert load(f"clips:{folder}:2", image_size=4).shape == (2, 4, 4, 1)
