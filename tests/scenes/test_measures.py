"""Measures of scenes, by values that a hand can compute."""

import math

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, measures
from ddpm_jax.scenes.solids import SOLIDS, render

GREY = np.full((2, 3, 4, 4, 3), 0.5)


def test_psnr_by_hand():
    other = GREY.copy()
    other[0] += 0.1  # mean squared error .01: 20 dB
    other[1, 0, 0, 0, 0] += 0.2  # .04 in one of 48 values
    found = measures.psnr(GREY, other)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[0], 20)
    assert found[1, 0] == pytest.approx(-10 * math.log10(0.04 / 48))
    assert np.isinf(found[1, 1:]).all()
    with pytest.raises(UserError, match="not comparable"):
        measures.psnr(GREY, GREY[..., :2, :])


def test_janus_bins_counts_views_that_are_nearest_to_another():
    truths = np.arange(8)[:, None, None, None] / 8 + np.zeros((8, 2, 2, 3))
    assert measures.janus_bins(truths, truths) == 0
    assert measures.janus_bins(truths + 0.05, truths) == 0  # less than half a step
    two_faced = truths.copy()
    two_faced[4] = truths[0]
    assert measures.janus_bins(two_faced, truths) == 1
    assert measures.janus_bins(truths[[0] * 8], truths) == 7  # the front all around
    assert measures.janus_bins(np.roll(truths, 1, axis=0), truths) == 8


def test_iou_by_hand():
    one, two = np.zeros((2, 1, 4, 4))
    one[0, :2], two[0, 1:3] = 0.9, 0.5  # two rows each, one of them common
    assert measures.opacity_iou(one, two) == pytest.approx(4 / 12)
    assert measures.opacity_iou(one, one) == 1
    assert measures.opacity_iou(0 * one, 0 * one) == 1
    assert measures.opacity_iou(one, 0 * one) == 0
    assert measures.opacity_iou(one, two, threshold=0.6) == 0


def test_angles_of_normals_by_hand():
    """30 and 90 degrees; a pixel without a normal, and one mostly averaged away."""
    truth = np.zeros((1, 2, 2, 3))
    truth[..., 2] = 1.0
    found = np.zeros((1, 2, 2, 3))
    found[0, 0, 0] = 0.0, 0.5, math.sqrt(0.75)
    found[0, 0, 1] = 0.8, 0.0, 0.0  # of any length
    found[0, 1, 0] = 0.4, 0.0, 0.0
    assert measures.normal_error(found, truth) == pytest.approx(60)
    truth[0, 0, 1] = 0.0
    assert measures.normal_error(found, truth) == pytest.approx(30)
    assert math.isnan(measures.normal_error(0 * found, truth))


def test_saturation_counts_values_inside_of_the_thing():
    images = np.ones((1, 2, 2, 3))  # all white
    opacities = np.array([[[1.0, 0.5], [0.4, 0.0]]])
    images[0, 0, 0] = 0.5, 0.01, 1.0
    assert measures.saturated_share(images, opacities) == pytest.approx(5 / 6)
    assert measures.saturated_share(images, 0 * opacities) == 0
    images[0, 0] = 0.03
    assert measures.saturated_share(images, opacities) == 0
    assert measures.saturated_share(images, opacities, margin=0.04) == 1


def test_empty_and_full():
    found = [measures.is_empty_or_full(np.full((2, 4, 4), a)) for a in (0, 0.03, 0.99)]
    assert found == [True, False, True]


def test_held_out_cameras_lie_between_the_bins():
    held_out = measures.held_out_cameras()
    degrees = np.rad2deg(held_out.azimuth)
    beside = np.abs((degrees + 22.5) % 45 - 22.5)
    np.testing.assert_allclose(beside, 11.25, atol=1e-4)
    bins = np.asarray(cameras.azimuth_bins(held_out, 8))
    np.testing.assert_array_equal(np.bincount(bins), [2] * 8)
    assert len(set(np.rad2deg(held_out.elevation).round().tolist())) == 4


def of(solid, **options):
    def renderer(camera):
        found = render(SOLIDS[solid], camera, 16, **options)
        return found.image, found.opacity

    return renderer


def test_a_solid_is_itself_and_a_thing_with_two_faces_is_not():
    truth = SOLIDS["snowman"]
    same = measures.measure(truth, of("snowman"), 16)
    assert same.psnr == math.inf and same.iou == 1 and same.janus == 0
    assert same.saturated < 0.2 and not same.empty_or_full

    def two_faced(camera):
        """Show at the back what is at the front."""
        ahead = np.cos(np.asarray(camera.azimuth)) > -1e-6
        turned = np.where(ahead, camera.azimuth, camera.azimuth + np.pi)
        return of("snowman")(camera._replace(azimuth=turned))

    janus = measures.measure(truth, two_faced, 16)
    # Behind, the snowman's outline is nearly right and its image is not.
    assert janus.janus == 3 and janus.iou > 0.8
    cameras_behind = cameras.from_degrees([150.0, 180.0, 210.0])
    behind = two_faced(cameras_behind)[0]
    assert (measures.psnr(behind, of("snowman")(cameras_behind)[0]) < 16).all()
    nothing = measures.measure(
        truth,
        lambda c: (
            np.ones((len(c.azimuth), 16, 16, 3)),
            np.zeros((len(c.azimuth), 16, 16)),
        ),
        16,
    )
    assert nothing.empty_or_full and nothing.iou == 0 and nothing.saturated == 0
    coarse = measures.measure(truth, of("snowman", supersample=1), 16)
    assert 15 < coarse.psnr < 30 and coarse.janus == 0  # edges without antialiasing
