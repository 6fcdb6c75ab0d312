"""Data and files that documents speak of, made up: small, and the same everywhere."""

import io
import json

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

NUM_IMAGES = {"train": 48, "test": 24}


def data_sets(root):
    """Prepare a tiny mnist and cifar10 as TensorFlow Datasets lays them out."""
    _data_set(root / "mnist" / "3.0.1", "mnist", (28, 28, 1))
    _data_set(root / "cifar10" / "3.0.2", "cifar10", (32, 32, 3))


def photos(root):
    """Make folders of colour pictures: two classes, several sizes."""
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (root / label).mkdir(parents=True)
        for i in range(16):
            size = (48 + i, 40)
            _picture(rng, (*size, 3)).save(root / label / f"{i:02}.png")


def emoji(root):
    """Make a folder of pictures with their captions and categories in a file."""
    _captioned(root, ("apple", "cat", "house", "ball"), (64, 64, 3))


def sprites(root):
    """Make such a folder of pictures with transparency, and names of sprites."""
    things = ("dragon", "orc (monster)", "scimitar (weapon)", "marble floor")
    _captioned(root, things, (32, 32, 4))


def clips(root):
    """Make a folder of animations."""
    rng = np.random.default_rng(3)
    root.mkdir()
    for i in range(12):
        first, *rest = (_picture(rng, (40, 48, 3)) for _ in range(9))
        first.save(root / f"{i:02}.gif", save_all=True, append_images=rest)


def _captioned(root, things, shape):
    """Every word of a caption is in many, so that those held out have no new ones."""
    rng = np.random.default_rng(2)
    root.mkdir()
    lines = []
    sizes, colours = (
        ("large", "small", "tiny", "huge"),
        ("red", "green", "blue", "grey"),
    )
    texts = [f"a {s} {c} {t}" for s in sizes for c in colours for t in things]
    for i, text in enumerate(texts):
        _picture(rng, shape).save(root / f"{i:02}.png")
        kind = ("food", "animals")[i % 2]
        line = {"file_name": f"{i:02}.png", "text": text, "category": kind}
        lines.append(json.dumps(line) + "\n")
    (root / "metadata.jsonl").write_text("".join(lines))


def mask():
    """Return a picture whose lower half is white."""
    return Image.fromarray(np.repeat(np.uint8([[0], [255]]), 2, 1)).resize((32, 32), 0)


def _data_set(folder, name, shape):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for split, count in NUM_IMAGES.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for i in range(count):
            png = io.BytesIO()
            _picture(rng, shape).save(png, "PNG")
            writer.write(_example(png.getvalue(), i % 10))
        writer.close()
    (folder / "features.json").write_text(json.dumps(_features(shape)))
    (folder / "dataset_info.json").write_text(json.dumps(_info(folder, name)))


def _picture(rng, shape):
    coarse = rng.integers(0, 256, (4, 4, shape[-1]), np.uint8).squeeze()
    return Image.fromarray(coarse).resize(shape[1::-1], Image.Resampling.BILINEAR)


def _info(folder, name):
    splits = [
        {
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(count)],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, count in NUM_IMAGES.items()
    ]
    return {
        "name": name,
        "version": folder.name,
        "fileFormat": "array_record",
        "splits": splits,
    }


def _features(shape):
    core = "tensorflow_datasets.core.features"
    dimensions = {"dimensions": [str(side) for side in shape]}
    image = {
        "image": {"dtype": "uint8", "shape": dimensions},
        "pythonClassName": f"{core}.image_feature.Image",
    }
    label = {
        "classLabel": {"numClasses": "10"},
        "pythonClassName": f"{core}.class_label_feature.ClassLabel",
    }
    return {
        "pythonClassName": f"{core}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label}},
    }


def _example(png, label):
    """Encode a tf.train.Example by hand, so that no TensorFlow is needed.

    Source: https://protobuf.dev/programming-guides/encoding, example.proto of
    TensorFlow: features = 1, a map; of Feature, bytes_list = 1 and int64_list = 3.
    """
    image = _field(1, _field(1, png))
    number = _field(3, _field(1, bytes([label])))
    entries = [
        _field(1, _field(1, name) + _field(2, value))
        for name, value in ((b"image", image), (b"label", number))
    ]
    return _field(1, b"".join(entries))


def _field(number, payload):
    """Encode a field of wire type 2: tag, length, bytes."""
    length, size = b"", len(payload)
    while size > 127:
        length += bytes([size % 128 + 128])
        size //= 128
    return bytes([number * 8 + 2]) + length + bytes([size]) + payload
