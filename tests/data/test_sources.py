"""Digits and TFDS against what the literature says they contain."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data import decoded, in_memory, load
from ddpm_jax.errors import UserError


def refused(spec, **options):
    with pytest.raises(UserError) as raised:
        load(spec, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_digits_are_all_there_and_divided_once():
    images, labels = in_memory(load("digits", split="all"))
    # Class counts of the UCI description of the test file ("optdigits.names").
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    np.testing.assert_array_equal(np.bincount(labels), counts)
    train, test = (load("digits", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1498, 299)
    both = np.concatenate([train.source.items, test.source.items])
    rows = {image.tobytes() for image in images}
    assert {image.tobytes() for image in both} == rows
    assert len({train.fingerprint, test.fingerprint}) == 2


def test_digit_levels_come_back():
    from sklearn.datasets import load_digits

    images, _ = in_memory(load("digits", split="all"))
    levels = load_digits().images
    assert images.min() == 0 and images.max() == 255
    np.testing.assert_array_equal(np.rint(images[..., 0] * (16 / 255)), levels)
    assert set(images[levels == 8].ravel()) == {128}  # 127.5, rounded up


def test_digits_padded_to_sixteen():
    images, _ = in_memory(load("digits", pad_to=16))
    plain, _ = in_memory(load("digits"))
    np.testing.assert_array_equal(images[:, 4:12, 4:12], plain)
    assert images.sum() == plain.sum()


def test_mnist_class_counts(mnist_train):
    # LeCun, Cortes, Burges: 60,000 training images; counts as usually tabulated.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist_train.image_shape == (28, 28, 1) and len(mnist_train) == 60000
    assert mnist_train.label_names == tuple("0123456789")
    np.testing.assert_array_equal(np.bincount(mnist_train.source.labels), counts)
    # The mean and deviation that every MNIST recipe normalises with.
    parts = np.array_split(mnist_train.source.items, 60)
    histogram = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
    levels, weights = np.arange(256) / 255, histogram / histogram.sum()
    mean = weights @ levels
    deviation = np.sqrt(weights @ (levels - mean) ** 2)
    assert (round(mean, 4), round(deviation, 4)) == (0.1307, 0.3081)


def test_cifar10_test_split(tfds_dir):
    images, labels = in_memory(load("tfds:cifar10", split="test", data_dir=tfds_dir))
    assert images.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)
    train = load("cifar10", data_dir=tfds_dir)
    assert len(train) == 50000 and train.label_names[6] == "frog"


def test_a_lossy_copy_says_so(tfds_dir):
    # The README of the data: CIFAR-10 is stored as JPEG there, MNIST as PNG.
    assert "JPEG" in load("cifar10", data_dir=tfds_dir).note
    assert load("mnist", data_dir=tfds_dir).note == ""


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_pixels_equal_those_that_tfds_decodes(tfds_dir, name):
    import tensorflow_datasets as tfds

    theirs = tfds.data_source(name, split="test", data_dir=tfds_dir)
    ours = load(name, split="test", data_dir=tfds_dir)
    for index in range(0, 10000, 997):
        np.testing.assert_array_equal(
            ours.source[index]["image"], theirs[index]["image"]
        )
        assert ours.source[index]["label"] == theirs[index]["label"]


def test_a_part_of_a_split(tfds_dir):
    part = load("mnist:3.0.1", split="train[:100]", channels=3, data_dir=tfds_dir)
    assert len(part) == 100 and part.image_shape == (28, 28, 3)
    assert part.fingerprint != load("mnist", data_dir=tfds_dir).fingerprint


def test_reading_imports_no_tensorflow_and_logs_nothing(tfds_dir):
    program = (
        "import sys\n"
        "from ddpm_jax.data import load\n"
        "heavy = {'grain', 'jax', 'sklearn', 'tensorflow_datasets'}\n"
        "assert not heavy & set(sys.modules), 'import ddpm_jax.data is to be light'\n"
        "load('cifar10', data_dir=sys.argv[1]).source[0]\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tfds_dir], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_cannot_be_opened(tmp_path):
    for name in ("mnist", "fashion_mnist"):
        message = refused(name, data_dir=tmp_path)
        assert f"tfds build {name} --file_format=array_record" in message
        assert "TFDS_DATA_DIR" in message and "TensorFlow" in message
    message = refused("minst", data_dir=tmp_path)
    assert "unknown data set 'minst'" in message and "folder:PATH" in message
    for config in ("a", "b"):
        folder = tmp_path / "pets" / config / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert "pets/a, pets/b" in refused("pets", data_dir=tmp_path)
    assert "no split 'valid'" in refused("digits", split="valid")


def test_splits_and_formats_that_are_not_there(tfds_dir, tmp_path):
    message = refused("mnist", split="val", data_dir=tfds_dir)
    assert "no split 'val'; use one of test, train" in message
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = Path(tfds_dir, "mnist", "3.0.1", name).read_text()
        (folder / name).write_text(text.replace("array_record", "tfrecord"))
    message = refused("mnist", data_dir=tmp_path)
    assert "--file_format=array_record" in message
    for name in ("dataset_info.json", "features.json"):
        shutil.copy(f"{tfds_dir}/mnist/3.0.1/{name}", folder)
    assert "cannot read the files" in refused("mnist", data_dir=tmp_path)


def test_the_newest_version_is_taken(tfds_dir, tmp_path):
    for version in ("3.0.1", "3.0.10"):
        folder = tmp_path / "mnist" / version
        shutil.copytree(f"{tfds_dir}/mnist/3.0.1", folder, copy_function=os.symlink)
        info = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").unlink()
        info["version"] = version
        (folder / "dataset_info.json").write_text(json.dumps(info))
    assert load("mnist", data_dir=tmp_path).name == "mnist/3.0.10"
    assert load("mnist:3.0.1", data_dir=tmp_path).name == "mnist/3.0.1"


def test_lazy_and_decoded_examples_agree(tfds_dir):
    lazy = load("mnist", split="test[:300]", pad_to=32, data_dir=tfds_dir)
    memory = decoded(lazy)
    digests = [
        hashlib.sha256(b"".join(source[i]["image"].tobytes() for i in range(300)))
        for source in (lazy.source, memory.source)
    ]
    assert digests[0].hexdigest() == digests[1].hexdigest()
    assert memory.fingerprint == lazy.fingerprint
    assert [lazy.source[i]["label"] for i in range(300)] == list(memory.source.labels)
