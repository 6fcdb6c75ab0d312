"""metadata.jsonl: what is read, and every fault named by its line."""

import json

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import batches, decoded, load, subset
from ddpm_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["a.png", "b.png", "deep/c.png", "d.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / name)
    return tmp_path


def describe(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def refused(folder, **options):
    with pytest.raises(UserError) as raised:
        load(f"folder:{folder}", **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_captions_and_classes_belong_to_their_pictures_in_the_order_of_the_lines(
    folder,
):
    describe(
        folder,
        {"file_name": "deep/c.png", "text": "größer", "label": "x", "extra": [1]},
        "",
        {"file_name": "./a.png", "text": "a", "label": "y"},
        {"file_name": "b.png", "text": "b", "label": "x"},
    )
    dataset = load(f"folder:{folder}")
    assert dataset.texts == ("größer", "a", "b")
    assert dataset.label_names == ("x", "y")
    assert "Left out, since metadata.jsonl does not name them: 1." in dataset.note
    whole = decoded(dataset)
    np.testing.assert_array_equal(whole.source.items[:, 0, 0, 0], [2, 0, 1])
    np.testing.assert_array_equal(whole.source.labels, [0, 1, 0])
    assert whole.texts == dataset.texts
    assert subset(whole, np.array([2, 0])).texts == ("b", "größer")


def test_separators_of_lines_within_a_caption_are_part_of_it(folder):
    text = "one\u2028two\u2029three\x85four\x0bfive"
    raw = json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False)
    # JSON escapes control characters below U+0020 alone.
    describe(folder, raw, {"file_name": "b.png", "text": "b"})
    assert load(f"folder:{folder}").texts == (text, "b")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file_name": "a.png", "label": ' + "9" * 5000 + "}", "too many digits"),
        ("[" * 100_000, "line 1 is nested too deep"),
        ('{"file_name": "a.png", "x": ' + "[" * 100_000 + "}", "nested too deep"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "lone surrogate) in 'text'"),
        ('{"file_name": "a.png", "label": "\\ud800"}', "lone surrogate) in 'label'"),
        (json.dumps({"file_name": "n" * 10**6}), "nnn...', and there is no such"),
    ],
)
def test_what_json_can_hold_and_a_caption_cannot_is_one_short_line(folder, line, said):
    describe(folder, line)
    message = refused(folder)
    assert said in message and len(message) < 500


def test_batches_carry_captions_where_asked(folder):
    names = ["a.png", "b.png", "d.png"]
    describe(folder, *({"file_name": n, "text": f"this is {n}"} for n in names))
    dataset = load(f"folder:{folder}")
    assert set(batches(dataset, 2, seed=0)[0]) == {"image"}
    batch = batches(dataset, 6, seed=0, with_text=True)[0]
    value = {0: "a.png", 1: "b.png", 3: "d.png"}
    expected = [f"this is {value[int(image[0, 0, 0])]}" for image in batch["image"]]
    assert batch["text"].tolist() == expected


def test_captions_that_are_not_there_cannot_be_asked_for(folder):
    with pytest.raises(UserError, match="has no captions"):
        batches(load(f"folder:{folder}"), 2, seed=0, with_text=True)


def test_whole_numbers_are_classes_in_their_order(folder):
    names, labels = ["a.png", "b.png", "d.png"], [10, 9, 10]
    rows = [{"file_name": n, "label": k} for n, k in zip(names, labels, strict=True)]
    describe(folder, *rows)
    dataset = load(f"folder:{folder}")
    assert dataset.label_names == ("9", "10") and dataset.texts is None
    np.testing.assert_array_equal(decoded(dataset).source.labels, [1, 0, 1])


def test_another_field_may_hold_the_class(folder):
    describe(
        folder,
        {"file_name": "a.png", "kind": "round"},
        {"file_name": "b.png", "kind": "flat"},
    )
    assert load(f"folder:{folder}").label_names is None
    named = load(f"folder:{folder}", label_field="kind")
    assert named.label_names == ("flat", "round")
    assert "has no field 'kinds'" in refused(folder, label_field="kinds")


def test_a_field_needs_a_file(folder):
    assert "no such file" in refused(folder, label_field="kind")


def test_the_fingerprint_follows_the_captions(folder):
    describe(folder, {"file_name": "a.png", "text": "one"})
    before = load(f"folder:{folder}").fingerprint
    describe(folder, {"file_name": "a.png", "text": "two"})
    assert load(f"folder:{folder}").fingerprint != before


GOOD = {"file_name": "a.png", "text": "a", "label": "x"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"file_name": "b.png", ', "line 2 is not JSON"),
        ("[1, 2]", "line 2 is a list, not an object"),
        ({"text": "b"}, "line 2 has no 'file_name'"),
        ({"file_name": 3}, "line 2 has no 'file_name'"),
        ({"file_name": "nowhere.png"}, "line 2 names 'nowhere.png', and there is no"),
        ({"file_name": "../a.png"}, "line 2 names '../a.png', and there is no"),
        ({**GOOD, "file_name": "b.png", "text": 3}, "line 2 has a 'text' that is a"),
        ({**GOOD, "file_name": "b.png", "label": 0.5}, "'label' that is a float"),
        ({**GOOD, "file_name": "b.png", "label": True}, "'label' that is a bool"),
        ({**GOOD, "file_name": "b.png", "label": 7}, "line 2 mixes words and numbers"),
        ({"file_name": "b.png", "label": "x"}, "line 2 has no 'text', which others"),
        ({"file_name": "b.png", "text": "b"}, "line 2 has no 'label', which others"),
        (GOOD, "line 2 names 'a.png', as does line 1"),
    ],
)
def test_a_fault_is_named_by_its_line(folder, row, message):
    describe(folder, GOOD, row)
    assert message in refused(folder)


def test_all_faults_are_counted_and_the_first_named(folder):
    describe(folder, "{", GOOD, "{", "", "{", "{", "{")
    message = refused(folder)
    assert "line 1 is not JSON" in message and "line 5 is not JSON" in message
    assert "and 2 more" in message and "line 6" not in message


def test_an_empty_file_and_one_that_is_not_utf8(folder):
    describe(folder, "", "")
    assert "has no lines" in refused(folder)
    (folder / "metadata.jsonl").write_bytes(b"\xff\xfe\x00{")
    assert "UTF-8" in refused(folder)
