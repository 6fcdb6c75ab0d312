"""Evaluate as one host of several; a random projection stands for the network.

Arguments: this host's number, how many there are, the port of the first, the workdir.
"""

import sys

import jax
import jax.numpy as jnp


def main():
    """Join the other hosts, and run the program as each of them does."""
    number, count, port = map(int, sys.argv[1:4])
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, number)
    from ddpm_jax import build, cli
    from ddpm_jax.evaluation.features import Features, Outputs

    mix = jax.random.normal(jax.random.key(0), (64, 12)) / 64

    def apply(params, pixels):
        x = jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1)
        return Outputs(x @ params, None)

    seen = Features("projection", "cafe", 12, None, "none", (8, 8, 1), mix, apply)
    build.evaluation_features = lambda cfg: seen
    status = cli.main(
        [
            "--mode=evaluate",
            f"--workdir={sys.argv[4]}",
            "--config.evaluate.num_images=22",
            "--config.sample.batch_size=8",
            "--config.evaluate.batch_size=8",
        ]
    )
    print(f"{jax.device_count()} devices")
    sys.exit(status)


if __name__ == "__main__":
    main()
