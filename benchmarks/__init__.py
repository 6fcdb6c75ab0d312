"""Measurements that anyone can repeat; docs/performance.md has the results.

    python -m benchmarks.train      a step of training, and the loop around it
    python -m benchmarks.sample     the sampler against its forward passes
    python -m benchmarks.data       every source, from memory and decoded on the way
    python -m benchmarks.evaluate   features networks and scores
    python -m benchmarks.peers      the same network in PyTorch, in turns
    python -m benchmarks.precision  the loss in bfloat16 against float32
    python -m benchmarks.gpu        all that needs a GPU, in one call
    python -m benchmarks.table      what they wrote with --out, as Markdown

All but `gpu` take `--config=FILE`, `--config.SECTION.NAME=VALUE` and `--out=FILE`;
see `--help` for all flags. They run as the program does: as many devices, the same
compiled functions.
"""
