"""Captioned shapes: the language, the splits, and what is drawn of them."""

import ast
import itertools
import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ddpm_jax.data import NoSplitError, batches, load, shapes, subset
from ddpm_jax.data.spec import Data
from ddpm_jax.errors import UserError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text()
THINGS = [
    shapes.Thing(*words)
    for words in itertools.product(shapes.SIZES, shapes.COLORS, shapes.SHAPES)
]


def scenes_of(num_things, things=THINGS):
    """Yield every scene of so many things."""
    for places in itertools.combinations(range(4), num_things):
        for chosen in itertools.product(things, repeat=num_things):
            found = dict(zip(places, chosen, strict=True))
            yield tuple(found.get(place) for place in range(4))


def things_in(scene):
    return [thing for thing in scene if thing]


def pairs_in(scene):
    return {(thing.color, thing.shape) for thing in things_in(scene)}


def test_a_caption_reads_as_english():
    scene = (
        shapes.Thing("small", "red", "circle"),
        None,
        None,
        shapes.Thing("large", "blue", "square"),
    )
    text = "a small red circle top left and a large blue square bottom right"
    assert shapes.caption(scene) == text
    assert shapes.parse(text) == scene


def test_scenes_and_captions_are_one_to_one():
    few = [*scenes_of(1), *scenes_of(2)]
    rng = np.random.default_rng(0)
    of_three = [
        tuple(None if p == empty else THINGS[t] for p, t in enumerate(chosen))
        for empty, chosen in zip(
            rng.integers(4, size=2000), rng.integers(56, size=(2000, 4)), strict=True
        )
    ]
    scenes = {*few, *of_three}
    captions = {shapes.caption(scene) for scene in scenes}
    assert len(captions) == len(scenes)
    assert {shapes.parse(text) for text in captions} == scenes
    assert all(shapes.parse(shapes.caption(scene)) == scene for scene in few)


def test_the_number_of_captions():
    # Choose n of four places; each has a color, a shape and a size of its own.
    num_things = len(shapes.COLORS) * len(shapes.SHAPES) * len(shapes.SIZES)
    assert num_things == 7 * 4 * 2
    counts = {n: math.comb(4, n) * num_things**n for n in (1, 2, 3)}
    assert sum(counts.values()) == 721_504
    assert "721,504" in DOCUMENT
    assert sum(1 for _ in scenes_of(1)) == counts[1]
    assert sum(1 for _ in scenes_of(2)) == counts[2]
    # 4 of 28 pairs are held out, so 8 things of 56.
    seen = [s for s in scenes_of(2) if shapes.split_of(s) != "held_out"]
    assert len(seen) == math.comb(4, 2) * 48**2
    familiar = sum(math.comb(4, n) * 48**n for n in (1, 2, 3))
    one_strange = sum(math.comb(4, n) * n * 8 * 48 ** (n - 1) for n in (1, 2, 3))
    assert f"{familiar:,} |" in DOCUMENT and f"| {one_strange:,} |" in DOCUMENT
    tested = [s for s in scenes_of(1) if shapes.split_of(s) == "test"]
    assert f"Only {len(tested)} captions of one" in DOCUMENT


def test_every_color_and_every_shape_is_seen_without_the_held_out_pairs():
    colors, held_shapes = zip(*shapes.HELD_OUT, strict=True)
    assert len(set(colors)) == len(set(held_shapes)) == len(shapes.HELD_OUT) == 4
    assert set(held_shapes) == set(shapes.SHAPES) and set(colors) < set(shapes.COLORS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a small crimson circle top left", "'crimson' for a color (red, green,"),
        ("a small red disc top left", "'disc' for a shape (circle, square,"),
        ("a red circle top left", "'red' for a size (small, large)"),
        ("the small red circle top left", "'the' for the first word of a thing (a)"),
        ("a small red circle left top", "'left' for a place (top, bottom)"),
        ("a small red circle top middle", "'middle' for a place (left, right)"),
        ("a small red circle top left, a", "'left,' for a place"),
        ("a small red circle top left or", "'or' for what joins two things (and)"),
        ("a small red circle", "ends where a place is due"),
        ("", "ends where the first word of a thing is due"),
        ("a small red circle top left and", "ends where the first word"),
        (
            "a small red circle top left and a large red circle top left",
            "two things top left",
        ),
        (
            " and ".join(f"a small red circle {place}" for place in shapes.PLACES),
            "names 4 things",
        ),
    ],
)
def test_what_is_no_caption_is_told_by_the_word(text, named):
    with pytest.raises(UserError) as raised:
        shapes.parse(text)
    assert named in str(raised.value) and "\n" not in str(raised.value)


def test_things_may_come_in_any_order_and_case():
    scene = shapes.parse(
        "A large blue square bottom right\n and a Small red circle top left"
    )
    assert shapes.caption(scene).startswith("a small red circle top left and a large")


def test_splits_are_what_they_are_called():
    captions = {}
    for split in shapes.SPLITS:
        found = [shapes.example(split, i)[0] for i in range(1500)]
        captions[split] = {shapes.caption(scene) for scene in found}
        unseen = [len(pairs_in(scene) & set(shapes.HELD_OUT)) for scene in found]
        assert set(unseen) == ({1} if split == "held_out" else {0})
    tested = {text: zlib.crc32(text.encode()) % 10 == 0 for text in captions["test"]}
    assert all(tested.values())
    assert not any(zlib.crc32(text.encode()) % 10 == 0 for text in captions["train"])
    for one, other in itertools.combinations(captions.values(), 2):
        assert not one & other


def test_every_scene_is_of_one_split():
    # Of all scenes of one or two things, about a tenth of those that have no held-out
    # pair are for testing: 14,016 of them, a standard deviation is 36.
    splits = [shapes.split_of(s) for s in [*scenes_of(1), *scenes_of(2)]]
    counts = {split: splits.count(split) for split in shapes.SPLITS}
    assert counts["train"] + counts["test"] == 4 * 48 + 6 * 48**2
    assert abs(counts["test"] - 1401.6) < 4 * math.sqrt(14016 * 0.1 * 0.9)


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_words_are_equally_frequent(split):
    scenes = [shapes.example(split, i)[0] for i in range(2000)]
    of = {name: [] for name in ("number", "place", "size", "color", "shape")}
    for scene in scenes:
        of["number"].append(len(things_in(scene)))
        # Few captions of one thing are for testing, and each comes again and again.
        if split == "test" and of["number"][-1] == 1:
            continue
        for place, thing in enumerate(scene):
            if thing:
                of["place"].append(place)
                for field in thing._fields:
                    of[field].append(getattr(thing, field))
    kinds = {"number": 3, "place": 4, "size": 2, "color": 7, "shape": 4}
    for name, words in of.items():
        counts = np.unique(words, return_counts=True)[1]
        assert len(counts) == kinds[name]
        assert stats.chisquare(counts).pvalue > 1e-3, (name, counts)


def test_an_example_depends_on_its_number_alone():
    few, many = load("shapes:100"), load("shapes:1000")
    assert many.texts[:100] == few.texts
    for i in (99, 3, 50):
        np.testing.assert_array_equal(many.source[i]["image"], few.source[i]["image"])
    assert shapes.example("train", 123456)[0] == shapes.example("train", 123456)[0]
    keys = [shapes.example(split, 7)[1] for split in shapes.SPLITS]
    assert len({*keys, shapes.example("train", 8)[1]}) == 4


def test_the_data_set():
    for split, count in (("train", 20_000), ("test", 2000), ("held_out", 2000)):
        assert shapes.DEFAULT_COUNTS[split] == count
    dataset = load("shapes", split="held_out")
    assert len(dataset) == len(dataset.texts) == 2000
    assert dataset.image_shape == (32, 32, 3) and dataset.label_names is None
    assert load("shapes:5", image_size=16).source[4]["image"].shape == (16, 16, 3)
    opened = [
        load("shapes:5"),
        load("shapes:6"),
        load("shapes:5", split="test"),
        load("shapes:5", image_size=16),
    ]
    assert len({d.fingerprint for d in opened}) == 4
    assert load("shapes:5").fingerprint == opened[0].fingerprint


def test_pictures_show_what_their_captions_say():
    stream = batches(load("shapes:200"), 64, seed=1, with_text=True)
    batch = stream[2]
    seen = shapes.classify(batch["image"])
    assert [shapes.caption(scene) for scene in seen] == batch["text"].tolist()


@pytest.mark.parametrize(
    ("spec", "options", "named"),
    [
        ("shapes:", {}, "no number of examples"),
        (
            "shapes:" + "9" * 5000,
            {},
            "shapes:99999999999999999999 names no number of examples",
        ),
        ("shapes:-3", {}, "shapes:-3 names no number"),
        ("shapes:0", {}, "use one from 1"),
        ("shapes", {"image_size": 14}, "a side of 14 pixels"),
        ("shapes", {"image_size": 33}, "use an even one of 16 or more"),
        ("shapes", {"image_size": (16, 32)}, "image_size=16x32"),
        ("shapes", {"pad_to": 40}, "give image_size alone"),
        ("shapes", {"channels": 1}, "channels=1"),
        ("shapes", {"skip_broken": True}, "is for folders of images"),
    ],
)
def test_what_cannot_be_drawn(spec, options, named):
    with pytest.raises(UserError) as raised:
        load(spec, **options)
    assert named in str(raised.value) and "\n" not in str(raised.value)


def test_no_split_of_another_name():
    with pytest.raises(NoSplitError, match="use train, test, held_out"):
        load("shapes", split="all")


def test_captions_that_say_left_and_right_are_not_mirrored():
    with pytest.raises(UserError, match=r"config\.data\.flip=True mirrors images"):
        Data(source="shapes:20").open()
    dataset = Data(source="shapes:20", flip=False).open()
    assert len(dataset) == 20
    assert subset(dataset, np.array([1])).sided
    # What a mirror does: the caption of the picture is another one.
    image = dataset.source[0]["image"][None]
    assert shapes.classify(image) != shapes.classify(image[:, :, ::-1])


def test_the_example_of_the_document_runs():
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    tree = ast.parse(code)
    assert isinstance(tree.body[-1], ast.Assert)
    exec(compile(tree, "shapes.md", "exec"), {})


def test_the_document_names_what_there_is():
    said = re.sub(r"\s+", " ", DOCUMENT)
    words = [*shapes.COLORS, *shapes.SHAPES, *shapes.SIZES, *shapes.PLACES]
    assert all(f"`{word}`" in said for word in [*words, *shapes.SPLITS])
    pairs = [f"{color} {shape}" for color, shape in shapes.HELD_OUT]
    assert f"{', '.join(pairs[:-1])} and {pairs[-1]}." in said
    for split, count in shapes.DEFAULT_COUNTS.items():
        assert re.search(rf"\| `{split}` \|.*\| {count:,} \|", DOCUMENT)
