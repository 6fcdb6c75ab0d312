"""The retrieval network and what it says of drawings, told by pictures that are known.

A folder of captioned shapes, a third of them held out; networks trained for a moment.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import ROOT, TINY_UNET, flags

from ddpm_jax import assembly, data
from ddpm_jax.assembly.retrieval import retrieval
from ddpm_jax.cli import main
from ddpm_jax.commands import rank as mode
from ddpm_jax.commands import retrieval as training
from ddpm_jax.commands.image_sets import drawn_set
from ddpm_jax.commands.model import describe_model
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import images

DATA = ["data.image_size=16", "data.flip=False", "data.hold_out=3"]
TEXT = ["text.kind=words", "text.width=8", "text.depth=1", "text.num_heads=2"]
TOLD = ["conditioners.label=None", *(f"conditioners.{option}" for option in TEXT)]
RETRIEVER = str(ROOT / "configs" / "emoji_retrieval.py")
RETRIEVAL = ["training.num_steps=200"]
RETRIEVAL += ["network.channels=8", "max_shift=0"]
RETRIEVAL += ["training.batch_size=32", "training.ema_decay=0.9"]
RETRIEVAL += ["training.warmup_steps=5", "training.learning_rate=0.01"]


def recipe_flags(options):
    return [f"--config.{option}" for option in options]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write 90 pictures, the words of whose captions are all known."""
    root = tmp_path_factory.mktemp("pictures")
    drawn = data.load("shapes:400", image_size=16)
    pixels, _ = data.in_memory(drawn)
    chosen, lines = {}, []
    for text, image in zip(drawn.texts, pixels, strict=True):
        if len(text.split()) < 12:
            chosen.setdefault(text, image)
    for number, (text, image) in enumerate(list(chosen.items())[:90]):
        images.save_png(root / f"{number:02}.png", image)
        lines.append(json.dumps({"file_name": f"{number:02}.png", "text": text}))
    assert len(lines) == 90
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return f"data.source=folder:{root}"


@pytest.fixture(scope="module")
def towers(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("towers") / "shapes"
    assert train_towers(workdir, folder) == 0
    return workdir


def train_towers(workdir, folder, *options):
    asked = recipe_flags([folder, *DATA, *TEXT, *RETRIEVAL, *options])
    return main([f"--config={RETRIEVER}", f"--workdir={workdir}", *asked])


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "shapes"
    quick = ["training.num_steps=2", "training.preview_every=0", "sample.sampler=ddim"]
    quick += ["sample.num_steps=2", "sample.batch_size=30"]
    asked = recipe_flags([folder, *DATA, *TOLD, *quick])
    assert main([f"--config={TINY_UNET}", f"--workdir={workdir}", *asked]) == 0
    return workdir


def run(workdir, *options):
    return main(["rank", f"{workdir}", *flags("rank", *options)])


def rows(workdir):
    found = json.loads((workdir / "ranks" / "ranks.json").read_text())
    return {row["images"]: row for row in found}


def test_the_towers_say_how_often_they_are_right(towers, folder, capsys):
    about = json.loads((towers / "result.json").read_text())
    assert about["num_images"] == {"train": 60, "test": 30}
    assert about["found"]["train"]["in_first_5"]["value"] > 0.5  # a guess has 5 of 60
    assert about["found"]["test"]["among"] == 30
    capsys.readouterr()
    assert train_towers(towers, folder) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert train_towers(towers, folder, "network.num_features=7") == 2
    assert "num_features" in capsys.readouterr().err


def test_what_is_kept_is_what_was_trained(towers, folder):
    """Opened again, the towers find as often as they were said to."""
    opened = retrieval(towers)
    about = json.loads((towers / "result.json").read_text())
    path = folder.removeprefix("data.source=")
    for split in ("train", "test"):
        source = data.load(path, split=split, image_size=16, hold_out=3)
        pixels, _ = data.in_memory(source)
        assert training.found(opened, pixels, source.texts) == about["found"][split]


def test_a_painter_who_copies_is_found_out(model, towers, folder, monkeypatch, capsys):
    """What it is asked for it copies from the data: then all numbers are known."""
    path = folder.removeprefix("data.source=")
    whole = data.load(path, split="all", image_size=16)
    pixels = dict(zip(whole.texts, data.in_memory(whole)[0], strict=True))

    def of_the_copyist(recipe, asked, workdir, interrupted):
        drawn = drawn_set(recipe, asked, workdir, interrupted)
        # As many are asked for as there are prompts that differ.
        info = describe_model(recipe.task, asked, workdir).info
        texts = assembly.prompts(recipe.task, info, asked)
        assert len(set(texts)) == len(texts)
        copies = np.stack([pixels[text] for text in texts])
        source = dataclasses.replace(whole, source=data.Arrays(copies, None))
        return dataclasses.replace(drawn, load=lambda folder: source)

    monkeypatch.setattr(mode, "drawn_set", of_the_copyist)
    assert run(model, f"evaluate.retrieval={towers}") == 0
    said = capsys.readouterr().out
    found, about = rows(model), json.loads((towers / "result.json").read_text())
    real, test = found["real test"], found["drawn for data:test"]
    train = found["drawn for data:train/2"]
    assert real["found"] == test["found"] == about["found"]["test"]
    # Of sixty captions of training each second, as many as were held out.
    opened, known = retrieval(towers), data.load(path, image_size=16, hold_out=3)
    chosen = known.texts[::2]
    seen = np.stack([pixels[text] for text in chosen])
    assert train["found"] == training.found(opened, seen, chosen)
    assert train["distance"]["median"] == 0 and train["distance"]["share_nearer"] == 1
    assert test["distance"]["median"] == real["distance"]["median"] > 0
    # The threshold leaves five percent of thirty pictures below it: two.
    assert test["distance"]["share_nearer"] == pytest.approx(2 / 30)
    assert "100.0" in said and "drawn for data:train" in said
    for row in found.values():
        seen = model / "ranks" / row["set"] / f"retrieval-{row['retrieval']}"
        with Image.open(seen / "neighbours.png") as sheet:
            assert sheet.width > sheet.height / 2


def test_the_distance_to_the_data_is_in_grey_levels(model, towers, folder, monkeypatch):
    """Every value of a training picture moved by three: three of 255 (RMS)."""
    path = folder.removeprefix("data.source=")
    train = data.load(path, split="train", image_size=16, hold_out=3)
    moved = data.in_memory(train)[0].astype(int)
    moved = np.where(moved > 127, moved - 3, moved + 3).astype(np.uint8)

    def of_the_forger(recipe, asked, workdir, interrupted):
        drawn = drawn_set(recipe, asked, workdir, interrupted)
        source = dataclasses.replace(train, source=data.Arrays(moved, None))
        return dataclasses.replace(drawn, load=lambda folder: source)

    monkeypatch.setattr(mode, "drawn_set", of_the_forger)
    options = ["sample.prompt=data:train", "sample.seed=1"]
    assert run(model, f"evaluate.retrieval={towers}", *options) == 0
    found = json.loads((model / "ranks" / "ranks.json").read_text())
    (row,) = (row for row in found if row["seed"] == 1)
    assert row["distance"]["median"] == pytest.approx(3.0, rel=1e-4)


def test_a_network_draws_and_what_it_drew_is_kept(model, towers, monkeypatch, capsys):
    options = [f"evaluate.retrieval={towers}", "sample.prompt=data:test"]
    options += ["evaluate.num_images=12", "sample.seed=2"]
    assert run(model, *options) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(mode, "nearest", None)  # would fail
    assert run(model, *options) == 0
    assert capsys.readouterr().out == first
    (row,) = (r for r in rows(model).values() if r["seed"] == 2)
    assert (row["num_images"], row["found"]["among"]) == (12, 12)
    folder = model / "ranks" / row["set"]
    assert (folder / "grid.png").is_file() and (folder / "samples.npz").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs a network that knows pictures and captions"),
        (["evaluate.retrieval=nowhere"], "nowhere holds no retrieval network; train"),
        (["sample.prompt=a red circle"], "1 different prompts"),
        (["sample.prompt=data:nowhere"], "has no split 'nowhere'"),
        (["sample.prompt=data:test/no"], "write it like data:test/10"),
        (["sample.prompt_to=red"], "prompt_to does nothing in rank; leave it out"),
        (["evaluate.images=noise"], "images does nothing in rank; leave it out"),
    ],
)
def test_what_cannot_be_ranked_is_refused(model, towers, options, message, capsys):
    asked = options
    if options and "retrieval" not in options[0]:
        asked = [f"evaluate.retrieval={towers}", *options]
    assert run(model, *asked) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_network_of_another_size_is_refused(model, towers, tmp_path, capsys):
    about = json.loads((towers / "result.json").read_text())
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    changed = json.dumps({**about, "image_shape": [8, 8, 3]})
    (tmp_path / "result.json").write_text(changed)
    assert run(model, f"evaluate.retrieval={tmp_path}") == 2
    assert "takes 8x8x3; train one on pictures of that size" in capsys.readouterr().err


def test_other_weights_than_described_are_refused(towers, tmp_path):
    about = json.loads((towers / "result.json").read_text())
    shutil.copytree(towers, tmp_path, dirs_exist_ok=True)
    changed = json.dumps({**about, "fingerprint": "0" * 16})
    (tmp_path / "result.json").write_text(changed)
    with pytest.raises(UserError, match="are not those that"):
        retrieval(tmp_path)


def test_words_that_only_the_test_has_are_refused_before_training(tmp_path, capsys):
    lines = []
    for number, text in enumerate(
        ["a cat", "a dog", "a bird", "a dog", "a cat", "cow"]
    ):
        images.save_png(tmp_path / f"{number}.png", np.zeros((16, 16, 3), np.uint8))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert train_towers(tmp_path / "run", f"data.source=folder:{tmp_path}") == 2
    said = capsys.readouterr().err
    assert "never seen: bird" in said and "let minilm or bytes read" in said


def test_data_without_captions_cannot_be_learned_from(tmp_path, capsys):
    asked = recipe_flags(["data.source=digits", "data.image_size=0", *TEXT])
    line = [f"--config={RETRIEVER}", f"--workdir={tmp_path}", *asked]
    assert main([*line, "--config.data.hold_out=0"]) == 2
    assert "digits has no captions; give each picture a" in capsys.readouterr().err
