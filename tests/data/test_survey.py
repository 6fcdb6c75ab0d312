"""A first look: every kind of picture counted, every broken file found and named."""

import os

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import decoded, load, survey
from ddpm_jax.data.listing import list_pictures
from ddpm_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (6, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    noise.save(root / "a.jpg", exif=exif)
    noise.save(root / "b.png")
    noise.convert("L").save(root / "c.png")
    noise.convert("P").save(root / "d.png")
    glass = noise.copy()
    glass.putalpha(99)
    glass.save(root / "e.webp", lossless=True)
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(root / "f.png")
    return root


def damage(root):
    """Write five files, each broken in its own way; return their names."""
    big = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(big).save(root / "g.png")
    whole = (root / "g.png").read_bytes()
    (root / "g.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(big).save(root / "h.jpg")
    whole = (root / "h.jpg").read_bytes()
    (root / "h.jpg").write_bytes(whole[:300])
    (root / "i.png").write_bytes(b"")
    (root / "j.webp").write_bytes(b"RIFF and no more")
    (root / "k.png").write_text("<html>404</html>")
    return ["g.png", "h.jpg", "i.png", "j.webp", "k.png"]


def test_sizes_as_seen_and_modes_are_counted(folder):
    found = survey(list_pictures(folder))
    assert found.broken == {}
    assert found.count_sizes() == [((6, 8), 5), ((8, 6), 1)]
    modes = dict(found.count_modes())
    assert modes.pop("I;16", 0) + modes.pop("I", 0) == 1
    assert modes == {"RGB": 2, "L": 1, "P": 1, "RGBA": 1}


def test_all_broken_files_are_found_whatever_is_wrong_with_them(folder):
    names = damage(folder)
    found = survey(list_pictures(folder))
    assert [found.listing.files[i] for i in found.broken] == names
    assert all(reason and "\n" not in reason for reason in found.broken.values())
    assert len(found.whole) == 6


def test_what_was_found_is_remembered_until_a_file_changes(folder, monkeypatch):
    damage(folder)
    first = survey(list_pictures(folder))

    def opened(*args):
        raise AssertionError("a file was opened again")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", opened)
        again = survey(list_pictures(folder))
        assert again.broken == first.broken and again.modes == first.modes
        np.testing.assert_array_equal(again.sizes, first.sizes)
        os.utime(folder / "b.png", ns=(1, 1))  # same name, same size, another time
        with pytest.raises(AssertionError, match="opened again"):
            survey(list_pictures(folder))
    Image.new("RGB", (8, 6)).save(folder / "k.png")
    assert len(survey(list_pictures(folder)).broken) == 4


def test_broken_files_stop_a_data_set_unless_they_are_skipped(folder):
    names = damage(folder)
    with pytest.raises(UserError) as raised:
        load(f"folder:{folder}", image_size=4)  # the channels are looked up
    message = str(raised.value)
    assert "has broken files, 5 of 11: " in message
    assert all(name in message for name in names[:3]) and "and 2 more" in message
    assert "skip_broken" in message and "\n" not in message
    dataset = load(f"folder:{folder}", image_size=4, skip_broken=True)
    assert len(decoded(dataset)) == 6
    assert "Left out as broken: 5 (g.png, h.jpg, i.png, ...)." in dataset.note


def test_skipping_changes_nothing_where_nothing_is_broken(folder):
    plain, skipping = (
        load(f"folder:{folder}", image_size=4, skip_broken=skip)
        for skip in (False, True)
    )
    assert plain.fingerprint == skipping.fingerprint and skipping.note == ""


def test_nothing_left_and_no_folder(tmp_path):
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(UserError, match="all 1 images"):
        load(f"folder:{tmp_path}", skip_broken=True)
    with pytest.raises(UserError, match="is for folders"):
        load("digits", skip_broken=True)


def test_a_listing_is_sorted_by_the_parts_of_the_paths(tmp_path):
    for name in ["b/x.png", "b.png", "b-c/x.png", "a.PNG", ".hidden.png", "a.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    listing = list_pictures(tmp_path)
    assert listing.files == ("a.PNG", "b/x.png", "b-c/x.png", "b.png")
    assert listing.sizes == (2, 2, 2, 2)
