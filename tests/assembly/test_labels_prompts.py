"""Labels as the config spells them."""

import numpy as np
import pytest
from settings import default

from ddpm_jax import assembly


@pytest.mark.parametrize(
    "names",
    [("cat", "dog"), ("1", "2", "3"), (" padded ", "a, b", ""), ("none", "0")],
)
def test_a_class_is_read_as_it_is_written(names):
    info = assembly.DataInfo("d", (8, 8, 1), names, "")
    cfg = default("conditioners.label.kind=label")
    cfg.sample.num_images = 1
    for index in range(len(names)):
        cfg.sample.labels = assembly.label_word(index, names)
        np.testing.assert_array_equal(assembly.sample_labels(cfg, info), [index])
