"""A first look: every kind of picture counted, every broken file found and named."""

import os

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import decoded, in_memory, load, survey
from ddpm_jax.data.listing import list_images
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files


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
    found = survey(list_images(folder))
    assert found.broken == {}
    assert found.count_sizes() == [((6, 8), 5), ((8, 6), 1)]
    modes = dict(found.count_modes())
    assert modes.pop("I;16", 0) + modes.pop("I", 0) == 1
    assert modes == {"RGB": 2, "L": 1, "P": 1, "RGBA": 1}


def test_all_broken_files_are_found_whatever_is_wrong_with_them(folder):
    names = damage(folder)
    found = survey(list_images(folder))
    assert [found.listing.files[i] for i in found.broken] == names
    assert all(reason and "\n" not in reason for reason in found.broken.values())
    assert len(found.whole) == 6


def test_what_was_found_is_remembered_until_a_file_changes(folder, monkeypatch):
    damage(folder)
    first = survey(list_images(folder))

    def opened(*args, **options):
        raise AssertionError("a file was opened again")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", opened)
        again = survey(list_images(folder))
        assert again.broken == first.broken and again.modes == first.modes
        np.testing.assert_array_equal(again.sizes, first.sizes)
        os.utime(folder / "b.png", ns=(1, 1))  # same name, same size, another time
        with pytest.raises(AssertionError, match="opened again"):
            survey(list_images(folder))
    Image.new("RGB", (8, 6)).save(folder / "k.png")
    assert len(survey(list_images(folder)).broken) == 4


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
    (tmp_path / "b-link").symlink_to(tmp_path / "b")
    listing = list_images(tmp_path)
    assert listing.files == ("a.PNG", "b/x.png", "b-c/x.png", "b-link/x.png", "b.png")
    assert listing.sizes == (2, 2, 2, 2, 2)


def test_links_are_followed_and_what_is_left_out_is_counted_and_named(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for place in (root / "a" / "1.png", elsewhere / "deep" / "2.gif", root / "3.JPE"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"12")
    (root / "class").symlink_to(elsewhere)
    (root / "4.png").symlink_to(elsewhere / "deep" / "2.gif")
    (root / "dead.png").symlink_to(tmp_path / "nowhere")
    (root / "self.png").symlink_to(root / "self.png")
    (elsewhere / "up").symlink_to(elsewhere)  # round and round
    (root / "a" / "root").symlink_to(root)
    for name in ("photo.HEIC", "a/notes.txt", ".hidden.png"):
        (root / name).write_bytes(b"")
    (root / "birds").mkdir()
    os.mkfifo(root / "pipe.png")
    listing = list_images(root)
    assert listing.files == ("3.JPE", "4.png", "a/1.png", "class/deep/2.gif")
    assert dict(listing.left_out) == {
        ".hidden.png": "hidden",
        "a/notes.txt": "of other kinds",
        "a/root": "links to a folder above or read before",
        "birds/": "folders without images",
        "class/up": "links to a folder above or read before",
        "dead.png": "links that lead nowhere",
        "photo.HEIC": "of other kinds",
        "pipe.png": "neither files nor folders",
        "self.png": "links that lead nowhere",
    }
    assert listing.describe_left_out(1) == (
        "of other kinds 2 (a/notes.txt, ...); links that lead nowhere 2 (dead.png, "
        "...); links to a folder above or read before 2 (a/root, ...); neither files "
        "nor folders 1 (pipe.png); folders without images 1 (birds/); hidden 1 "
        "(.hidden.png)"
    )


def test_folders_that_all_link_to_each_other_end_and_hide_nothing(tmp_path):
    # Followed along every path that does not repeat, ten would be walked in millions
    # of ways.
    names = [f"{i:02d}" for i in range(10)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"12")
        for other in names:
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    listing = list_images(tmp_path)
    assert {f"{name}/x.png" for name in names} <= set(listing.files)
    assert {f"00/to-{name}/x.png" for name in names[1:]} <= set(listing.files)
    assert len(listing) <= 200


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    whole = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return whole(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"closed \(Permission denied\); make it"):
        list_images(tmp_path)


def test_a_moved_folder_is_known_and_another_of_equal_names_and_times_is_not(tmp_path):
    for name, byte in (("one", b"1"), ("two", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(byte)
        os.utime(tmp_path / name / "a.png", ns=(1, 1))  # as an archive unpacks it
    one, two = (list_images(tmp_path / name).key for name in ("one", "two"))
    assert one != two
    (tmp_path / "one").rename(tmp_path / "moved")
    assert list_images(tmp_path / "moved").key == one


def test_sixteen_bits_and_animations_are_found(folder):
    frames = [Image.new("L", (4, 4), value) for value in (10, 20)]
    for name in ("y.gif", "z.tif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(folder / "x.png")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(folder / "w.tif")
    for _ in range(2):  # looked at, and remembered
        found = survey(list_images(folder))
        names = found.listing.files
        assert [names[i] for i in found.animated] == ["y.gif", "z.tif"]
        assert [names[i] for i in found.broken] == ["w.tif"]
        assert "floating point" in found.broken[names.index("w.tif")]
        wide = {names[i]: int(p) for i, p in enumerate(found.peaks) if p >= 0}
        assert wide == {"f.png": 0, "x.png": 4095}
    pixels = in_memory(load(f"folder:{folder}", image_size=4, skip_broken=True))[0]
    assert [int(pixels[names.index(n) - 1, 0, 0, 0]) for n in ("y.gif", "z.tif")] == [
        10,
        10,
    ]


def test_a_damaged_memory_of_a_look_is_made_anew(folder):
    first = survey(list_images(folder))
    place = files.cache_folder("looks", f"{first.listing.key}.npz")
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    assert survey(list_images(folder)).modes == first.modes
    assert place.read_bytes() == whole
