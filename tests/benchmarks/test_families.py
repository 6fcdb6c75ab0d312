"""The benchmark of families in small, and the picture of what it keeps."""

import importlib.util
import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import families


def script(name):
    """Import a script of scripts/, which is no package."""
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_trained_measured_and_pictured(tmp_path, capsys):
    out, kept = tmp_path / "results.json", tmp_path / "samples"
    small = "training.num_steps=4,training.batch_size=16,network.width=8"
    arguments = [
        *("--rows=VAE;GAN, textbook", "--data=ring", "--seeds=2"),
        *(f"--options={small}", f"--out={out}", f"--samples={kept}"),
    ]
    assert families.main(arguments) == 0
    found = json.loads(out.read_text())
    assert [(r["row"], r["seed"]) for r in found] == [
        *(("VAE", 0), ("VAE", 1), ("GAN, textbook", 0), ("GAN, textbook", 1)),
    ]
    assert found[0]["nats"] != found[1]["nats"]
    shown = capsys.readouterr().out
    assert f"{found[0]['good']:.1%} / {found[1]['good']:.1%}" in shown
    files = {path.stem: path for path in kept.iterdir()}
    assert set(files) == {"ring-vae", "ring-gan-textbook"}
    assert np.load(files["ring-vae"])["arr_0"].shape == (10_000, 2)
    picture = tmp_path / "picture.png"
    line = [
        *("--textbook", f"GAN, textbook={files['ring-gan-textbook']}"),
        *("--today", f"VAE={files['ring-vae']}", f"flow={files['ring-vae']}"),
        *(f"--out={picture}", "--data=points:ring"),
    ]
    assert script("families_picture").main(line) == 0
    assert Image.open(picture).size[0] > 500
