"""Arrays of a file as a data set: what is read, and what is refused in one line."""

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.data.dataset import NoSplitError
from ddpm_jax.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 4, 6, 5), np.uint8)
CLIPS = RNG.standard_normal((10, 3, 4, 2, 1)).astype(np.float32)
LABELS = np.arange(10) % 3


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize("items", [IMAGES, CLIPS, CLIPS[:, 0, :2, 0, 0]])
def test_batches_hold_the_items_of_an_npy_of_any_shape(tmp_path, items):
    np.save(tmp_path / "a.npy", items)
    source = data.load(f"npy:{tmp_path}/a.npy")
    assert (source.shape, source.dtype) == (items.shape[1:], items.dtype)
    assert (source.label_names, source.num_bytes) == (None, items.nbytes)
    batch = data.batches(source, 7, seed=0, shuffle=False)[1]  # goes on at the start
    assert list(batch) == ["image"]
    np.testing.assert_array_equal(
        batch["image"], items[[7, 8, 9, 0, 1, 2, 3]], strict=True
    )


def test_bytes_without_a_channel_are_grey_images(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES[..., 0])
    source = data.load(f"npy:{tmp_path}/a.npy")
    assert source.image_shape == (4, 6, 1)
    np.testing.assert_array_equal(data.in_memory(source)[0], IMAGES[..., :1])


@pytest.mark.parametrize("names", [("x", "label"), ("arr_0", "arr_1")])
def test_an_npz_has_classes_beside_its_items(tmp_path, names):
    spec = save(tmp_path / "a.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
    source = data.load(spec)
    assert source.label_names == ("0", "1", "2")
    example = source.source[4]
    assert example["label"] == 1
    np.testing.assert_array_equal(example["image"], IMAGES[4])


def test_items_that_are_held_out_are_no_part_of_the_rest(tmp_path):
    spec = save(tmp_path / "a.npz", x=IMAGES, label=LABELS)
    parts = {s: data.load(spec, split=s, hold_out=4) for s in ("train", "test", "all")}
    held = np.array([3, 7])
    np.testing.assert_array_equal(data.in_memory(parts["test"])[0], IMAGES[held])
    np.testing.assert_array_equal(data.in_memory(parts["test"])[1], LABELS[held])
    kept = np.setdiff1d(np.arange(10), held)
    np.testing.assert_array_equal(data.in_memory(parts["train"])[0], IMAGES[kept])
    np.testing.assert_array_equal(data.in_memory(parts["all"])[0], IMAGES)
    assert len({part.fingerprint for part in parts.values()}) == 3
    with pytest.raises(NoSplitError, match="hold_out=10"):
        data.load(spec, split="test")


def test_the_fingerprint_is_of_values_and_not_of_the_place(tmp_path):
    def fingerprint(name, **arrays):
        return data.load(save(tmp_path / name, **arrays)).fingerprint

    first = fingerprint("a.npz", x=IMAGES, label=LABELS)
    assert fingerprint("b.npz", x=IMAGES, label=LABELS) == first
    changed = IMAGES.copy()
    changed[9, 3, 5, 4] ^= 1
    assert fingerprint("c.npz", x=changed, label=LABELS) != first
    assert fingerprint("d.npz", x=IMAGES, label=LABELS[::-1]) != first
    assert fingerprint("e.npz", x=IMAGES.reshape(10, 6, 4, 5), label=LABELS) != first


NOT_FINITE = CLIPS.copy()
NOT_FINITE[6, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": CLIPS.astype(np.float64)}, "float64; convert it to uint8"),
        ({"x": NOT_FINITE}, "not finite, the first in item 6"),
        ({"x": np.array([{}], object)}, "cannot read .*plain numbers"),
        ({"x": IMAGES, "y": IMAGES}, "holds x, y; it must hold one"),
        ({"label": LABELS}, "holds label; it must hold one"),
        ({"x": np.float32([1, 2])}, r"shape 2; .*\[N, ...\]"),
        ({"x": IMAGES[:0]}, "shape 0x4x6x5"),
        ({"x": IMAGES, "label": LABELS[:9]}, r"integer for each item, \[10\]"),
        ({"x": IMAGES, "label": LABELS / 2}, "labels of .* float64"),
        ({"x": IMAGES, "label": LABELS - 1}, "go from -1 to 1"),
        ({"x": IMAGES, "label": LABELS * 9}, "go from 0 to 18"),
    ],
)
def test_what_is_no_set_of_items_is_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load(save(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(caught.value)


HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % 10**17


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not there"),
        (b"", "cannot read"),
        (b"x" * 99, "cannot read"),
        (b"PK\x03\x04" + b"x" * 99, "cannot read"),
        (b"\x93NUMPY\x01\x00" + len(HUGE).to_bytes(2, "little") + HUGE, "cannot read"),
    ],
    ids=["missing", "empty", "text", "zip", "huge"],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_file_that_is_missing_or_damaged_is_refused(tmp_path, kind, content, message):
    path = tmp_path / f"a.{kind}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        data.load(f"{kind}:{path}")
    with pytest.raises(UserError, match="cannot read"):
        data.load(f"{kind}:{tmp_path}")


def test_which_items_are_held_out_is_part_of_the_fingerprint(tmp_path):
    """100 items of which each 34th or each 50th is for testing: 98 are left of both."""
    spec = save(tmp_path / "a.npz", x=np.arange(200, dtype=np.float32).reshape(100, 2))
    kept = [data.load(spec, hold_out=every) for every in (34, 50)]
    assert [len(one) for one in kept] == [98, 98]
    assert kept[0].fingerprint != kept[1].fingerprint


@pytest.mark.parametrize(
    "option", [{"image_size": 8}, {"channels": 3}, {"pad_to": 9}, {"skip_broken": True}]
)
def test_options_of_pictures_are_refused(tmp_path, option):
    with pytest.raises(UserError, match=f"{next(iter(option))}=.*leave it out"):
        data.load(save(tmp_path / "a.npz", x=IMAGES), **option)


def test_what_needs_images_refuses_other_items_in_one_line(tmp_path):
    np.save(tmp_path / "a.npy", CLIPS)
    source = data.load(f"npy:{tmp_path}/a.npy")
    with pytest.raises(UserError, match="items of float32 3x4x2x1, and this needs"):
        _ = source.image_shape
