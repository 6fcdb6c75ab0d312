"""Are the digits of `make demo` the digits that were asked for?

A classifier that the model has never seen, a support vector machine fitted on the real
training digits, reads 500 drawn ones, 50 of each class.
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from ddpm_jax.cli import main
from ddpm_jax.data import in_memory, load

WORKDIR = Path("runs/digits")


@pytest.fixture(scope="module")
def classifier():
    """Fit on the train split; on the test split it must be good enough to judge."""
    images, labels = in_memory(load("digits", split="train"))
    fitted = SVC(gamma=0.001 * (16 / 255) ** 2, C=10).fit(flat(images), labels)
    images, labels = in_memory(load("digits", split="test"))
    accuracy = fitted.score(flat(images), labels)
    assert accuracy > 0.97
    print(f"\nclassifier on {len(labels)} real test digits: {accuracy:.1%}")
    return fitted


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64)


def test_at_least_95_percent_of_500_digits_are_read_as_asked(classifier):
    if not (WORKDIR / "checkpoints").exists():
        pytest.fail(f"{WORKDIR} holds no model; run `make demo` first")
    flags = ["--num-images=500", "--batch-size=100", "--seed=1"]
    assert main(["sample", f"{WORKDIR}", *flags]) == 0
    newest = max((WORKDIR / "samples").iterdir(), key=lambda p: p.stat().st_mtime)
    with np.load(newest / "samples.npz") as stored:
        images, labels = stored["arr_0"], stored["arr_1"]
    assert np.bincount(labels).tolist() == [50] * 10
    read = classifier.predict(flat(images))
    right = read == labels
    print(f"{right.sum()} of 500 drawn digits read as asked: {right.mean():.1%}")
    for digit in range(10):
        print(f"  {digit}: {right[labels == digit].sum()} of 50")
    assert right.mean() >= 0.95
