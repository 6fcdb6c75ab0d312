"""What a checkpoint says of itself."""

import dataclasses
import json

import pytest

from ddpm_jax.commands.about import info_of
from ddpm_jax.data.info import DataInfo, LatentInfo

READER = {"kind": "words", "words": ["red"], "max_length": 3}


@pytest.mark.parametrize(
    "info",
    [
        DataInfo("digits", (8, 8, 1), ("0", "1"), "abc"),
        DataInfo("folder:x", (8, 8, 3), None, "abc", READER, ("red", "a red one")),
        DataInfo("", (8, 8, 3), None, "a", latents=LatentInfo("kl", "b", (4, 4, 4))),
        DataInfo("npy:x", (6,), None, "a", dtype="float32", chain_shape=(3, 2)),
    ],
    ids=["labels", "captions", "latents", "codec"],
)
def test_what_a_model_knows_of_its_data_is_read_back(info):
    stored = json.loads(json.dumps({"data": dataclasses.asdict(info)}))
    assert info_of(stored) == info
