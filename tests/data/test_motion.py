"""Moving digits: what is drawn is what the rule says, and is measured again."""

import os

import numpy as np
import pytest

from ddpm_jax.data import motion
from ddpm_jax.data.motion import rule
from ddpm_jax.data.sources import load
from ddpm_jax.errors import UserError


@pytest.fixture(scope="module")
def still():
    """The digits that move in the training split: [N, 8, 8] in [0, 1], labels."""
    items, labels = load("digits").source.items, load("digits").source.labels
    return items[..., 0] / 255.0, labels


@pytest.fixture(scope="module")
def drawn():
    return motion.examples("train", 400, 1498, 8)


@pytest.fixture(scope="module")
def clips(still, drawn):
    where = motion.positions(drawn.start, drawn.velocity, 8, 8)
    return motion.draw(still[0][drawn.digit], where, 16)


# --- The rule -------------------------------------------------------------------------


def test_places_are_those_of_a_ball_that_flies_and_bounces(drawn):
    """A simulation by small steps, exact but for the steps in which it meets a wall."""
    fine, room = 512, 8.0
    found = motion.positions(drawn.start, drawn.velocity, 8, room)
    place, velocity = drawn.start.copy(), drawn.velocity / fine
    worst = np.abs(velocity).max()
    for step in range(7 * fine + 1):
        if step % fine == 0:
            np.testing.assert_allclose(
                found[:, step // fine], place, atol=2 * worst + 1e-9
            )
        place = place + velocity
        hit = (place < 0) | (place > room)
        velocity = np.where(hit, -velocity, velocity)
        place = np.clip(place, 0, room)
    assert hit.shape == (400, 2)
    assert ((found > 0) & (found < room)).all()


def test_bounces_are_at_their_time():
    """From 6 at 1.5 a frame the wall at 8 is met at 4/3 of a frame."""
    where = motion.positions(np.asarray([[6.0, 1.0]]), np.asarray([[1.5, 0.0]]), 4, 8)
    np.testing.assert_allclose(where[0, :, 0], [6, 7.5, 7, 5.5], atol=1e-12)
    np.testing.assert_array_equal(where[0, :, 1], 1)
    # A room away and back is where it began.
    np.testing.assert_allclose(motion.reflect(np.asarray(3.0 + 2 * 16), 8), 3)
    np.testing.assert_allclose(motion.reflect(np.asarray(-3.0), 8), 3)


def test_speeds_are_kept_and_in_their_range(drawn):
    pace = np.linalg.norm(drawn.velocity, axis=1)
    low, high = np.asarray(list(motion.SPEEDS.values()))[drawn.speed].T
    assert ((pace >= low) & (pace <= high)).all()
    # Away from the walls all steps are the velocity.
    where = motion.positions(drawn.start + 1e3, drawn.velocity, 8, 1e6)
    np.testing.assert_allclose(
        np.diff(where, axis=1), np.repeat(drawn.velocity[:, None], 7, 1), atol=1e-9
    )


def test_all_kinds_are_as_frequent(drawn):
    """16 of them in 400: each 25 +- 4.8; the chi-squared of 15 degrees, 0.1%."""
    counts = np.bincount(drawn.direction * 2 + drawn.speed, minlength=16)
    assert ((counts - 25) ** 2 / 25).sum() < 37.7
    assert len(np.unique(drawn.digit)) > 300
    assert (drawn.start.min(), drawn.start.max()) == pytest.approx((0, 8), abs=0.1)
    # No wall is met in the first step.
    after = drawn.start + drawn.velocity
    assert ((after >= 0) & (after <= 8)).all()


def test_an_example_is_a_function_of_its_number(drawn):
    fewer = motion.examples("train", 7, 1498, 8)
    for some, all_ in zip(fewer, drawn, strict=True):
        np.testing.assert_array_equal(some, all_[:7])
    other = motion.examples("test", 7, 1498, 8)
    assert not np.allclose(other.start, fewer.start)


def test_captions_are_read_back():
    seen = set()
    for direction in range(8):
        for speed in range(2):
            text = motion.caption("7", direction, speed)
            assert motion.parse(text) == ("7", direction, speed)
            seen.add(text)
    assert len(seen) == 16
    assert motion.caption("7", 4, 1) == "a 7 moving fast to the left"
    assert motion.caption("0", 6, 0) == "a 0 moving slowly up"
    for wrong in ("a 7", "a 7 moving", "7 moving fast up", "a 7 8 moving fast up", ""):
        with pytest.raises(UserError, match="no caption of motion"):
            motion.parse(wrong)


# --- Pixels ---------------------------------------------------------------------------


def test_centroids_move_as_the_rule_says(still, drawn, clips):
    """To the rounding of float64: the promise of 1e-3 pixels with room."""
    pictures = still[0][drawn.digit]
    where = motion.positions(drawn.start, drawn.velocity, 8, 8)
    expected = motion.centroids(pictures)[:, None] + where
    np.testing.assert_allclose(motion.centroids(clips), expected, atol=1e-9)
    # No light is lost.
    total = pictures.sum(axis=(1, 2))[:, None]
    np.testing.assert_allclose(clips.sum(axis=(2, 3)), total + np.zeros(8), rtol=1e-12)


def test_bytes_are_within_their_rounding(clips):
    """A byte rounds by up to 1/510; over 64 pixels of 9 by 9 at most that adds up to
    sqrt(81) * .289 / 255 * 4 / (about 15 of light) = 3e-3 pixels at one deviation."""
    stored = np.rint(clips * 255) / 255
    off = motion.centroids(stored) - motion.centroids(clips)
    assert np.sqrt(np.mean(off**2)) < 3e-3
    assert np.abs(off).max() < 0.02


def test_whole_pixels_are_exact(still):
    picture = still[0][:1]
    clip = motion.draw(picture, np.asarray([[[3.0, 5.0]]]), 16)[0, 0]
    np.testing.assert_array_equal(clip[3:11, 5:13], picture[0])
    assert clip.sum() == pytest.approx(picture.sum(), rel=1e-12)


# --- Reading --------------------------------------------------------------------------


def test_what_was_drawn_is_measured(drawn, clips):
    read = motion.read_motion(clips, floor=0.0)
    assert read.error.max() < 1e-9 and np.abs(read.pace_change - 1).max() < 1e-9
    np.testing.assert_array_equal(read.direction, drawn.direction)
    np.testing.assert_array_equal(read.speed, drawn.speed)
    # Without the darkest pixels centroids move a little, as digits do between pixels.
    read = motion.read_motion(np.rint(clips * 255) / 255)
    assert np.sqrt(np.mean(read.error**2)) < 0.03
    assert np.std(read.pace_change) < 0.02
    np.testing.assert_array_equal(read.direction, drawn.direction)
    np.testing.assert_array_equal(read.speed, drawn.speed)


def test_without_walls_reading_is_exact(still, drawn):
    start = np.full((400, 2), 20.0)
    where = start[:, None] + np.arange(8)[None, :, None] * drawn.velocity[:, None]
    clips = motion.draw(still[0][drawn.digit], where, 48)
    read = motion.read_motion(clips, floor=0.0)
    assert read.error.max() < 1e-9
    np.testing.assert_allclose(read.pace_change, 1, atol=1e-9)
    np.testing.assert_array_equal(read.direction, drawn.direction)
    np.testing.assert_array_equal(read.speed, drawn.speed)


def test_frames_that_know_nothing_of_each_other_are_found_out(clips, still):
    rng = np.random.default_rng(0)
    where = rng.uniform(0, 8, (400, 8, 2))
    shuffled = motion.draw(still[0][:400], where, 16)
    alone = np.nanmean(motion.read_motion(shuffled).error)
    assert alone > 20 * np.nanmean(motion.read_motion(clips).error)


def test_a_digit_is_known_wherever_it_is(still, drawn, clips):
    pictures, labels = still
    found = motion.nearest_digits(clips[:, 3], pictures, labels)
    assert np.mean(found == labels[drawn.digit]) > 0.97
    # Pictures of the other split are not among those known.
    test = load("digits", split="test").source
    moved = motion.draw(
        test.items[..., 0] / 255.0, np.full((299, 1, 2), [2.3, 5.8]), 16
    )
    unseen = motion.nearest_digits(moved[:, 0], pictures, labels)
    assert np.mean(unseen == test.labels) > 0.95


# --- The data set ---------------------------------------------------------------------


def test_it_is_opened_by_its_name(still, monkeypatch):
    monkeypatch.setitem(motion.source.COUNTS, "train", 50)
    data = load("motion:digits")
    assert data.shape == (8, 16, 16, 1) and data.dtype == np.uint8
    assert len(data) == len(data.texts) == 50 and data.sided
    drawn = motion.examples("train", 50, 1498, 8)
    labels = still[1][drawn.digit]
    np.testing.assert_array_equal(data.source.labels, labels)
    for text, label, direction, speed in zip(
        data.texts, labels, drawn.direction, drawn.speed, strict=True
    ):
        assert motion.parse(text) == (str(label), direction, speed)
    # A longer clip goes on where the shorter one ends.
    longer = load("motion:digits:12")
    np.testing.assert_array_equal(longer.source.items[:, :8], data.source.items)
    assert longer.fingerprint != data.fingerprint
    assert load("motion:digits", image_size=20).shape == (8, 20, 20, 1)
    assert load("motion:digits", split="test").shape == (8, 16, 16, 1)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("motion:cats", {}, "use motion:digits or motion:mnist"),
        ("motion:digits:0", {}, "from 1 to 1024"),
        ("motion:digits:x", {}, "from 1 to 1024"),
        ("motion:digits", {"split": "all"}, "use train, test"),
        ("motion:digits", {"image_size": 8}, "no room to move; use 12 or more"),
        ("motion:digits", {"image_size": (16, 20)}, "are square"),
        ("motion:digits", {"channels": 3}, "use 1"),
        ("motion:digits", {"pad_to": 32}, "image_size alone"),
        ("motion:digits", {"hold_out": 5}, "is not one"),
        ("motion:digits", {"resize": "squash"}, "resize='squash' does nothing"),
        ("motion:digits:1000", {"image_size": 4000}, "of memory"),
    ],
)
def test_what_cannot_be_is_one_line(name, options, said):
    with pytest.raises(UserError, match=said) as refusal:
        load(name, **options)
    assert "\n" not in str(refusal.value)


def test_captions_that_say_left_are_not_mirrored():
    from ddpm_jax.data.spec import Data

    with pytest.raises(UserError, match="say left and right"):
        Data(source="motion:digits").open()


@pytest.mark.skipif(
    not os.environ.get("DDPM_JAX_DATA"), reason="DDPM_JAX_DATA is not set"
)
def test_mnist_moves_as_well(monkeypatch):
    monkeypatch.setitem(motion.source.COUNTS, "test", 20)
    root = f"{os.environ['DDPM_JAX_DATA']}/tensorflow_datasets"
    data = load("motion:mnist", split="test", data_dir=root)
    assert data.shape == (8, 32, 32, 1)
    lit = data.source.items.max(axis=(2, 3, 4))
    assert lit.min() > 100
    assert rule.parse(data.texts[0])[0] in data.label_names
