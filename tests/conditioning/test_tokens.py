"""Tokenizers: numbers by hand, and one line for what cannot be read."""

import json

import numpy as np
import pytest

from ddpm_jax.conditioning import Bytes, Words, reopen
from ddpm_jax.conditioning.tokens import split
from ddpm_jax.errors import UserError

CAPTIONS = ["A red circle.", "a BLUE square, a red circle", "don't"]
# Sorted: , . a blue circle don't red square = 2 to 9.


@pytest.fixture
def words():
    return Words.learn(CAPTIONS)


def test_words_by_hand(words):
    assert words.words == (",", ".", "a", "blue", "circle", "don't", "red", "square")
    assert words.vocabulary_size == 10
    assert words.max_length == 7  # a blue square , a red circle
    ids, mask = words.tokenize(["a Red\tsquare", CAPTIONS[1]])
    expected = [[4, 8, 9, 0, 0, 0, 0], [4, 5, 9, 2, 4, 8, 6]]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(mask, np.array(expected) > 0)
    assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t go!?", ["don’t", "go", "!", "?"]),
        ("e\u0301te\u0301 Über", ["\u00e9t\u00e9", "über"]),  # two ways to write é
        ("t-shirt, 3.5", ["t", "-", "shirt", ",", "3", ".", "5"]),
        ("猫 и кот", ["猫", "и", "кот"]),
        (" \n\t", []),
    ],
)
def test_splitting(text, expected):
    assert split(text) == expected


def test_order_of_captions_makes_no_difference(words):
    assert Words.learn(CAPTIONS[::-1]) == words


def test_rare_words_are_unknown_and_numbered_one():
    words = Words.learn(CAPTIONS, min_count=2)
    assert words.words == ("a", "circle", "red")
    ids, mask = words.tokenize(["a purple circle"], strict=False)
    np.testing.assert_array_equal(ids[0, :3], [2, 1, 3])
    assert mask.sum() == 3


def test_words_never_seen_are_listed_once_with_what_is_known(words):
    with pytest.raises(UserError) as caught:
        words.read(["a red circle", "a purple dog, purple circel"])
    message = str(caught.value)
    assert "\n" not in message
    assert "never seen: purple, dog, circel; it knows a, blue, circle, d" in message


def test_of_a_large_vocabulary_the_nearest_are_named():
    words = Words.learn([f"thing{i} circle" for i in range(40)])
    with pytest.raises(UserError, match="circel, zzz; it knows circle for circel\\."):
        words.read(["circel zzz"])
    with pytest.raises(UserError, match="zzz; it knows none like them"):
        words.read(["zzz"])


@pytest.mark.parametrize("make", [lambda: Words.learn(CAPTIONS, 3), lambda: Bytes(5)])
def test_empty_and_long_prompts_are_refused(make):
    with pytest.raises(UserError, match="the prompt '' is empty"):
        make().read(["a", " \n "])
    # 5 words and 11 bytes.
    count = {3: "has 5 tokens, and 3 fit", 5: "has 9 bytes, and 5 fit"}
    with pytest.raises(UserError, match=count[make().max_length]):
        make().read(["a", "a a a a a"])


def test_learning_needs_words():
    with pytest.raises(UserError, match="2 captions have no word"):
        Words.learn(["", "  "])
    with pytest.raises(UserError, match="no word 9 times"):
        Words.learn(CAPTIONS, min_count=9)


def test_bytes_by_hand():
    bytes_ = Bytes(6)
    ids, mask = bytes_.tokenize(["aé", "\x00z€"])
    # a = 97; é = C3 A9; z = 122; the euro sign = E2 82 AC; each plus one.
    np.testing.assert_array_equal(
        ids, [[98, 196, 170, 0, 0, 0], [1, 123, 227, 131, 173, 0]]
    )
    np.testing.assert_array_equal(mask.sum(1), [3, 5])
    # The last of Unicode, F4 8F BF BF, and half of a surrogate pair, which is no text.
    np.testing.assert_array_equal(
        Bytes(4).tokenize(["\U0010ffff", "\ud800"]).ids,
        [[245, 144, 192, 192], [ord("?") + 1, 0, 0, 0]],
    )
    assert bytes_.vocabulary_size == 257


@pytest.mark.parametrize("tokenizer", [Words.learn(CAPTIONS, 9), Bytes(12)])
def test_a_checkpoint_remembers_a_tokenizer(tokenizer):
    again = reopen(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    np.testing.assert_array_equal(
        again.read(["a red"])[0], tokenizer.read(["a red"])[0]
    )


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"kind": "words", "max_length": 3}, "lacks a sorted list of words"),
        ({"kind": "words", "max_length": 3, "words": ["b", "a"]}, "sorted"),
        ({"kind": "words", "words": ["a"]}, "lacks a max_length"),
        ({"kind": "bytes", "max_length": 0}, "lacks a max_length"),
        ({"kind": "sentences"}, "'sentences', which this version does not know"),
        ({}, "does not know"),
    ],
)
def test_damaged_metadata_is_refused(stored, said):
    with pytest.raises(UserError, match=said):
        reopen(stored)
