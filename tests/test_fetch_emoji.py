"""The script that makes a folder of emoji, on a package made up here."""

import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import data

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_emoji.py"
RED_DOT = np.zeros((4, 4, 4), np.uint8)
RED_DOT[1:3, 1:3] = 255, 0, 0, 255  # opaque in the middle, nothing around it
RED_DOT[0, 0] = 0, 0, 0, 51  # a fifth of black


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("fetch_emoji", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(order, code, name, category, has=True):
    return {
        **{"sort_order": order, "image": f"{code}.png", "name": name},
        **{"short_names": [name.lower().replace(" ", "_")], "category": category},
        **{"subcategory": "s", "unified": code.upper(), "has_img_google": has},
    }


@pytest.fixture
def package(script, monkeypatch, tmp_path):
    """Return a package of two emoji, a part of others, and one without a picture."""
    entries = [
        entry(2, "b", "RED DOT", "Symbols"),
        entry(1, "a", "GRINNING FACE", "Smileys & Emotion"),
        entry(3, "c", "SKIN TONE", "Component"),
        entry(4, "d", "UNKNOWN", "Symbols", has=False),
    ]
    picture = io.BytesIO()
    Image.fromarray(RED_DOT).save(picture, "PNG")
    content = {
        "emoji.json": json.dumps(entries).encode(),
        "LICENSE": b"kept",
        "README.md": b"kept too",
        "img/google/sheets/all.png": b"not read",
        **{f"img/google/64/{code}.png": picture.getvalue() for code in "abc"},
    }
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, part in content.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(script, "SHA256", digest)
    return path


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fetch_emoji.py", *map(str, arguments)])
    script.main()


def test_the_folder_reads_as_captioned_pictures_on_white(
    script, package, monkeypatch, tmp_path
):
    folder = tmp_path / "emoji"
    run(script, monkeypatch, f"--to={folder}", f"--package={package}")
    source = data.load(f"folder:{folder}", label_field="category")
    assert source.texts == ("grinning face", "red dot")
    assert source.label_names == ("Smileys & Emotion", "Symbols")
    image = source.source[1]["image"]
    np.testing.assert_array_equal(image[1, 1], [255, 0, 0])
    np.testing.assert_array_equal(image[3, 3], [255, 255, 255])
    np.testing.assert_array_equal(image[0, 0], [204, 204, 204])
    assert (folder / "LICENSE").read_bytes() == b"kept"


def test_what_cannot_be_is_told_in_a_line(script, package, monkeypatch, tmp_path):
    folder = tmp_path / "emoji"
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="download it again"):
        run(script, monkeypatch, f"--to={folder}", f"--package={broken}")
    with pytest.raises(SystemExit, match="is not a file"):
        run(script, monkeypatch, f"--to={folder}", "--package=nowhere.tgz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="there is no npm"):
        run(script, monkeypatch, f"--to={folder}")
    assert not folder.exists()
    run(script, monkeypatch, f"--to={folder}", f"--package={package}")
    with pytest.raises(SystemExit, match="is there already"):
        run(script, monkeypatch, f"--to={folder}", f"--package={package}")
