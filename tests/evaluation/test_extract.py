"""From images to scores through a function of the user's own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import Outputs, extract, from_function
from ddpm_jax.evaluation.scores import check_count, reference_of, score

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (21, 4, 5, 3), np.uint8)
COLORS = from_function("mean color", lambda images: images.mean((1, 2)))


@pytest.mark.parametrize("batch_size", [1, 8, 21, 64])
def test_every_image_is_seen_once_in_order(batch_size):
    found = extract(COLORS, IMAGES, batch_size=batch_size)
    np.testing.assert_allclose(found.features, IMAGES.mean((1, 2)), rtol=1e-6)
    assert found.logits is None


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES / 255, "values 0 to 255"),
        (IMAGES[0], "uint8 "),
        (IMAGES[..., :2], "1 or 3 channels"),
        (IMAGES[:0], "no images"),
    ],
)
def test_what_is_no_set_of_images_is_refused(images, said):
    with pytest.raises(UserError, match=said):
        extract(COLORS, images)


def test_features_that_are_not_finite_are_refused():
    # With the last image alone at fault, in a batch that is filled up with copies.
    def log(images):
        return np.float32(1) / images[:, 0, 0].astype("float32")

    images = np.ones((5, 2, 2, 3), np.uint8)
    images[4] = 0
    with pytest.raises(UserError, match="among 4 to 4 are not finite"):
        extract(from_function("inverse", log), images, batch_size=4)


_ON_DEVICES = """
import json, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from ddpm_jax.evaluation.feature_extractor import extract, from_function
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (21, 4, 5, 3), np.uint8)
mix = rng.standard_normal((60, 7)).astype(np.float32)
seen = from_function("mix", lambda x: x.reshape(len(x), -1).astype("float32") @ mix)
print(json.dumps(extract(seen, images, batch_size=6).features.tolist()))
"""


def test_two_devices_see_what_one_sees():
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _ON_DEVICES, count],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for count in "12"
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert np.shape(found[0]) == (21, 7)


def test_scores_that_cannot_be_computed_are_left_out():
    x = RNG.standard_normal((40, 3)).astype(np.float32)
    logits = RNG.standard_normal((40, 4)).astype(np.float32)
    labels = np.arange(40) % 4
    reference = reference_of(Outputs(x + 0.1, None))
    everything = score(Outputs(x, logits), reference, labels=labels)
    assert {"class_accuracy", "inception_score", "kernel_distance"} <= set(everything)
    unlabelled = score(Outputs(x, logits), reference)
    assert set(everything) - set(unlabelled) == {"class_accuracy"}
    no_logits = score(Outputs(x, None), reference, labels=labels)
    assert set(unlabelled) - set(no_logits) == {"inception_score"}
    moments_only = score(Outputs(x, None), reference._replace(features=None))
    assert set(moments_only) == {"frechet_distance", "frechet_infinity"}
    for name in moments_only:
        assert moments_only[name] == everything[name]


def test_neighborhoods_are_compared_at_equal_numbers():
    """Otherwise the larger set, whose balls are smaller, would look worse."""
    real, fake = RNG.standard_normal((2000, 2)), RNG.standard_normal((200, 2))
    names = ["precision_recall"]
    found = score(Outputs(fake, None), reference_of(Outputs(real, None)), names=names)
    assert abs(found["precision"].value - found["recall"].value) < 0.1


def test_other_features_and_too_few_images_are_refused():
    reference = reference_of(Outputs(np.eye(5), None))
    with pytest.raises(UserError, match="the same network"):
        score(Outputs(np.eye(4), None), reference)
    check_count(65, 64)
    with pytest.raises(UserError, match="score 65 or more"):
        check_count(64, 64)
