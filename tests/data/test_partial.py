"""Captions that leave things unsaid: of what they are true, and how they score."""

import collections
import itertools
import time

import numpy as np
import pytest
from scipy import stats

from ddpm_jax.data import load, shapes, subset
from ddpm_jax.data.shapes.partial import attributes_of, facts_of, holds
from ddpm_jax.errors import UserError

NUM = 600
EXAMPLES = [shapes.partial_example("train", i) for i in range(NUM)]


def things_in(scene):
    return [
        (*thing, place)
        for thing, place in zip(scene, shapes.PLACES, strict=True)
        if thing
    ]


def test_a_caption_says_what_its_description_says():
    scene = shapes.parse(
        "a small red circle top left and a large blue square bottom right"
    )
    assert shapes.partial_caption(shapes.describe(scene)) == shapes.caption(scene)
    said = shapes.describe(scene, ("color",), (1, 0))
    assert shapes.partial_caption(said) == "a blue square and a red circle"
    assert shapes.parse_partial("A blue square\nand a red circle") == said
    assert shapes.parse_partial("a circle bottom left") == (
        shapes.Phrase(None, None, "circle", "bottom left"),
    )
    for scene, _, said in EXAMPLES:
        text = shapes.partial_caption(said)
        assert shapes.parse_partial(text) == said
        assert shapes.is_true(said, scene)
        if all(None not in phrase for phrase in said):
            assert text == shapes.caption(scene)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a crimson circle", "'crimson' for a shape (circle,"),
        ("a red", "ends where a shape is due"),
        ("red circle", "'red' for the first word of a thing (a)"),
        ("a circle top", "ends where a place is due (left, right)"),
        ("a circle top middle", "'middle' for a place (left, right)"),
        ("a circle or a square", "'or' for what joins two things (and)"),
        ("a circle top left and a square top left", "two things top left"),
        (" and ".join(["a circle"] * 4), "names 4 things"),
        ("", "ends where the first word"),
    ],
)
def test_what_is_no_caption_is_told_by_the_word(text, named):
    with pytest.raises(UserError) as raised:
        shapes.parse_partial(text)
    assert named in str(raised.value) and "\n" not in str(raised.value)


def test_each_attribute_is_left_out_of_half_of_the_captions_and_of_all_things_alike():
    for name in ("size", "color", "place"):
        for _, _, said in EXAMPLES:
            assert len({getattr(phrase, name) is None for phrase in said}) == 1
        left_out = sum(getattr(said[0], name) is None for _, _, said in EXAMPLES)
        assert abs(left_out - NUM / 2) < 4 * np.sqrt(NUM) / 2
    count = collections.Counter(len(said) for _, _, said in EXAMPLES)
    assert (
        stats.chisquare([count[n] for n in (1, 2, 3)], NUM * np.r_[2, 1, 1] / 4)[1]
        > 1e-3
    )
    assert all(phrase.shape for _, _, said in EXAMPLES for phrase in said)


def test_where_places_are_not_said_the_order_says_nothing_of_them():
    """Of two things without places either is named first as often."""
    first = [
        things_in(scene)[0][2] == said[0].shape
        for scene, _, said in EXAMPLES
        if len(said) == 2
        and said[0].place is None
        and len({thing[2] for thing in things_in(scene)}) == 2
    ]
    assert len(first) > 30
    assert abs(np.mean(first) - 0.5) < 4 * 0.5 / np.sqrt(len(first))
    with_places = [
        said for _, _, said in EXAMPLES if len(said) > 1 and said[0].place is not None
    ]
    order = [[shapes.PLACES.index(p.place) for p in said] for said in with_places]
    assert order and all(places == sorted(places) for places in order)


def true_by_hand(said, scene):
    """Count phrases and things that could be paired, by a search of its own."""
    things = things_in(scene)

    def pair(phrases, left):
        if not phrases:
            return not left
        for i, thing in enumerate(left):
            pairs = zip(phrases[0], thing, strict=True)
            agree = all(a is None or a == b for a, b in pairs)
            if agree and pair(phrases[1:], left[:i] + left[i + 1 :]):
                return True
        return False

    return pair(list(said), things)


def test_the_rule_in_numbers_is_the_rule():
    facts = np.stack([facts_of(scene, said) for scene, _, said in EXAMPLES])
    some = slice(0, 150)
    table = holds(facts[some], facts[some])
    assert table.shape == (150, 150) and table.diagonal().all()
    expected = [
        [true_by_hand(EXAMPLES[j][2], EXAMPLES[i][0]) for j in range(150)]
        for i in range(150)
    ]
    np.testing.assert_array_equal(table, expected)
    assert [
        [shapes.is_true(EXAMPLES[j][2], EXAMPLES[i][0]) for j in range(150)]
        for i in range(150)
    ] == expected
    off = table.sum() - 150  # captions that are true of the image of another
    assert 0.005 < off / (150 * 149) < 0.1
    # Scenes of three things, of which two are alike but for what is not said.
    scene = shapes.parse(
        "a small red circle top left and a large red circle top right and a small "
        "blue cross bottom left"
    )
    texts = {
        "a red circle and a red circle and a cross": True,
        "a large circle and a small circle and a small cross": True,
        "a large circle and a large circle and a cross": False,
        "a red circle top right and a circle and a cross": True,
        "a red circle and a cross": False,
        "a red circle and a red circle and a cross top left": False,
    }
    for text, is_true in texts.items():
        said = shapes.parse_partial(text)
        assert shapes.is_true(said, scene) == is_true, text
        one = facts_of(scene, said)[None]
        assert holds(one, one)[0, 0] == is_true, text


def test_a_batch_is_ruled_in_a_moment():
    facts = np.stack([facts_of(scene, said) for scene, _, said in EXAMPLES[:256]])
    started = time.perf_counter()
    holds(facts, facts)
    assert time.perf_counter() - started < 2.0


def test_the_data_set_has_the_rule():
    dataset = load("shapes:partial:40", image_size=16)
    assert len(dataset) == len(dataset.texts) == len(dataset.rule.facts) == 40
    assert dataset.name == "shapes:partial:40" and dataset.sided
    assert dataset.rule.holds(dataset.rule.facts, dataset.rule.facts).diagonal().all()
    part = subset(dataset, np.array([7, 3]))
    assert part.texts == (dataset.texts[7], dataset.texts[3])
    np.testing.assert_array_equal(part.rule.facts, dataset.rule.facts[[7, 3]])
    seen = shapes.classify(np.stack([dataset.source[i]["image"] for i in range(40)]))
    for scene, text in zip(seen, dataset.texts, strict=True):
        assert shapes.is_true(shapes.parse_partial(text), scene)
    fingerprints = {
        load(name, image_size=16).fingerprint
        for name in ("shapes:40", "shapes:partial:40", "shapes:partial:41")
    }
    assert len(fingerprints) == 3
    assert load("shapes:5").rule is None
    for name in ("shapes:partial:", "shapes:partial:x", "shapes:part"):
        with pytest.raises(UserError, match="names no number"):
            load(name)


def test_the_classes_of_images_are_those_of_their_scenes():
    facts = np.stack([facts_of(scene, said) for scene, _, said in EXAMPLES])
    found = attributes_of(facts)
    for i, (scene, _, _) in enumerate(EXAMPLES):
        things = things_in(scene)
        assert found["count"][i] == len(things) - 1
        classes = [found[name][i] for name in ("size", "color", "shape", "place")]
        if len(things) > 1:
            assert classes == [-1] * 4
            continue
        words = [shapes.SIZES, shapes.COLORS, shapes.SHAPES, shapes.PLACES]
        pairs = zip(words, classes, strict=True)
        assert tuple(list(known)[c] for known, c in pairs) == things[0]


def test_only_what_is_said_is_right_or_wrong():
    said = shapes.parse_partial("a red circle")
    seen = shapes.parse("a large red circle bottom left")
    found = shapes.partial_agreement(said, seen)
    assert found.scene and found.things and found.count and found.color and found.shape
    assert found.size is None and found.place is None
    assert found.unsaid == {"size": ("large",), "place": ("bottom left",), "color": ()}
    found = shapes.partial_agreement(said, shapes.parse("a large blue circle top left"))
    assert found.shape and found.color is False and not found.scene
    two = shapes.parse("a large red circle top left and a large red cross top right")
    found = shapes.partial_agreement(said, two)
    assert found.color and found.shape and not found.count and not found.scene
    assert found.unsaid["place"] == ("top left",)
    unclear = (shapes.Thing("unknown", "red", "circle"), None, None, None)
    found = shapes.partial_agreement(said, unclear)
    assert found.scene and found.unsaid["size"] == ("unknown",)
    nothing = shapes.partial_agreement(said, (None,) * 4)
    assert not nothing.count and not nothing.color and nothing.unsaid["place"] == ()
    # Phrases find their things: the order in which they are named says nothing.
    said = shapes.parse_partial("a cross and a circle")
    found = shapes.partial_agreement(said, two)
    assert found.scene and found.unsaid["place"] == ("top right", "top left")


def test_all_that_is_said_right_is_that_the_caption_is_true():
    scenes = [scene for scene, _, _ in EXAMPLES[:60]]
    for (_, _, said), scene in itertools.product(EXAMPLES[:60], scenes):
        found = shapes.partial_agreement(said, scene)
        assert found.scene == shapes.is_true(said, scene)


def test_the_law_of_what_is_unsaid_is_that_of_the_examples():
    said = shapes.parse_partial("a red circle")
    law = shapes.unsaid_law(said)
    assert set(law) == {"size", "place"}
    for words in law.values():
        assert sum(words.values()) == pytest.approx(1.0)
    drawn = collections.defaultdict(collections.Counter)
    scenes = (shapes.partial_example("train", i)[0] for i in range(6000))
    for scene in scenes:
        (thing, *others) = things_in(scene)
        if not others and shapes.is_true(said, scene):
            drawn["size"][thing[0]] += 1
            drawn["place"][thing[3]] += 1
    for name, words in law.items():
        counts = [drawn[name][word] for word in words]
        expected = np.array(list(words.values())) * sum(counts)
        kept = expected > 0
        assert not np.any(np.array(counts)[~kept])
        assert stats.chisquare(np.array(counts)[kept], expected[kept]).pvalue > 1e-3
    full = shapes.parse_partial("a small red circle top left")
    assert shapes.unsaid_law(full) == {}
