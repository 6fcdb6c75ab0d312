"""Run command lines of the program one after another, as one process of several.

Arguments: a JSON list of command lines, of which the first says how to join the others.
A random projection stands for the network that evaluates. Every example that this
process asks of the data to train on is noted in the file $ASKED, if that is set.
"""

import json
import os
import sys

import jax
import jax.numpy as jnp

from ddpm_jax import assembly, cli
from ddpm_jax.data import pipeline
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs


def projection(asked):
    """Features that cost nothing: fixed linear maps of the pixels."""
    del asked
    mix = jax.random.normal(jax.random.key(0), (64, 12)) / 64

    def apply(params, pixels):
        x = jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1)
        return Outputs(x @ params, None)

    return FeatureExtractor(
        "projection", "cafe", 12, None, "none", (8, 8, 1), mix, apply
    )


def note_what_is_read(path):
    """Write down the examples of each batch that this process reads; return the end."""
    gather = pipeline.gather

    def noted(source, indices, **options):
        with open(path, "a") as file:
            file.write(json.dumps([int(i) for i in indices]) + "\n")
        return gather(source, indices, **options)

    pipeline.gather = noted

    def end():
        pipeline.gather = gather

    return end


def main():
    """Run them; stop at the first that fails."""
    assembly.evaluation_features = projection
    for line in json.loads(sys.argv[1]):
        trains = line[0].startswith("--config=")
        noting = trains and "ASKED" in os.environ  # an evaluation reads other batches
        end = note_what_is_read(os.environ["ASKED"]) if noting else lambda: None
        status = cli.main(line)
        end()
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
