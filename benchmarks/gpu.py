"""All measurements that need a GPU, in one call with a time limit.

    python -m benchmarks.gpu --minutes=9 --out=results

In the order of what is wanted most:

1. `compare`: ddpm_jax alone (a step of training, its share of the matmul rate, the
   sampler against its forward passes, cuDNN's attention, the kernels that take most
   time), and against compiled PyTorch with the same weights.
2. `cifar`: configs/cifar.py in bfloat16, as many steps as the time allows, its images
   and scores; beside it the classifier that it is scored with.
3. `shapes`: configs/shapes.py with further seeds, for the scatter between trainings.

Every piece is a process with an end of its own, so that what fails costs its own result
alone. Compilers work at the same time; while something is timed, nothing else runs. The
folder gets eight files: the log, all results as JSON, three records for
`benchmarks.table`, and curve, images and metrics of the training.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import gpu_runs, gpu_step
from benchmarks.gpu_jobs import Job, Log, Turns, python, wait_until
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

PARTS = ("compare", "cifar", "shapes")
SHAPES_SEEDS = (1, 2)
_PEERS = {  # name -> (task, variants of PyTorch)
    "peers-train": ("train", "compiled_channels_last,channels_last"),
    "peers-sample": ("sample", "compiled_channels_last"),
    "peers-graphs": ("sample", "graphs_channels_last"),
}
_LONGEST_FILE = 16 * 2**20 - 1  # bytes, of what is copied to the folder


class Plan(NamedTuple):
    """When what ends, in seconds from the start.

    Attributes:
        compiled: the compilers have had their time, and measuring begins.
        alone: ddpm_jax has been measured.
        turn: what each comparison may take after that.
        trained: training stops, and samples are generated and scored.
        end: of everything.
    """

    compiled: float
    alone: float
    turn: float
    trained: float
    end: float


def make_plan(minutes: float, parts: tuple[str, ...]) -> Plan:
    """Divide the time: what compiles does not get faster where there is less of it."""
    end = 60.0 * minutes
    if "compare" not in parts:
        return Plan(0, 0, 0, end - _closing(end), end)
    if parts == ("compare",):
        return Plan(0.5 * end, 0.78 * end, 0.06 * end, end, end)
    return Plan(0.3 * end, 0.5 * end, 0.05 * end, end - _closing(end), end)


def _closing(end: float) -> float:
    """The seconds that sampling, scoring and copying take at the end."""
    return 0.15 * end


def main(argv: list[str] | None = None) -> int:
    """Run all parts; 0 if nothing is missing, 1 if something is, 2 for a wrong flag."""
    args = _parse(argv)
    try:
        parts = _parts(args.parts)
        if args.minutes <= 0:
            raise UserError(f"--minutes={args.minutes} is too small; use 9.")
        args.out.mkdir(parents=True, exist_ok=True)
        log = Log(args.out / "log.txt")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.data_dir:
        os.environ["TFDS_DATA_DIR"] = str(Path(args.data_dir).resolve())
    with tempfile.TemporaryDirectory(prefix="gpu-") as work:
        # What was compiled for one process is there for the next; nothing older is.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{work}/xla")
        session = Session(args, Path(work), log, make_plan(args.minutes, parts))
        # A scheduler's signal: results are written, and no process is left.
        before = signal.signal(signal.SIGTERM, _stop)
        try:
            for part in ("compare", "runs"):
                try:
                    session.run(part, parts)
                except Exception:  # a defect here must not cost what was measured
                    log.line("gpu", traceback.format_exc())
        finally:
            session.close()
            found = session.keep()
            signal.signal(signal.SIGTERM, before)
    log.line("gpu", "all is written\n")
    print(report(found), flush=True)
    return 1 if found["missing"] else 0


def _stop(number: int, frame: Any) -> None:
    del frame
    raise SystemExit(128 + number)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Everything a GPU is needed for, in one call.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them")
    parser.add_argument("--data-dir", help="of TFDS data; unset: $TFDS_DATA_DIR")
    parser.add_argument("--dtype", default="bfloat16", help="of ddpm_jax and PyTorch")
    parser.add_argument("--batch-size", type=int, default=128, help="of training")
    parser.add_argument(
        "--small", action="store_true", help="tiny networks: does all of it run?"
    )
    return parser.parse_args(argv)


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(part for part in PARTS if part in text.split(","))
    unknown = set(text.split(",")) - set(PARTS)
    if unknown or not chosen:
        raise UserError(f"--parts={text} is not known; use some of {','.join(PARTS)}.")
    return chosen


class Session:
    """The processes of one call, and their results."""

    def __init__(
        self, args: argparse.Namespace, work: Path, log: Log, plan: Plan
    ) -> None:
        """Start nothing yet.

        Args:
            args: of the command line.
            work: an empty folder for what is not kept.
            log: of all processes.
            plan: when what ends.
        """
        self.args, self.work, self.log, self.plan = args, work, log, plan
        self.jobs: dict[str, Job] = {}

    def run(self, part: str, parts: tuple[str, ...]) -> None:
        """Run what belongs to a part, if it is wanted."""
        if part == "compare" and "compare" in parts:
            self._compare()
        if part == "runs" and {"cifar", "shapes"} & set(parts):
            self._train(parts)

    def start(self, name: str, *command: str, until: float) -> Job:
        """Start a process that ends at a second of the plan."""
        limit = until - self.log.seconds()
        job = Job(name, python(*command), log=self.log, limit=limit)
        self.jobs[name] = job
        return job

    def left(self, second: float) -> float:
        """Return how many seconds are left until a second of the plan."""
        return max(0.0, second - self.log.seconds())

    # --- Against PyTorch, and alone ---------------------------------------------------

    def _compare(self) -> None:
        """Let all compile at once, then each measure while no other does anything."""
        turns, plan, args = Turns(self.work / "turns"), self.plan, self.args
        # Random pixels take as long, and need not be decoded: data of no folder.
        options = {"network.dtype": args.dtype, "data.data_dir": self.work / "no-data"}
        recipe = [
            "--config=configs/cifar.py",
            f"--batch-size={args.batch_size}",
            *gpu_runs.flags(options, gpu_runs.small("step", args.small)),
        ]
        common = [*recipe, f"--turns={self.work / 'turns'}"]
        chain = f"--chain-steps={4 if args.small else 50}"
        step = self.start(
            "step", "benchmarks.gpu_step", *common, chain, *self._step_sizes(),
            f"--out={self.work / 'step.json'}", until=plan.alone,
        )  # fmt: skip
        peers = [
            self.start(
                name, "benchmarks.gpu_peer", *common, chain, *self._peer_sizes(task),
                f"--name={name}", "--peers=diffusers", f"--tasks={task}",
                f"--variants={variants}", f"--out={self.work / name}.json",
                until=plan.alone + (len(_PEERS) + 1) * plan.turn,
            )
            for name, (task, variants) in _PEERS.items()
        ]  # fmt: skip

        def at_rest(job: Job) -> bool:
            return turns.given(f"{job.name}.ready") or not job.running()

        def compiled() -> bool:
            own = turns.given("compiled") or not step.running()
            if own and not turns.given("compiled"):
                turns.give("compiled")  # the others need not wait for the dead
            return own and all([at_rest(peer) for peer in peers])

        if not wait_until(compiled, self.left(plan.compiled)):
            late = [peer.name for peer in peers if not at_rest(peer)]
            self.log.line("gpu", f"measuring begins while {late} compile")
        turns.give("step.go")
        wait_until(lambda: not step.running(), self.left(plan.alone) + 5)
        turns.give("compiled")
        for peer in peers:
            turns.give(f"{peer.name}.go")
            peer.deadline = min(peer.deadline, self.log.seconds() + plan.turn)
            if not at_rest(peer):  # it may still compile
                peer.deadline += plan.turn
            wait_until(lambda peer=peer: not peer.running(), 3 * plan.turn + 5)
        self.keep()

    def _step_sizes(self) -> list[str]:
        if not self.args.small:
            return []
        return [
            "--sample-batch=4",
            "--sample-steps=5",
            "--num-steps=4",
            "--matmul-side=64",
        ]

    def _peer_sizes(self, task: str) -> list[str]:
        # Outputs in bfloat16 are compared by one of them.
        check = f"--check={'float32' if task == 'train' else 'all'}"
        if self.args.small:
            return [check, "--num-turns=2", "--num-steps=1"]
        return [check, "--num-turns=10", "--num-steps=20"]

    # --- Trainings --------------------------------------------------------------------

    def _train(self, parts: tuple[str, ...]) -> None:
        """Train cifar to the end of the plan, and beside it what is small."""
        plan, args = self.plan, self.args
        small = ["--small"] * args.small
        features = self.work / "features"
        cifar = None
        if "cifar" in parts:
            steps = num_steps(
                self.left(plan.trained), self._step_seconds(), is_small=args.small
            )
            cifar = self.start(
                "cifar", "benchmarks.gpu_runs", "cifar", *small,
                f"--workdir={self.work / 'cifar'}", f"--features={features}",
                f"--num-steps={steps}", f"--batch-size={args.batch_size}",
                f"--dtype={args.dtype}", until=plan.end - 5,
            )  # fmt: skip
            # It chooses its convolutions by their speed: not beside anything else.
            wait_until(
                lambda: self._training_began() or not cifar.running(),
                self.left(plan.trained) / 3,
            )
            self.start(
                "features", "benchmarks.gpu_runs", "features", *small,
                f"--workdir={self.work / 'cifar'}", f"--features={features}",
                until=plan.end - 5,
            )  # fmt: skip
        if "shapes" in parts:
            for seed in SHAPES_SEEDS:
                self.start(
                    f"shapes-{seed}", "benchmarks.gpu_runs", "shapes", *small,
                    f"--seed={seed}", f"--workdir={self.work / f'shapes-{seed}'}",
                    until=plan.end - 5,
                )  # fmt: skip
        if cifar is not None:
            wait_until(
                lambda: self._is_trained() or not cifar.running(),
                self.left(plan.trained),
            )
            if not self._is_trained():
                cifar.interrupt()
        wait_until(
            lambda: not any([job.running() for job in self.jobs.values()]),
            self.left(plan.end - 3),
        )

    def _step_seconds(self) -> float | None:
        step = gpu_step.read(self.work / "step.json")["results"].get("train")
        return step and step["results"]["loop"]["seconds_per_step"]

    def _training_began(self) -> bool:
        path = self.work / "cifar" / "metrics.jsonl"
        return path.exists() and path.stat().st_size > 0

    def _is_trained(self) -> bool:
        return (self.work / "cifar" / "loss.png").exists()

    # --- The end ----------------------------------------------------------------------

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            job.kill("the end")
            job.drain()

    def keep(self) -> dict[str, Any]:
        """Copy the results worth keeping to the folder, and return all of them."""
        out, work = self.args.out, self.work
        found = collect(work, {name: job.outcome() for name, job in self.jobs.items()})
        found["seconds"] = round(self.log.seconds(), 1)
        files.write_json(out / "gpu.json", found)
        for name in ("train", "sample"):
            if name in found["alone"]["results"]:
                record = found["alone"]["results"][name]
                files.write_json(out / f"gpu-{name}.json", record)
        if found["peers"]:
            files.write_json(out / "gpu-peers.json", merged(found["peers"]))
        grids = sorted((work / "cifar").glob("samples/**/grid.png"))
        pictures = {
            "cifar_metrics.jsonl": work / "cifar" / "metrics.jsonl",
            "cifar_loss.png": work / "cifar" / "loss.png",
            "cifar_samples.png": grids[-1] if grids else work / "none",
        }
        for name, path in pictures.items():
            if path.exists() and path.stat().st_size <= _LONGEST_FILE:
                shutil.copyfile(path, out / name)
        return found


def num_steps(seconds: float, step_seconds: float | None, *, is_small: bool) -> int:
    """Return how many steps of training fit, a compilation before them counted.

    The last steps, of small learning rates, are worth more than some more in all: so a
    fifth is kept in reserve for what runs beside it, and more where nothing is known.

    Args:
        seconds: until training has to stop.
        step_seconds: of one step, None if it could not be measured.
        is_small: take a few, whatever the time.
    """
    if is_small:
        return 10
    compiling = min(40.0, 0.25 * seconds)
    each = 1.2 * step_seconds if step_seconds else 0.04
    return max(100, int((seconds - compiling) / each) // 100 * 100)


# --- Results --------------------------------------------------------------------------


def collect(work: Path, outcomes: dict[str, str]) -> dict[str, Any]:
    """Gather what all processes wrote, and list what is missing.

    Args:
        work: their folder.
        outcomes: how each of them ended, by name.
    """
    alone = gpu_step.read(work / "step.json")
    peers = {}
    for name in _PEERS:
        path = work / f"{name}.json"
        if path.exists():
            peers[name] = json.loads(path.read_text())
    scores = gpu_runs.rows(work / "cifar", "evaluation/*/*/scores_*.json")
    shapes = {
        folder.name: gpu_runs.rows(folder, "attributes/*/attributes.json")
        for folder in sorted(work.glob("shapes-*"))
    }
    metrics = work / "cifar" / "metrics.jsonl"
    curve = metrics.read_text().splitlines() if metrics.exists() else []
    classifier = gpu_runs.rows(work / "features", gpu_runs.ABOUT_FEATURES)
    missing = [
        f"{name}: {text}" for name, text in outcomes.items() if text != "done"
    ] + [f"{name}: {text}" for name, text in alone["failed"].items()]
    wanted = {"cifar": scores, **shapes}
    missing += [
        f"{name}: no scores" for name, rows in wanted.items()
        if name in outcomes and not rows
    ]  # fmt: skip
    return {
        "outcomes": outcomes,
        "missing": missing,
        "alone": alone,
        "peers": peers,
        "cifar": {"last": json.loads(curve[-1]) if curve else None, "scores": scores},
        "classifier": classifier[0]["accuracy"] if classifier else None,
        "shapes": shapes,
    }


def merged(records: dict[str, Any]) -> dict[str, Any]:
    """Make one record of both tasks, for `benchmarks.table`; the faster peer counts."""
    tasks: dict[str, Any] = {}
    for name, record in records.items():
        task, _ = _PEERS[name]
        about = record["results"]["peers"]["diffusers"]
        best = tasks.get(task)
        if best is None or _peer_seconds(about, task) < _peer_seconds(best, task):
            tasks[task] = about
    first = next(iter(records.values()))
    joined = {name: value for about in tasks.values() for name, value in about.items()}
    results = {**first["results"], "peers": {"diffusers": joined}}
    return {**first, "results": results}


def _peer_seconds(about: dict[str, Any], task: str) -> float:
    return about[task]["seconds"]["diffusers"]["median"]


def report(found: dict[str, Any]) -> str:
    """Format the results, and what is missing."""
    lines = ["", "what                                      found", "-" * 72]
    for title, value in _lines(found):
        lines.append(f"{title:<41} {value}")
    lines += ["", "missing: " + ("nothing" if not found["missing"] else "")]
    lines += [f"  {text[:200]}" for text in found["missing"]]
    ends = ", ".join(f"{name} {text}" for name, text in found["outcomes"].items())
    return "\n".join([*lines, f"processes: {ends}; {found['seconds']} s in all"])


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    alone, lines = found["alone"]["results"], []
    about = alone.get("environment")
    if about:
        lines += [
            ("device", f"{about['devices']['kind']}; {about['nvidia_smi']}"),
            ("versions", str(about["all_versions"])),
            ("copy on the device", f"{about['copy_bytes_per_second'] / 1e12:.2f} TB/s"),
        ]
    if "compile step" in alone:
        seconds = sum(alone["compile step"].values())
        lines.append(("compile the step, from nothing", f"{seconds:.1f} s"))
    if "train" in alone:
        lines += _of_training(alone["train"]["results"])
    if "sample" in alone:
        lines += _of_sampling(alone["sample"]["results"])
    for name, title in (("fused", "cuDNN's"), ("plain", "plain")):
        if name in alone:
            lines.append((f"step with {title} attention", _ms(alone[name])))
    for name in ("outputs", "fused outputs"):
        if name in alone:
            pairs = [f"{key} {value:.1e}" for key, value in alone[name].items()]
            lines.append((name, ", ".join(pairs)))
    for name, record in found["peers"].items():
        lines += _of_peers(name, record["results"]["peers"]["diffusers"])
    return lines + _of_cifar(found) + _of_shapes(found["shapes"])


def _ms(spread: dict[str, float]) -> str:
    low, high = 1e3 * spread["quartile_1"], 1e3 * spread["quartile_3"]
    return f"{1e3 * spread['median']:.2f} ms ({low:.2f} to {high:.2f})"


def _of_training(it: dict[str, Any]) -> list[tuple[str, str]]:
    rate = it["matmul"]["flops_per_second"] / 1e12
    return [
        ("matrix product", f"{rate:.3g} TFLOP/s in {it['matmul']['dtype']}"),
        (f"step of training, batch {it['batch_size']}", _ms(it["step_seconds"])),
        ("  in the loop", f"{1e3 * it['loop']['seconds_per_step']:.2f} ms"),
        ("  waits for data", f"{it['loop']['wait_share']:.1%}"),
        ("  images/s", f"{it['images_per_second']:,.0f}"),
        ("  of the matmul rate (40%)", f"{it['share_of_matmul']:.1%}"),
        ("  800,000 steps, hours (3.5)", _hours(it["loop"]["seconds_per_step"])),
    ]


def _hours(step_seconds: float) -> str:
    return f"{800_000 * step_seconds / 3600:.2f}"


def _of_sampling(it: dict[str, Any]) -> list[tuple[str, str]]:
    ratio = it["draw_over_forward_passes"]
    what = f"{it['batch_size']} images by {it['num_steps']} steps (8 s)"
    return [
        (what, f"{it['draw_seconds']['median']:.2f} s"),
        ("  forward pass", _ms(it["forward_seconds"])),
        (
            "  sampler / its forward passes (1.05)",
            f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['greatest']:.3f})",
        ),
        ("  of the matmul rate", f"{it['share_of_matmul']:.1%}"),
    ]


def _of_peers(name: str, about: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(f"{name}: outputs differ by", f"{about['largest_difference']:.1e}")]
    if "in_bfloat16" in about:
        pairs = [f"{key} {value:.1e}" for key, value in about["in_bfloat16"].items()]
        lines.append(("  in bfloat16", ", ".join(pairs)))
    for task in ("train", "sample"):
        if task not in about:
            continue
        it = about[task]
        ratio = it["ratio"]
        lines += [
            (f"  diffusers, {it['fastest']}", _ms(it["seconds"]["diffusers"])),
            ("  ddpm_jax", _ms(it["seconds"]["ddpm_jax"])),
            (
                f"  ratio of {task}, above 1 it is faster",
                f"{ratio['median']:.3f} "
                f"({ratio['quartile_1']:.3f} to {ratio['quartile_3']:.3f})",
            ),
        ]
        lines += [(f"  {v} does not run", text) for v, text in it["failed"].items()]
    return lines


def _of_cifar(found: dict[str, Any]) -> list[tuple[str, str]]:
    last, lines = found["cifar"]["last"], []
    if last:
        lines.append(("cifar: last report", json.dumps(last)))
    if found["classifier"]:
        lines.append(("  the classifier reads", json.dumps(found["classifier"])))
    for row in found["cifar"]["scores"]:
        scores = {name: round(one["value"], 4) for name, one in row["scores"].items()}
        lines.append((f"  {row['num_images']:,} {row['images']}"[:41], str(scores)))
    return lines


def _of_shapes(shapes: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            f"{name}: {row['prompts']}, seed {row['seed']}",
            f"{row['share']['scene']:.1%} of {row['num_images']:,} all right",
        )
        for name, rows in shapes.items()
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
