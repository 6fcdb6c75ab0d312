"""Folders of images written here, one per rule."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import batches, decoded, in_memory, load, survey, write_broken
from ddpm_jax.errors import UserError


def write(path, value=0, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,)}[mode]
    Image.fromarray(np.full((*size, *channels), value, np.uint8)).save(path)


def refused(spec, **options):
    with pytest.raises(UserError) as raised:
        decoded(load(spec, **options))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_class_folders_give_labels_in_sorted_order(tmp_path):
    write(tmp_path / "cat" / "1.png", 10)
    write(tmp_path / "cat" / "deep" / "er" / "0.PNG", 20)
    write(tmp_path / "ant" / "9.webp", 30)
    write(tmp_path / "ant" / "._9.png", 99)  # as left behind by another system
    write(tmp_path / ".thumbnails" / "9.png", 99)
    (tmp_path / "empty").mkdir()
    (tmp_path / "ant" / "readme.txt").write_text("not an image")
    dataset = load(f"folder:{tmp_path}")
    images, labels = in_memory(dataset)
    assert dataset.label_names == ("ant", "cat") and dataset.num_classes == 2
    assert dataset.image_shape == (4, 4, 3) and dataset.note == ""
    np.testing.assert_array_equal(labels, [0, 1, 1])
    assert abs(images[0].astype(int) - 30).max() <= 2  # WebP is lossy
    np.testing.assert_array_equal(images[1:, 0, 0, 0], [10, 20])


def test_loose_images_have_no_labels(tmp_path):
    write(tmp_path / "b.png", 2)
    write(tmp_path / "a.png", 1)
    dataset = load(f"folder:{tmp_path}")
    images, labels = in_memory(dataset)
    assert labels is None and dataset.num_classes is None
    np.testing.assert_array_equal(images[:, 0, 0, 0], [1, 2])
    assert set(dataset.source[0]) == {"image"}


def test_mixed_and_single_folders_have_no_labels_and_say_so(tmp_path):
    write(tmp_path / "one" / "a.png")
    dataset = load(f"folder:{tmp_path}")
    assert dataset.label_names is None and "one folder 'one'" in dataset.note
    write(tmp_path / "two" / "a.png")
    assert load(f"folder:{tmp_path}").label_names == ("one", "two")
    write(tmp_path / "loose.png")
    dataset = load(f"folder:{tmp_path}")
    assert dataset.label_names is None and "1 of 3 images" in dataset.note


def test_grey_and_color_may_be_mixed(tmp_path):
    write(tmp_path / "a.png", 7, mode="L")
    assert load(f"folder:{tmp_path}").image_shape == (4, 4, 1)
    write(tmp_path / "b.png", 8, mode="RGB")
    images, _ = in_memory(load(f"folder:{tmp_path}"))
    np.testing.assert_array_equal(images[:, 0, 0], [[7, 7, 7], [8, 8, 8]])
    images, _ = in_memory(load(f"folder:{tmp_path}", channels=1))
    np.testing.assert_array_equal(images[:, 0, 0], [[7], [8]])


def test_transparency_is_kept_where_four_channels_are_asked_for(tmp_path):
    clear = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    Image.fromarray(clear).save(tmp_path / "a.png")
    write(tmp_path / "b.png", 8, mode="L")
    images, _ = in_memory(load(f"folder:{tmp_path}", channels=4))
    np.testing.assert_array_equal(images[0], clear)
    np.testing.assert_array_equal(images[1, 0, 0], [8, 8, 8, 255])
    assert load(f"folder:{tmp_path}").image_shape == (4, 4, 3)  # over white


def test_sizes_must_agree_or_be_given(tmp_path):
    write(tmp_path / "a.png", 1, size=(4, 6))
    write(tmp_path / "b.png", 2, size=(8, 5))
    message = refused(f"folder:{tmp_path}")
    assert "a.png is 4x6, b.png is 8x5" in message and "image_size" in message
    images, _ = in_memory(load(f"folder:{tmp_path}", image_size=4, pad_to=6))
    assert images.shape == (2, 6, 6, 3)
    np.testing.assert_array_equal(images.sum((1, 2, 3)), [4 * 4 * 3, 4 * 4 * 3 * 2])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
def test_a_turned_photograph_is_read_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side; a quarter turn clockwise makes it upright
    upright = np.repeat(np.arange(6, dtype=np.uint8), 4).reshape(6, 4) * 40
    lossless = {"lossless": True} if suffix == ".webp" else {}
    sideways = Image.fromarray(np.rot90(upright)).convert("RGB")
    sideways.save(tmp_path / f"a{suffix}", exif=exif, quality=100, **lossless)
    images, _ = in_memory(load(f"folder:{tmp_path}"))
    assert images.shape == (1, 6, 4, 3)
    off = np.abs(images[0].astype(int) - upright[..., None]).max()
    assert off <= (3 if suffix == ".jpg" else 0)


def test_a_class_that_is_a_link_is_a_class(tmp_path):
    write(tmp_path / "root" / "ant" / "1.png", 10)
    write(tmp_path / "elsewhere" / "2.bmp", 20)
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    dataset = load(f"folder:{tmp_path}/root")
    images, labels = in_memory(dataset)
    assert dataset.label_names == ("ant", "cat")
    np.testing.assert_array_equal(labels, [0, 1])
    np.testing.assert_array_equal(images[:, 0, 0, 0], [10, 20])


def test_names_that_are_not_utf8_and_of_two_lines_are_spelled_out(tmp_path):
    for name in (b"caf\xe9", b"two\nlines"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        with open(folder + b"/\xe9.png", "wb") as file:
            Image.new("L", (4, 4)).save(file, "PNG")
    dataset = load(f"folder:{tmp_path}")
    assert in_memory(dataset)[0].shape == (2, 4, 4, 1)
    assert dataset.label_names == ("caf\\xe9", "two\\nlines")
    with open(os.fsencode(tmp_path) + b"/caf\xe9/\xe9.png", "wb") as file:
        file.write(b"no picture")
    assert "caf\\xe9/\\xe9.png (it is not a PNG" in refused(f"folder:{tmp_path}")
    found = survey(load(f"folder:{tmp_path}", skip_broken=True).listing)
    write_broken(tmp_path / "broken.txt", found)
    listed = (tmp_path / "broken.txt").read_text()
    assert listed.startswith("caf\\xe9/\\xe9.png\t") and listed.count("\n") == 1
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    assert "caf\\xe9" in refused(f"folder:{name}")


def test_captions_that_are_no_file_are_refused(tmp_path):
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "metadata.jsonl")  # reading it would wait for a writer
    assert "metadata.jsonl is not a file" in refused(f"folder:{tmp_path}")


def test_samples_of_twelve_bits_are_scaled_on_request(tmp_path):
    narrow = np.array([[0, 1024, 4095]], np.uint16)
    Image.fromarray(narrow).save(tmp_path / "a.png")
    spec = f"folder:{tmp_path}"
    dark, bright = load(spec), load(spec, sample_bits=12)
    np.testing.assert_array_equal(in_memory(dark)[0].ravel(), [0, 4, 16])
    # 1024 * 255 / 4095 = 63.77
    np.testing.assert_array_equal(in_memory(bright)[0].ravel(), [0, 64, 255])
    assert dark.fingerprint != bright.fingerprint
    assert "samples up to 4095, and sample_bits=11" in refused(spec, sample_bits=11)
    assert "use 9 to 16" in refused(spec, sample_bits=8)
    assert "sample_bits=12 is for folders" in refused("digits", sample_bits=12)


def test_a_broken_file_is_named(tmp_path):
    write(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert "broken.png" in refused(f"folder:{tmp_path}")
    dataset = load(f"folder:{tmp_path}", image_size=4, channels=3)  # opens no file
    stream = batches(dataset, 2, seed=0, max_bytes=0)
    with pytest.raises(UserError, match=r"broken\.png"):
        stream[0]


def test_a_truncated_file_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "cut.png" in refused(f"folder:{tmp_path}", image_size=8, channels=3)


def test_missing_empty_and_wrong_folders(tmp_path):
    assert "is not a folder" in refused(f"folder:{tmp_path}/nowhere")
    assert "is not a folder" in refused("folder:" + "n" * 300)  # too long a name
    assert "is not a folder" in refused("folder:~nobody-of-this-name/a")
    assert "holds no PNG, JPEG, WebP" in refused(f"folder:{tmp_path}")
    (tmp_path / "a.heic").write_bytes(b"")
    assert "(of other kinds 1 (a.heic))" in refused(f"folder:{tmp_path}")
    write(tmp_path / "train" / "a.png")
    write(tmp_path / "test" / "a.png")
    assert f"for example folder:{tmp_path}/test" in refused(f"folder:{tmp_path}")
    message = refused(f"folder:{tmp_path}/train", split="test")
    assert "no split 'test'" in message


def test_fingerprint_follows_files_and_preparation(tmp_path):
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", 2)
    spec = f"folder:{tmp_path}"
    before = load(spec).fingerprint
    assert load(spec).fingerprint == before
    assert load(spec, pad_to=8).fingerprint != before
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert load(spec).fingerprint != before


def test_a_fingerprint_is_that_of_the_data_wherever_they_lie(tmp_path):
    write(tmp_path / "a" / "1.png", 1)
    before = load(f"folder:{tmp_path}/a")
    assert load(f"folder:{tmp_path}/./a/").name == before.name
    (tmp_path / "a").rename(tmp_path / "b")
    assert load(f"folder:{tmp_path}/b").fingerprint == before.fingerprint
    # An uncompressed image has the size of any other.
    for place, value in (("c", 1), ("d", 2)):
        write(tmp_path / place / "1.bmp", value)
    one, two = (load(f"folder:{tmp_path}/{place}") for place in "cd")
    assert one.listing.sizes == two.listing.sizes
    assert one.fingerprint != two.fingerprint


def test_every_so_many_pictures_are_held_out(tmp_path):
    """Order, captions and classes go with the pictures; nothing is in both splits."""
    lines = []
    for number in range(7):
        write(tmp_path / f"{number}.png", 10 * number)
        lines.append(
            {"file_name": f"{number}.png", "text": f"no. {number}", "label": number % 4}
        )
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "metadata.jsonl").write_text(text)
    spec = f"folder:{tmp_path}"
    found = {s: load(spec, split=s, hold_out=3) for s in ("train", "test", "all")}
    values = {s: in_memory(d)[0][:, 0, 0, 0].tolist() for s, d in found.items()}
    assert values == {
        "train": [0, 10, 30, 40, 60],
        "test": [20, 50],
        "all": [0, 10, 20, 30, 40, 50, 60],
    }
    assert found["test"].texts == ("no. 2", "no. 5")
    assert in_memory(found["test"])[1].tolist() == [2, 1]
    # Classes that a split lacks keep their names and numbers.
    assert {d.label_names for d in found.values()} == {("0", "1", "2", "3")}
    assert len({d.fingerprint for d in found.values()}) == 3
    assert found["all"].fingerprint == load(spec).fingerprint


def test_what_cannot_be_held_out_is_refused(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.png", number)
    spec = f"folder:{tmp_path}"
    assert "use 2 or more" in refused(spec, hold_out=1)
    assert "use hold_out=3 or less" in refused(spec, hold_out=4)
    assert "use train, test or all" in refused(spec, split="val", hold_out=2)
    assert "hold out some" in refused(spec, split="test")
    assert "hold_out=2 is for folders" in refused("digits", hold_out=2)
