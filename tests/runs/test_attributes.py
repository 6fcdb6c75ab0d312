"""The share of prompts that are kept, counted where it is known."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from program import TINY_UNET, flags

from ddpm_jax import data
from ddpm_jax.cli import main
from ddpm_jax.commands import attributes as mode
from ddpm_jax.data import shapes
from ddpm_jax.runtime import images

OPTIONS = [
    *("data.source=shapes:24", "data.image_size=16", "data.flip=False"),
    *(
        "conditioners.text.kind=words",
        "conditioners.label=None",
        "conditioners.text.width=8",
    ),
    *(
        "conditioners.text.depth=1",
        "conditioners.text.num_heads=2",
        "training.num_steps=2",
    ),
    *("training.preview_every=0", "sample.sampler=ddim", "sample.num_steps=2"),
    *("evaluate.num_images=20", "sample.batch_size=20"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "shapes"
    flags = [f"--config.{option}" for option in OPTIONS]
    assert main([f"--config={TINY_UNET}", f"--workdir={workdir}", *flags]) == 0
    return workdir


def run(workdir, *options):
    return main(["attributes", f"{workdir}", *flags("attributes", *options)])


def rows(workdir):
    return json.loads((workdir / "attributes" / "attributes.json").read_text())


def painted(scene, number):
    """Paint a scene, but every fifth in another color, the one after in a corner."""
    things = list(scene)
    place = next(i for i, thing in enumerate(things) if thing)
    if number % 5 == 0:
        other = "green" if things[place].color == "white" else "white"
        things[place] = things[place]._replace(color=other)
    if number % 5 == 1:
        free = things.index(None)
        things[free], things[place] = things[place], None
    pixels = shapes.render(tuple(things), 16)
    pixels[7, 8, 2] = 0  # between the quarters
    return pixels


def test_a_painter_who_errs_in_a_known_share_is_told_so(model, monkeypatch, capsys):
    """Twenty prompts a split: four of another color, four in another quarter."""
    drawn_set = mode.drawn_set

    def of_the_painter(recipe, asked, workdir, interrupted):
        texts = mode._prompts(recipe.task, asked, workdir)
        scenes = [shapes.parse(text) for text in texts]
        pixels = np.stack([painted(scene, i) for i, scene in enumerate(scenes)])
        drawn = drawn_set(recipe, asked, workdir, interrupted)
        info = dataclasses.replace(
            data.load("shapes:20", image_size=16), source=data.Arrays(pixels, None)
        )
        return dataclasses.replace(drawn, load=lambda folder: info)

    monkeypatch.setattr(mode, "drawn_set", of_the_painter)
    assert run(model, "evaluate.guidance_scales=1,2") == 0
    said = capsys.readouterr().out
    assert "60.0 11.0" in said  # 12 of 20, and sqrt(0.6 0.4 / 20)
    found = rows(model)
    assert len(found) == 4  # two splits, two scales
    for row in found:
        share = {name: round(20 * value) for name, value in row["share"].items()}
        assert share == {
            **{"count": 20, "shape": 20, "size": 20},
            **{"color": 16, "things": 16, "place": 16, "scene": 12},
        }
        assert row["unclear"] == 0
        assert row["saturated"] == pytest.approx(1 / (3 * 16**2))  # one in each
    with Image.open(model / "attributes" / "over-guidance.png") as picture:
        assert picture.width > 600


def test_what_a_network_draws_is_kept_and_not_drawn_again(model, monkeypatch, capsys):
    asked = "sample.prompt=a small red circle top left"
    assert run(model, asked, "evaluate.num_images=3") == 0
    (row,) = (row for row in rows(model) if row["num_images"] == 3)
    assert row["share"]["scene"] == 0  # after two steps of training
    assert row["unclear"] > 0
    monkeypatch.setattr(mode, "drawn_set", lambda *given: drawn(*given))

    def drawn(*given):
        one = drawn_set(*given)
        return dataclasses.replace(one, load=None)

    from ddpm_jax.commands.image_sets import drawn_set

    assert run(model, asked, "evaluate.num_images=3") == 0
    assert "a small red cir" in capsys.readouterr().out


SAID = ["a circle top left"] * 4 + ["a large red circle", "a circle and a cross"]
SEEN = [
    "a small red circle top left",
    "a small red circle top left",
    "a large red circle top left",
    "a large blue circle top right",
    "a large red circle bottom left",
    "a small red circle top left and a small red square top right",
]


def test_of_what_is_unsaid_the_law_is_compared(model, tmp_path, capsys):
    lines = []
    for i, (said, seen) in enumerate(zip(SAID, SEEN, strict=True)):
        images.save_png(tmp_path / f"{i}.png", shapes.render(shapes.parse(seen), 32))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": said}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert run(model, f"evaluate.images=folder:{tmp_path}") == 0
    out = capsys.readouterr().out
    (row,) = (row for row in rows(model) if row.get("folder") == str(tmp_path))
    share = row["share"]
    assert share["size"] == share["color"] == share["count"] == 1  # of those said
    assert share["place"] == 3 / 4 and share["shape"] == 5 / 6
    assert share["scene"] == 4 / 6 and share["things"] == 5 / 6
    size = row["unsaid"]["size"]  # of the four circles top left
    law = shapes.unsaid_law(shapes.parse_partial(SAID[0]))["size"]
    assert size["num"] == 4 and size["seen"] == {"small": 0.5, "large": 0.5}
    assert size["data"] == pytest.approx(law)
    assert size["total_variation"] == pytest.approx(abs(law["small"] - 0.5))
    assert size["agree"] == 2 / 6  # pairs of two small, and of two large
    assert size["agree_data"] == pytest.approx(sum(p**2 for p in law.values()))
    assert (
        row["unsaid"]["place"]["num"] == 1 and row["unsaid"]["place"]["agree"] is None
    )
    assert "size unsaid (4): total variation" in out and "33.3% of pairs" in out


def test_a_folder_of_captioned_pictures_is_read(model, tmp_path, capsys):
    """Such as a cascade writes: six of eight are right, in number and all."""
    source = data.load("shapes:8", image_size=32)
    texts = list(source.texts)
    lines = []
    for number in range(8):
        text = texts[number]
        scene = shapes.parse(text)
        if number < 2:  # one thing more than was asked for
            things = list(scene)
            if None not in things:
                continue
            other = next(thing for thing in things if thing)
            things[things.index(None)] = other
            scene = tuple(things)
        images.save_png(tmp_path / f"{number}.png", shapes.render(scene, 32))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    assert len(lines) == 8
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert run(model, f"evaluate.images=folder:{tmp_path}") == 0
    assert "75.0 15.3" in capsys.readouterr().out  # sqrt(0.75 0.25 / 8)
    (row,) = (row for row in rows(model) if row.get("folder") == str(tmp_path))
    assert row["share"]["count"] == row["share"]["scene"] == 0.75
    assert row["num_images"] == 8 and row["unclear"] == 0


def test_pictures_without_captions_are_refused(model, tmp_path, capsys):
    images.save_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    assert run(model, f"evaluate.images=folder:{tmp_path}") == 2
    assert "has no captions to hold its pictures against" in capsys.readouterr().err
    assert run(model, "evaluate.images=noise") == 2
    assert "use folder:PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sample.prompt=a red cat"], "never seen: cat"),
        (["sample.prompt=red circle"], "'red' for the first word of a thing"),
        (["sample.prompt=a red"], "ends where a shape is due"),
        (["sample.prompt=data:dev"], "use train, test, held_out"),
        (["sample.prompt_to=a red circle", "sample.prompt=data:test"], "leave it out"),
    ],
)
def test_what_is_no_caption_of_shapes_is_refused(model, capsys, options, message):
    assert run(model, *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_model_without_text_is_refused(finished, capsys):
    assert run(finished) == 2
    assert "trained without text; train one on shapes" in capsys.readouterr().err
