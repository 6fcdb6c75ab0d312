"""The 3x3 convolutions of the CIFAR-10 network, computed in three ways, in turns.

    python -m benchmarks.convolution

By the library (`models.convolution`, which on a CPU means Winograd's tiles), by XLA's
own convolution and by PyTorch: forward alone, and forward with both gradients. The
rates count the operations of the plain sum of nine terms whatever way is taken, so that
a rate above that of a large matrix product means that fewer were done.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import start

# Pixels of a side, channels in and out: what the network spends most of its time on.
SIZES = ((32, 128, 128), (32, 256, 128), (16, 256, 256), (8, 256, 256), (4, 256, 256))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; see `start.run`."""
    parser = start.make_parser("convolution", "3x3 convolutions, in three ways.")
    parser.add_argument("--num-turns", type=int, default=7, help="times of each")
    return start.run("convolution", parser, measure, argv)


def measure(setup: start.Setup) -> dict[str, Any]:
    """Measure what `main` says; plain data, operations a second."""
    import torch

    from benchmarks import machine, rate, timing
    from ddpm_jax.networks.convolution import conv3x3
    from ddpm_jax.runtime.devices import data_mesh

    batch_size, rows = setup.recipe.training.batch_size, []
    for side, channels, features in SIZES:
        flops = 2 * batch_size * side**2 * 9 * channels * features
        ways: dict[str, Callable[[], float]] = {}
        shape = (batch_size, side, channels, features)
        for name, convolve in (("library", conv3x3), ("xla", _by_xla)):
            ways |= {f"{name} {k}": f for k, f in _in_jax(convolve, *shape).items()}
        ways |= {f"torch {k}": f for k, f in _in_torch(*shape).items()}
        for run in ways.values():
            run()
        taken = timing.take_turns(ways, setup.args.num_turns)
        passes = {"forward": 1, "all": 3}
        found = {
            name: passes[name.split()[1]] * flops / float(np.median(times))
            for name, times in taken.items()
        }
        rows.append({"side": side, "channels": channels, "features": features} | found)
    return {
        "batch_size": batch_size,
        "rows": rows,
        "matmul": rate.matmul_rate(data_mesh(), np.float32),
        "torch": {
            "versions": machine.versions(("torch",)),
            "device": "cpu",
            "threads": torch.get_num_threads(),
        },
    }


def _by_xla(x: Any, kernel: Any) -> Any:
    import jax

    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _arrays(batch_size: int, side: int, channels: int, features: int) -> list[Any]:
    rng = np.random.default_rng(0)
    shapes = ((side, side, channels), (side, side, features))
    x, slope = (rng.standard_normal((batch_size, *s), np.float32) for s in shapes)
    kernel = rng.standard_normal((3, 3, channels, features), np.float32) / 30
    return [x, kernel, slope]


def _in_jax(convolve: Callable[..., Any], *shape: int) -> dict[str, Callable]:
    import jax

    from benchmarks import timing
    from ddpm_jax.runtime.devices import data_mesh, replicated, rows

    mesh = data_mesh()
    by_row, whole = rows(mesh), replicated(mesh)
    x, kernel, slope = map(jax.device_put, _arrays(*shape), (by_row, whole, by_row))

    def all_three(x: Any, kernel: Any, slope: Any) -> Any:
        y, pull = jax.vjp(convolve, x, kernel)
        return y, *pull(slope)

    forward = jax.jit(convolve, out_shardings=by_row)
    with_gradients = jax.jit(all_three, out_shardings=(by_row, by_row, whole))
    return {
        "forward": lambda: timing.seconds(lambda: forward(x, kernel)),
        "all": lambda: timing.seconds(lambda: with_gradients(x, kernel, slope)),
    }


def _in_torch(*shape: int) -> dict[str, Callable]:
    import torch

    x, kernel, slope = map(torch.from_numpy, _arrays(*shape))
    x, slope = (
        a.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        for a in (x, slope)
    )
    kernel = kernel.permute(3, 2, 0, 1).contiguous()
    x.requires_grad_()
    kernel.requires_grad_()

    def forward() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            torch.nn.functional.conv2d(x, kernel, padding=1)
        return time.perf_counter() - started

    def with_gradients() -> float:
        started = time.perf_counter()
        y = torch.nn.functional.conv2d(x, kernel, padding=1)
        torch.autograd.grad(y, (x, kernel), slope)
        return time.perf_counter() - started

    return {"forward": forward, "all": with_gradients}


if __name__ == "__main__":
    sys.exit(main())
