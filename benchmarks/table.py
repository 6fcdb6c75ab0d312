"""Records of the benchmarks as Markdown tables, for docs/performance.md.

python -m benchmarks.table benchmarks/results/*.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Print the tables of the files given; 2 if one cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table")
    parser.add_argument("files", nargs="+", help="written by the benchmarks' --out")
    records = []
    for path in parser.parse_args(argv).files:
        try:
            with open(path) as file:
                record = json.load(file)
            if record["benchmark"] not in _TABLES:
                raise ValueError(f"no benchmark {record['benchmark']!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(
                f"error: {path} is no record of a benchmark: {error}", file=sys.stderr
            )
            return 2
        records.append(record)
    print(markdown(records))
    return 0


def markdown(records: Sequence[Record]) -> str:
    """Return one table per benchmark, each row's command and machine below it."""
    blocks = []
    for name, rows_of in _TABLES.items():
        chosen = [record for record in records if record["benchmark"] == name]
        if chosen:
            rows = [row for record in chosen for row in rows_of(record)]
            blocks += [_table(rows), "\n".join(_provenance(one) for one in chosen)]
    return "\n\n".join(blocks)


def _table(rows: list[dict[str, str]]) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([row[h] for h in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _provenance(record: Record) -> str:
    devices, hardware = record["devices"], record["hardware"]
    where = ", ".join(hardware.get("accelerators", [hardware["cpu"]]))
    versions = dict(record["versions"])
    torch = record["results"].get("torch")
    counts = f"{devices['count']} JAX device(s) on {devices['threads']} cores"
    if torch:
        versions |= torch["versions"]
        counts += f", {torch['threads']} PyTorch threads on {torch['device']}"
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"- `{record['command']}`: {where}, {counts}; {named}; {record['date'][:10]}, "
        f"revision {record['revision'] or 'unknown'}, load {record['load_before']}"
    )


# --- Numbers for people ---------------------------------------------------------------


def _milliseconds(spread: dict[str, float]) -> str:
    low, high = spread["quartile_1"], spread["quartile_3"]
    middle = _short(1e3 * spread["median"])
    return f"{middle} ({_short(1e3 * low)} to {_short(1e3 * high)})"


def _ratio(spread: dict[str, float]) -> str:
    return (
        f"**{spread['median']:.2f}** "
        f"({spread['quartile_1']:.2f} to {spread['quartile_3']:.2f})"
    )


def _short(number: float) -> str:
    """Three digits, without an exponent: 1234, 123, 12.3, 1.23."""
    digits = max(0, 2 - len(str(int(abs(number)))) + 1) if abs(number) < 1000 else 0
    return f"{number:,.{digits}f}"


def _compilation(seconds: dict[str, float]) -> str:
    second = f"({seconds['second_start']:.1f})"
    if "compile" not in seconds:  # taken from the cache
        return second
    return f"{seconds['trace'] + seconds['compile']:.1f} {second}"


def _gib(count: float | None) -> str:
    return "" if count is None else f"{count / 2**30:.2f}"


def _peak(results: Record) -> str:
    memory = results["peak_memory"]
    return _gib(memory.get("device_peak", memory["process_peak"]))


# --- One function a benchmark: record -> rows -----------------------------------------


def _train(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    compile_seconds = it["compile_seconds"]
    return [
        {
            "recipe": f"{it['recipe']}, {it['dtype']}",
            "batch": str(it["batch_size"]),
            "ms per step": _milliseconds(it["step_seconds"]),
            "images/s": _short(it["images_per_second"]),
            "GFLOP per image": f"{it['step_flops_per_image'] / 1e9:.3g}",
            "TFLOP/s": f"{it['flops_per_second'] / 1e12:.3g}",
            "of matmul rate": f"{it['share_of_matmul']:.0%}",
            "waits for data": f"{it['loop']['wait_share']:.1%}",
            "ms per step in the loop": _short(1e3 * it["loop"]["seconds_per_step"]),
            "compile s (second start)": _compilation(compile_seconds),
            "program GiB": _gib(it["compiled_memory"].get("total")),
            "peak GiB": _peak(it),
        }
    ]


def _sample(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    return [
        {
            "recipe": f"{it['recipe']}, {it['dtype']}",
            "batch": str(it["batch_size"]),
            "sampler": f"{it['sampler']}, {it['num_steps']} steps",
            "s per batch": f"{it['draw_seconds']['median']:.3g}",
            "images/s": _short(it["images_per_second"]),
            "ms per forward pass": _milliseconds(it["forward_seconds"]),
            "sampler / its forward passes": _ratio(it["draw_over_forward_passes"]),
            "of matmul rate": f"{it['share_of_matmul']:.0%}",
            "peak GiB": _peak(it),
        }
    ]


def _data(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    return [
        {
            "source": name,
            "images": f"{one['num_images']:,} of {one['image_shape']}",
            "batch": str(it["batch_size"]),
            "read from": kind,
            "batches/s, asked": _short(one[kind]["asked"]["batches_per_second"]),
            "prefetched": _short(one[kind]["prefetched"]["batches_per_second"]),
            "ms waited a step, asked": _milliseconds(
                one[kind]["asked"]["wait_seconds"]
            ),
            "ms waited, prefetched": _milliseconds(
                one[kind]["prefetched"]["wait_seconds"]
            ),
        }
        for name, one in it["sources"].items()
        for kind in ("memory", "files")
        if kind in one
    ]


def _evaluate(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    rows = [
        {
            "what": f"features, {name}",
            "size": f"batch {one['batch_size']} of {one['image_shape']}",
            "time": f"{_short(one['images_per_second'])} images/s",
        }
        for name, one in it["features"].items()
    ]
    size = f"{it['num_vectors']:,} x {it['num_features']:,}"
    return rows + [
        {"what": name, "size": size, "time": f"{_short(one['median'])} s"}
        for name, one in it["score_seconds"].items()
    ]


def _peers(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    return [
        {
            "recipe": f"{it['recipe']}, {it['dtype']}",
            "batch": str(it["batch_size"]),
            "what": {"train": "training step", "sample": "reverse step"}[task],
            "peer": f"{name} ({one[task]['fastest']})",
            "parameters": f"{one['num_parameters']:,}",
            "outputs differ by": (
                f"{one['largest_difference']:.1e}"
                if one["same_network"]
                else "other net"
            ),
            "peer, ms": _milliseconds(one[task]["seconds"][name]),
            "ddpm_jax, ms": _milliseconds(one[task]["seconds"]["ddpm_jax"]),
            "peer's time / ddpm_jax's": _ratio(one[task]["ratio"]),
        }
        for name, one in it["peers"].items()
        for task in ("train", "sample")
        if task in one
    ]


def _precision(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    return [
        {
            "recipe": it["recipe"],
            "batch": str(it["batch_size"]),
            "steps": f"{it['num_steps']:,}",
            "last loss, float32": f"{it['last_loss']['float32']:.5f}",
            "bfloat16": f"{it['last_loss']['bfloat16']:.5f}",
            "another seed": f"{it['last_loss']['another_seed']:.5f}",
            "bfloat16 from float32": f"{it['distance']['bfloat16']:.2%}",
            "another seed from float32": f"{it['distance']['another_seed']:.2%}",
        }
    ]


def _convolution(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    ways = [f"{way} {what}" for what in ("forward", "all") for way in _WAYS]
    titles = {"all": "with gradients"}
    return [
        {
            "map": f"{it['batch_size']} x {one['side']}x{one['side']}",
            "channels": f"{one['channels']} to {one['features']}",
            **{
                f"{_WAYS[way]}, {titles.get(what, what)}": f"{one[name] / 1e9:.0f}"
                for name in ways
                for way, what in [name.split()]
            },
        }
        for one in it["rows"]
    ]


def _optimizers(record: Record) -> list[dict[str, str]]:
    it = record["results"]
    steps = f"{it['num_steps']:,} steps of {it['batch_size']}"
    return [
        {
            "recipe": f"{it['recipe']}, {steps}",
            "optimizer": one["name"],
            "rate": f"{one['rate']:g}",
            "seed": str(one["seed"]),
            "loss": f"{one['loss']:.5f}",
            "loss of the EMA": f"{one['ema_loss']:.5f}",
            "ms per step": _short(1e3 * one["step_seconds"]),
        }
        for one in it["rows"]
    ]


_WAYS = {"library": "ddpm_jax", "xla": "XLA", "torch": "PyTorch"}

_TABLES: dict[str, Callable[[Record], list[dict[str, str]]]] = {
    "train": _train,
    "sample": _sample,
    "data": _data,
    "evaluate": _evaluate,
    "peers": _peers,
    "precision": _precision,
    "convolution": _convolution,
    "optimizers": _optimizers,
}


if __name__ == "__main__":
    sys.exit(main())
