"""Scores against the programs that published ones are computed with.

Fed the same random features, whatever network they might be of.
"""

import importlib.util
import sys
from unittest import mock

import fidelity
import numpy as np
import pytest

from ddpm_jax.evaluation import mean_covariance
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.evaluation.inception_score import inception_score
from ddpm_jax.evaluation.kernel_distance import squared_mmd
from ddpm_jax.evaluation.precision_recall import density_coverage, precision_recall

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def features():
    """Correlated, skewed and off centre, as those of a network are."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((48, 48)) / 7
    real = np.maximum(rng.standard_normal((600, 48)) @ mix + 0.3, 0)
    fake = np.maximum(rng.standard_normal((600, 48)) @ (1.1 * mix) + 0.4, 0)
    return real.astype(np.float32), fake.astype(np.float32)


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    """Let the peers import what only their networks and data sets need."""
    unused = ("torchvision", "torchvision.transforms")
    unused += ("pytorch_fid.inception", "torch_fidelity.utils")
    for name in unused:
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())


def test_frechet_distance_of_pytorch_fid(features):
    if importlib.util.find_spec("pytorch_fid") is None:
        pytest.skip("pip install --no-deps pytorch-fid")
    peer = importlib.import_module("pytorch_fid.fid_score")
    statistics = [(x.mean(0, np.float64), np.cov(x.T.astype(float))) for x in features]
    expected = peer.calculate_frechet_distance(*statistics[0], *statistics[1])
    own = [mean_covariance.from_vectors(x) for x in features]
    found = frechet_distance(
        own[0].mean,
        mean_covariance.covariance(own[0]),
        own[1].mean,
        mean_covariance.covariance(own[1]),
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_of_torch_fidelity(features):
    peer = fidelity.part("metric_kid")
    real, fake = (x.astype(np.float64) for x in features)
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3}
    expected = peer.kernel_mmd(
        fake, real, **options, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1
    )
    assert squared_mmd(fake, real) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("splits", [1, 7])
def test_inception_score_of_torch_fidelity(splits):
    """It quotes the deviation of the splits, ours is the error of their mean."""
    peer = fidelity.part("metric_isc")
    logits = 3 * np.random.default_rng(1).standard_normal((300, 20))
    expected = peer.isc_features_to_metric(
        torch.from_numpy(logits), splits=splits, shuffle=False
    )
    found = inception_score(logits, splits=splits)
    assert found.value == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    if splits > 1:
        deviation = found.standard_error * (splits - 1) ** 0.5
        assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_of_torch_fidelity(features, k):
    peer = fidelity.part("metric_prc")
    real, fake = (torch.from_numpy(x.astype(np.float64)) for x in features)
    expected = peer.calculate_precision_recall_full(fake, real, neighborhood=k)
    found = precision_recall(*features, k=k)
    # Its shares are averaged in float32.
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0.1 < found.precision < 0.9 and 0.1 < found.recall < 0.95


def test_density_and_coverage_of_prdc(features):
    prdc = pytest.importorskip("prdc", reason="pip install --no-deps prdc")
    real, fake = (x.astype(np.float64) for x in features)
    expected = prdc.compute_prdc(real, fake, nearest_k=5)
    found = density_coverage(real, fake, k=5)
    assert found.density == pytest.approx(expected["density"], rel=1e-6)
    assert found.coverage == pytest.approx(expected["coverage"], rel=1e-6)
    same = precision_recall(real, fake, k=5)
    assert same.precision == pytest.approx(expected["precision"], rel=1e-6)
    assert same.recall == pytest.approx(expected["recall"], rel=1e-6)
