"""The script that makes a folder of named sprites, on a checkout made up here."""

import importlib.util
import io
import sys
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import data

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_sprites.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("make_sprites", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(seed, side=32, hidden=0):
    """A sprite of random colors, whose upper half is transparent."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[: side // 2] = hidden
    pixels[: side // 2, :, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def checkout(tmp_path):
    files = {
        "Old/dc-mon/animals/polar_bear.png": png(0),
        "Old/item/weapon/scimitar2.png": png(1),
        "Old/item/weapon/twin.png": png(1, hidden=9),
        "Old/dngn/floor/dngn_acidic_floor1.png": png(2),
        "Old/dngn/floor/large.png": png(3, side=48),
        "Old/gui/tab.png": png(4),
        "Old/monster/kenku.png": png(5),
        "Old/item/weapon/broken.png": b"not a picture",
    }
    root = tmp_path / "tiles"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    with zipfile.ZipFile(root / "Older.zip", "w") as archive:
        archive.writestr("tiles/gui/spells/air/i-swiftness.png", png(6))
    (root / "TILES_UNDER_UNKNOWN_LICENSE.md").write_text("Left out:\n\nkenku.png\n")
    (root / "ARTISTS.md").write_text("kept")
    return root


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_sprites.py", *map(str, arguments)])
    script.main()


def test_the_folder_reads_as_named_and_classified_pictures_on_white(
    script, checkout, monkeypatch, tmp_path, capsys
):
    folder = tmp_path / "sprites"
    run(script, monkeypatch, checkout, f"--to={folder}")
    assert (
        "4 sprites (dungeon 1, item 1, monster 1, spell 1)" in capsys.readouterr().out
    )
    source = data.load(f"folder:{folder}")
    assert source.texts == (
        *("polar bear (animals)", "acidic floor", "scimitar (weapon)"),
        "swiftness (air)",
    )
    assert source.label_names == ("dungeon", "item", "monster", "spell")
    image = source.source[0]["image"]
    assert image.shape == (32, 32, 3) and (image[:16] == 255).all()
    expected = np.asarray(Image.open(io.BytesIO(png(0))))[16:, :, :3]
    np.testing.assert_array_equal(image[16:], expected)
    assert (folder / "ARTISTS.md").read_text() == "kept"
    with pytest.raises(SystemExit, match="is there already"):
        run(script, monkeypatch, checkout, f"--to={folder}")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("Nov-2015/item/armour/boots1_brown.png", "boots brown (armour)"),
        ("Nov-2015/item/gold/03.png", "(gold)"),
        ("Nov-2015/dungeon/dngn_altar_xom.png", "altar xom"),
        ("a/player/hand1/misc/draco-job.png", "draco job (hand1 misc)"),
        (
            "a/monster/undead/spectrals/spectral_ant.png",
            "spectral ant (undead spectrals)",
        ),
        ("a/dngn/wall/crystal_wall_green.png", "crystal wall green"),
    ],
)
def test_a_caption_is_the_name_and_what_the_folder_adds(script, place, text):
    place = PurePosixPath(place)
    _, folders = script.class_of(place)
    assert script.caption(place.stem, folders) == text


def test_what_cannot_be_is_said_in_a_line(script, checkout, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="is no checkout of github"):
        run(script, monkeypatch, tmp_path, f"--to={tmp_path / 'a'}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "TILES_UNDER_UNKNOWN_LICENSE.md").write_text("")
    with pytest.raises(SystemExit, match="holds no tiles in folders such as dungeon"):
        run(script, monkeypatch, tmp_path / "empty", f"--to={tmp_path / 'a'}")
    assert not (tmp_path / "a").exists()
