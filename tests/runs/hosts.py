"""Run command lines of the program one after another, as one process of several.

Arguments: a JSON list of command lines, of which the first says how to join the others.
A random projection stands for the network that evaluates. Every example that this
process asks of the data is noted in the file $ASKED, if that is set.
"""

import itertools
import json
import os
import sys

import jax
import jax.numpy as jnp

from ddpm_jax import build, cli, data
from ddpm_jax.data import pipeline
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs


def projection(cfg):
    """Features that cost nothing: fixed linear maps of the pixels."""
    del cfg
    mix = jax.random.normal(jax.random.key(0), (64, 12)) / 64

    def apply(params, pixels):
        x = jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1)
        return Outputs(x @ params, None)

    return FeatureExtractor(
        "projection", "cafe", 12, None, "none", (8, 8, 1), mix, apply
    )


def note_what_is_read(path):
    """Write down the examples of each training batch that this process reads."""
    gather, batches = pipeline.gather, data.batches

    def batches_noted(dataset, *args, **options):
        def noted(source, indices, **options):
            # Evaluation reads in order, and is not what is noted.
            in_order = all(b - a == 1 for a, b in itertools.pairwise(indices))
            if len(source) == len(dataset) and not in_order:
                with open(path, "a") as file:
                    file.write(json.dumps([int(i) for i in indices]) + "\n")
            return gather(source, indices, **options)

        pipeline.gather = noted
        return batches(dataset, *args, **options)

    data.batches = batches_noted


def main():
    """Run them; stop at the first that fails."""
    build.evaluation_features = projection
    if "ASKED" in os.environ:
        note_what_is_read(os.environ["ASKED"])
    for line in json.loads(sys.argv[1]):
        status = cli.main(line)
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
