"""The part of `benchmarks.gpu` that measures ddpm_jax alone, in one process.

First everything is compiled, into the program's own cache, then comes a pause until no
one else computes, then the times are taken. What fails is reported by its name and the
rest goes on; after each measurement the file of results is written anew.
"""

import collections
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import gpu_jobs, peers, sample, start, train
from ddpm_jax.runtime import files
from ddpm_jax.runtime.startup import use_compilation_cache

_PATIENCE = 600.0  # seconds; `gpu` ends this process if all takes too long
_COPY_BYTES = {"cpu": 2**24}  # of other platforms: enough to leave the cache behind
_COPY_BYTES_OF_ACCELERATORS = 2**30


class Found:
    """Results by name, and what failed; on disk after each."""

    def __init__(self, path: Path) -> None:
        """Write to a file."""
        self._path = path
        self.values: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def attempt(self, name: str, function: Callable[[], Any]) -> None:
        """Keep what a function returns, or what it failed with."""
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        try:
            self.values[name] = function()
        except Exception as error:  # whatever it is, the rest is worth having
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}"[:500]
        self.seconds[name] = time.perf_counter() - started
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)
        self.write()

    def write(self) -> None:
        """Write all there is."""
        files.write_json(
            self._path,
            {
                "results": self.values,
                "failed": self.failed,
                "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            },
        )


def main(argv: list[str] | None = None) -> int:
    """Compile, wait, measure."""
    parser = start.make_parser("gpu_step", "The part of benchmarks.gpu without peers.")
    parser.add_argument("--turns", required=True, help="folder of the signals")
    parser.add_argument("--sample-batch", type=int, default=256)
    parser.add_argument("--sample-steps", type=int, default=1000)
    parser.add_argument("--chain-steps", type=int, default=50)
    parser.add_argument("--num-steps", type=int, default=200, help="of training")
    parser.add_argument("--matmul-side", type=int)
    args, overrides = parser.parse_known_args(argv)
    use_compilation_cache()
    recipe = start.load(args.config, overrides, args.batch_size)
    found, turns = Found(Path(args.out)), gpu_jobs.Turns(args.turns)
    fused = start.changed(recipe, "network.attention=cudnn")
    drawing = start.changed(
        recipe,
        f"sample.batch_size={args.sample_batch}",
        f"sample.num_images={args.sample_batch}",
        f"sample.num_steps={args.sample_steps}",
    )

    found.attempt("environment", environment)
    steps: dict[str, Step] = {}
    found.attempt("compile step", lambda: compile_step(recipe, steps, "plain"))
    found.attempt("compile chain", lambda: compile_chain(recipe, args))
    found.attempt("compile sampler", lambda: compile_sampler(drawing))
    found.attempt("compile fused", lambda: compile_step(fused, steps, "fused"))
    turns.give("compiled")
    found.attempt("alone", lambda: turns.wait("step.go", _PATIENCE))
    found.attempt("train", lambda: _train(args, recipe, overrides))
    found.attempt("sample", lambda: _sample(args, drawing, overrides))
    found.attempt("fused", lambda: time_step(steps["fused"], args.num_steps))
    found.attempt("plain", lambda: time_step(steps["plain"], args.num_steps))
    found.attempt("kernels", lambda: kernels(steps["plain"]))
    # Last, since they take longest: on an H200 all time was spent before a measurement.
    found.attempt("outputs", lambda: outputs(recipe))
    found.attempt("fused outputs", lambda: fused_outputs(recipe))
    return 0


def environment() -> dict[str, Any]:
    """Describe the machine, and how fast it copies on the device."""
    import jax
    import jax.numpy as jnp

    from benchmarks import machine

    platform = jax.devices()[0].platform
    size = _COPY_BYTES.get(platform, _COPY_BYTES_OF_ACCELERATORS)
    # Adding one reads and writes every byte once, as a copy does, and is not elided.
    array = jax.random.bits(jax.random.key(0), (size // 4,), jnp.uint32)
    copied = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jax.block_until_ready(copied(array))
    times = []
    for _ in range(10):
        started = time.perf_counter()
        array = jax.block_until_ready(copied(array))
        times.append(time.perf_counter() - started)
    described = machine.describe("python -m benchmarks.gpu")
    return described | {
        "copy_bytes_per_second": 2 * size / min(times),
        "all_versions": machine.versions(
            (*machine.PACKAGES, *machine.TORCH_PACKAGES, "orbax-checkpoint", "protobuf")
        ),
        "nvidia_smi": _nvidia_smi(),
    }


def _nvidia_smi() -> str:
    import subprocess

    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,power.draw"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.strip()


# --- Compiling ------------------------------------------------------------------------


def compile_step(recipe: Any, steps: dict[str, "Step"], name: str) -> dict[str, float]:
    """Compile the step of training and keep it; return the seconds from nothing."""
    from benchmarks import parts
    from ddpm_jax import assembly

    of = parts.make_parts(recipe)
    batch = parts.put(parts.stream_of(of)[0], of.mesh)
    state, key = parts.start_state(of), assembly.train_key(recipe.task.seed)
    started = time.perf_counter()
    lowered = parts.train_step(of).lower(state, key, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    steps[name] = Step(compiled, state, key, batch)
    return {"trace": traced - started, "compile": done - traced}


class Step:
    """A compiled step of training and what it is called with."""

    def __init__(self, compiled: Any, state: Any, key: Any, batch: Any) -> None:
        """Take them; the state is given away with the first call."""
        self._compiled, self._state = compiled, state
        self._key, self._batch = key, batch

    def run(self, count: int) -> float:
        """Take some steps, one after the other; return the seconds."""
        import jax

        started = time.perf_counter()
        for _ in range(count):
            self._state, metrics = self._compiled(self._state, self._key, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started


def compile_chain(recipe: Any, args: Any) -> float:
    """Compile the short chain that `peers` times, and sample with it once."""
    from benchmarks import parts

    of = parts.make_parts(recipe)
    return peers.own_chain(of, parts.start_state(of).params, args)()


def compile_sampler(recipe: Any) -> float:
    """Compile the whole sampler and sample with it once; return the seconds of both."""
    import numpy as np

    from benchmarks import parts, timing
    from ddpm_jax import assembly
    from ddpm_jax.codecs import Params
    from ddpm_jax.requests import Sample

    of = parts.make_parts(recipe)
    params = Params(parts.start_state(of).params)
    spec, asked = recipe.task, recipe.request(Sample)
    program = assembly.program(assembly.build_model(spec, of.info, of.mesh), asked)
    indices = np.arange(asked.batch_size, dtype=np.int32)
    rows = indices, assembly.sample_cond(spec, of.info, asked) or {}
    key = assembly.sample_key(assembly.seed_of(spec, asked))
    return timing.seconds(lambda: program.run(params, key, rows))


# --- Measuring ------------------------------------------------------------------------


def _record(name: str, argv: list[str], module: Any, recipe: Any) -> dict[str, Any]:
    """Run a benchmark in this process; return the record its own program writes."""
    from benchmarks import machine

    args, _ = module.make_parser().parse_known_args(argv)
    command = " ".join([f"python -m benchmarks.{name}", *argv])
    before = machine.describe(command)
    results = module.measure(start.Setup(args, recipe, command))
    return {"benchmark": name} | before | {"results": results}


def _common(args: Any, overrides: list[str], batch_size: int) -> list[str]:
    words = [f"--config={args.config}", f"--batch-size={batch_size}"]
    words += gpu_jobs.repeatable(overrides)
    side = args.matmul_side
    return [*words, "--cached", *([f"--matmul-side={side}"] if side else [])]


def _train(args: Any, recipe: Any, overrides: list[str]) -> dict[str, Any]:
    words = _common(args, overrides, recipe.training.batch_size)
    return _record("train", [*words, f"--num-steps={args.num_steps}"], train, recipe)


def _sample(args: Any, recipe: Any, overrides: list[str]) -> dict[str, Any]:
    words = _common(args, overrides, args.sample_batch)
    more = [f"--num-steps={args.sample_steps}", "--num-turns=2", "--num-forward=100"]
    if args.sample_steps < 100:
        more[-1] = f"--num-forward={args.sample_steps}"
    return _record("sample", [*words, *more], sample, recipe)


def outputs(recipe: Any) -> dict[str, float]:
    """Return how far the output in the recipe's dtype is from that in float32."""
    exact = _output(recipe, "float32", "plain")
    found = _output(recipe, recipe.task.network.dtype, "plain")
    return {"from_float32": _distance(found, exact)}


def fused_outputs(recipe: Any) -> dict[str, float]:
    """Return how far the output with cuDNN's attention is from those without."""
    dtype = recipe.task.network.dtype
    fused = _output(recipe, dtype, "cudnn")
    return {
        "from_plain": _distance(fused, _output(recipe, dtype, "plain")),
        "from_float32": _distance(fused, _output(recipe, "float32", "plain")),
    }


def _output(recipe: Any, dtype: str, attention: str) -> Any:
    """Compute a batch with parameters that are no zeros anywhere; float32 [B, ...]."""
    import jax
    import numpy as np

    from benchmarks import parts
    from ddpm_jax import assembly

    recipe = start.changed(
        recipe, f"network.dtype={dtype}", f"network.attention={attention}"
    )
    of = parts.make_parts(recipe)
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> Any:
        fan_in = float(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 100.0
        change = rng.standard_normal(leaf.shape, np.float32) / np.sqrt(fan_in)
        return np.asarray(leaf) + change * (leaf.ndim == 1 or not np.any(leaf))

    params = jax.tree.map(
        drawn, jax.device_get(assembly.init_params(recipe.task, of.unet, of.info))
    )
    inputs = parts.forward_inputs(of, min(64, recipe.training.batch_size))
    with jax.default_matmul_precision("highest"):
        found = jax.jit(parts.forward(of))(params, *inputs)
    return np.asarray(found, np.float32)


def _distance(actual: Any, desired: Any) -> float:
    import numpy as np

    return float(np.linalg.norm(actual - desired) / np.linalg.norm(desired))


def time_step(step: Step, num_steps: int, group: int = 10) -> dict[str, float]:
    """Time a step of training as `benchmarks.train` does, in groups between waits."""
    from benchmarks import timing

    step.run(group)
    return timing.spread(
        [step.run(group) / group for _ in range(max(2, num_steps // group))]
    )


def kernels(step: Step, num_steps: int = 5, most: int = 60) -> list[dict[str, Any]]:
    """Profile a few steps of training; return what the device's time went into."""
    import jax

    step.run(1)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step.run(num_steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        seconds: collections.Counter[str] = collections.Counter()
        calls: collections.Counter[str] = collections.Counter()
        for plane in profile.planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    seconds[event.name] += event.duration_ns / 1e9 / num_steps
                    calls[event.name] += 1
    return [
        {
            "name": name[:120],
            "ms_per_step": 1e3 * taken,
            "calls": calls[name] / num_steps,
        }
        for name, taken in seconds.most_common(most)
    ]


def read(path: Path) -> dict[str, Any]:
    """Read what `Found` wrote; empty if it wrote nothing."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {"results": {}, "failed": {}, "seconds": {}}


if __name__ == "__main__":
    sys.exit(main())
