"""The scores of clips: perfect for real ones, and each shows its own fault."""

import numpy as np
import pytest

from benchmarks import motion_scores
from ddpm_jax import data


@pytest.fixture(scope="module")
def real():
    """Real clips of the test split [N, F, H, W], with their captions."""
    test = data.load("motion:digits", split="test")
    return test.source.items[:96, ..., 0] / 255, list(test.texts[:96])


@pytest.fixture(scope="module")
def known(real):
    return motion_scores.known_of("motion:digits", real[0])


def test_real_clips_score_as_real(real, known):
    clips, captions = real
    found = motion_scores.scores_of(clips, captions, known)
    assert found.error < 0.05 and found.pace < 0.05
    assert found.direction == found.speed == 1
    assert found.same > 0.95 and found.digit > 0.95
    assert found.distance < 1
    assert abs(found.brightness) < 0.02


def test_each_fault_moves_its_own_score(real, known):
    clips, captions = real
    plain = motion_scores.scores_of(clips, captions, known)
    rng = np.random.default_rng(0)
    # Frames that know nothing of each other.
    shuffled = np.stack([rng.permutation(one) for one in np.moveaxis(clips, 1, 0)], 1)
    found = motion_scores.scores_of(shuffled, captions, known)
    assert found.error > 10 * plain.error and found.direction < 0.5
    assert found.distance == pytest.approx(plain.distance)
    turned = [captions[i - 1] for i in range(len(captions))]  # captions of others
    found = motion_scores.scores_of(clips, turned, known)
    assert found.error == plain.error and found.digit < 0.4 and found.direction < 0.4
    fading = clips * np.linspace(1, 0.5, clips.shape[1])[:, None, None]
    found = motion_scores.scores_of(fading, captions, known)
    assert found.brightness == pytest.approx(-0.5, abs=0.02)
    assert found.distance > 1.2 * plain.distance
    swapped = clips.copy()
    swapped[:, -1] = np.roll(clips[:, -1], 1, axis=0)
    found = motion_scores.scores_of(swapped, captions, known)
    assert found.same < 0.4 and found.digit == plain.digit
    found = motion_scores.scores_of(fading, captions, known, start=3)
    share = np.linspace(1, 0.5, clips.shape[1])[3]
    assert found.brightness == pytest.approx(0.5 / share - 1, abs=0.02)
