"""Labels as a request spells them."""

import numpy as np
import pytest
from settings import default

from ddpm_jax import assembly
from ddpm_jax.requests import Sample


@pytest.mark.parametrize(
    "names",
    [("cat", "dog"), ("1", "2", "3"), (" padded ", "a, b", ""), ("none", "0")],
)
def test_a_class_is_read_as_it_is_written(names):
    info = assembly.DataInfo("d", (8, 8, 1), names, "")
    spec = default("conditioners.label.kind=label").task
    for index in range(len(names)):
        asked = Sample(num_images=1, label=assembly.label_word(index, names))
        found = assembly.sample_labels(spec, info, asked)
        np.testing.assert_array_equal(found, [index])
