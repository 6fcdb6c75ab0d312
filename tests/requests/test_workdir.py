"""Where a run lies when no workdir is named."""

from pathlib import Path

import pytest

from ddpm_jax.cli import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("configs/digits.py", "digits"), ("digits", "digits"), ("folder:64", "folder-64")],
)
def test_a_recipe_is_trained_in_a_run_of_its_name(tmp_path, monkeypatch, recipe, name):
    folders = []

    def train(cfg, folder):
        folders.append(folder)
        return 0

    monkeypatch.setattr("ddpm_jax.commands.train.train", train)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert main([f"--config={recipe}"]) == 0
    assert folders == [Path("runs") / name]
