import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.reference_statistics import (
    Statistics,
    read_statistics,
    write_statistics,
)

MEAN, COVARIANCE = np.arange(3.0), np.diag([1.0, 2.0, 3.0])


def test_what_is_written_is_read(tmp_path):
    about = {"data": "digits", "resolution": [8, 8, 1]}
    path = tmp_path / "deep" / "s.npz"
    write_statistics(path, Statistics(MEAN, COVARIANCE, 7, about))
    found = read_statistics(path)
    np.testing.assert_array_equal(found.mean, MEAN)
    np.testing.assert_array_equal(found.covariance, COVARIANCE)
    assert (found.count, found.provenance) == (7, about)
    with np.load(path) as file:  # as other programs would
        np.testing.assert_array_equal(file["mu"], MEAN)
        np.testing.assert_array_equal(file["sigma"], COVARIANCE)


def test_the_layouts_of_other_programs_are_read(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, mu=MEAN.astype(np.float32), sigma=COVARIANCE)
    found = read_statistics(path)
    assert found.mean.dtype == np.float64
    assert (found.count, found.provenance) == (None, None)
    images = np.zeros((2, 4, 4, 3), np.uint8)  # guided-diffusion's reference batch
    np.savez(path, arr_0=images, mu=MEAN, sigma=COVARIANCE, mu_s=MEAN, sigma_s=MEAN)
    np.testing.assert_array_equal(read_statistics(path).covariance, COVARIANCE)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": MEAN}, "holds no sigma; statistics are"),
        ({"mu": MEAN, "sigma": MEAN}, r"shapes \[3\] and \[3\]"),
        ({"mu": MEAN * np.nan, "sigma": COVARIANCE}, "not all finite"),
        ({"mu": np.array(["a", "b", "c"]), "sigma": COVARIANCE}, "not all finite"),
        ({"mu": np.array([{}, 1, 2], object), "sigma": COVARIANCE}, "cannot read"),
        ({"count": 0.5}, "count of .* is not the number"),
        ({"count": [3, 4]}, "count of .* is not the number"),
        ({"count": 0}, "count of .* is not the number"),
        ({"provenance": '{"data": '}, "provenance of .* is not the JSON"),
        ({"provenance": "[1, 2]"}, "provenance of .* is not the JSON"),
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path, arrays, said):
    path = tmp_path / "s.npz"
    whole = {"mu": MEAN, "sigma": COVARIANCE}
    np.savez(path, **(arrays if "mu" in arrays else whole | arrays))
    with pytest.raises(UserError, match=said):
        read_statistics(path)


@pytest.mark.parametrize("content", ["absent", "text", "cut", "array"])
def test_files_that_are_no_archive_are_refused(tmp_path, content):
    path = tmp_path / "s.npz"
    if content == "text":
        path.write_text("mu sigma")
    elif content == "cut":
        np.savez(path, mu=MEAN, sigma=COVARIANCE)
        path.write_bytes(path.read_bytes()[:200])
    elif content == "array":
        with path.open("wb") as file:
            np.save(file, MEAN)
    with pytest.raises(UserError, match="cannot read"):
        read_statistics(path)


def test_numbers_that_are_not_finite_overwrite_nothing(tmp_path):
    path = tmp_path / "s.npz"
    write_statistics(path, Statistics(MEAN, COVARIANCE))
    before = path.read_bytes()
    with pytest.raises(UserError, match="not all finite"):
        write_statistics(path, Statistics(MEAN, COVARIANCE + np.inf))
    assert path.read_bytes() == before
