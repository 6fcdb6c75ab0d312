"""The pictures of README are parts of those that the documents explain, as they are."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Run the script into a folder of its own."""
    spec = importlib.util.spec_from_file_location(
        "gallery", ROOT / "scripts" / "gallery.py"
    )
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    folder = tmp_path_factory.mktemp("gallery")
    assert gallery.main([f"--to={folder}"]) == 0
    return folder


def frames(path):
    """Read all frames of a file, [N, H, W, 3]."""
    with Image.open(path) as image:
        shots = ImageSequence.Iterator(image)
        return np.stack([np.asarray(shot.convert("RGB")) for shot in shots])


def test_what_is_stored_is_what_the_script_cuts(cut):
    made = sorted(path.name for path in cut.iterdir())
    stored = [*(ROOT / "docs").glob("gallery-*"), ROOT / "docs" / "mnist-chain.gif"]
    assert made == sorted(path.name for path in stored)
    for name in made:
        # Resampling may round otherwise in another version of Pillow.
        new, old = frames(cut / name), frames(ROOT / "docs" / name)
        assert np.abs(new.astype(int) - old).max() <= 2, name


def test_the_animation_plays_the_columns_of_the_film(cut):
    film = np.asarray(Image.open(ROOT / "docs" / "mnist-film.png"))
    chain = frames(cut / "mnist-chain.gif")[..., 0]
    assert chain.shape == (16, 100, 800)
    # Digit 3, step 5, pixel (10, 20): each is 2 pixels wide there and 3 here.
    there = film[3 * 66 + 2 + 20, 5 * 66 + 2 + 40]
    assert chain[5, 2 + 30 + 1, 3 * 100 + 2 + 60 + 1] == there
