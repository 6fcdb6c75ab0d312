"""The one call for a GPU: what fails costs itself alone, and all ends in time.

The processes are stand-ins that take a second; what the real ones run is tested by
itself, or was there before.
"""

import itertools
import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import gpu, gpu_jobs, gpu_runs, gpu_step
from ddpm_jax import cli
from ddpm_jax.assembly import refuse_idle
from ddpm_jax.recipe import Diffusion, to_json
from ddpm_jax.requests import COMMANDS


@pytest.fixture
def log(tmp_path):
    return gpu_jobs.Log(tmp_path / "log.txt")


def job(name, program, log, limit=20.0):
    return gpu_jobs.Job(name, [sys.executable, "-c", program], log=log, limit=limit)


def ended(*jobs):
    return gpu_jobs.wait_until(lambda: not any([j.running() for j in jobs]), 20)


# --- Processes ------------------------------------------------------------------------


def test_a_process_that_fails_or_hangs_ends_none_but_itself(log, tmp_path, capsys):
    child = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print('child', p.pid, flush=True); time.sleep(60)"
    )
    fails = job("fails", "print('before'); raise SystemExit(3)", log)
    hangs = job("hangs", child, log, limit=1.0)
    works = job("works", "import time; time.sleep(2); print('after')", log)
    assert ended(fails, hangs, works)
    for one in (fails, hangs, works):
        one.drain()
    outcomes = [one.outcome() for one in (fails, hangs, works)]
    assert outcomes == ["failed with status 3", "out of time", "done"]
    written = (tmp_path / "log.txt").read_text()
    assert written == capsys.readouterr().out
    lines = [line.split(maxsplit=2)[1:] for line in written.splitlines()]
    assert ["fails", "before"] in lines and ["works", "after"] in lines
    (number,) = [int(text.split()[1]) for _, text in lines if text.startswith("child")]
    # Its children end too: they would go on computing while others are timed.
    assert gpu_jobs.wait_until(lambda: not is_alive(number), 5)


def is_alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_interrupted_process_may_finish_what_it_does(log):
    one = job(
        "saves",
        "import signal, time\n"
        "def save(*_): print('saved', flush=True); raise SystemExit(0)\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True)\n"
        "time.sleep(60)",
        log,
    )
    gpu_jobs.wait_until(lambda: "saves          ready" in log_text(log), 20)
    one.interrupt()
    assert ended(one)
    one.drain()
    assert one.outcome() == "done" and "saved" in log_text(log)


def log_text(log):
    with open(log._stream.name) as file:
        return file.read()


def test_what_fails_is_noted_and_the_rest_measured(tmp_path, capsys):
    found = gpu_step.Found(tmp_path / "step.json")

    def out_of_memory():
        raise RuntimeError("RESOURCE_EXHAUSTED: 90 GiB")

    found.attempt("first", lambda: {"ms": 20.5})
    found.attempt("second", out_of_memory)
    assert gpu_step.read(tmp_path / "step.json")["results"] == {"first": {"ms": 20.5}}
    found.attempt("third", lambda: 3)
    it = gpu_step.read(tmp_path / "step.json")
    assert it["results"] == {"first": {"ms": 20.5}, "third": 3}
    assert it["failed"] == {"second": "RuntimeError: RESOURCE_EXHAUSTED: 90 GiB"}
    assert list(it["seconds"]) == ["first", "second", "third"]
    assert "RESOURCE_EXHAUSTED" in capsys.readouterr().err, "with its traceback"


# --- Time -----------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [4.0, 9.0, 30.0])
@pytest.mark.parametrize("parts", [gpu.PARTS, ("compare",), ("cifar", "shapes")])
def test_the_plan_fits_the_minutes(minutes, parts):
    plan = gpu.make_plan(minutes, parts)
    assert plan.end == 60 * minutes
    turns = plan.alone + len(gpu._PEERS) * plan.turn
    assert 0 <= plan.compiled <= plan.alone <= turns <= plan.end
    assert turns <= plan.trained <= plan.end
    if "cifar" in parts:
        assert plan.end - plan.trained >= 0.1 * plan.end, "to draw and to score"
        assert plan.trained - turns > 0.1 * plan.end, "to train"


def test_as_many_steps_as_fit_are_taken():
    # 200 s, of which 40 to compile; 160 s of 1.2 * 20 ms each are 6,666.
    assert gpu.num_steps(200, 0.02, is_small=False) == 6600
    # 100 s, a quarter to compile; 75 s of 40 ms each, where nothing is known.
    assert gpu.num_steps(100, None, is_small=False) == 1800
    assert gpu.num_steps(1, 0.02, is_small=False) == 100
    assert gpu.num_steps(200, 0.02, is_small=True) == 10


# --- All of it ------------------------------------------------------------------------

_STAND_IN = """
import json, sys, time
from benchmarks.gpu_jobs import Turns
words = dict(word[2:].partition("=")[::2] for word in sys.argv[2:])
turns, name = Turns(words["turns"]), words.get("name", "step")
if name == "peers-sample":
    raise SystemExit("out of memory")
if name == "step":
    time.sleep(0.5)
    turns.give("compiled")
else:
    turns.wait("compiled", 20)
    turns.give(name + ".ready")
turns.wait(name + ".go", 20)
begin = time.time()
time.sleep(0.5)
times = [begin, time.time()]
if name == "step":
    record = {"results": {"alone": times}, "failed": {"fused": "no GPU"}, "seconds": {}}
else:
    ms = {"peers-train": 0.03, "peers-graphs": 0.02}[name]
    task = words["tasks"]
    spread = {"median": ms, "quartile_1": ms, "quartile_3": ms}
    about = {
        "largest_difference": 1e-6, "same_network": True, "num_parameters": 7,
        task: {
            "seconds": {"diffusers": spread, "ddpm_jax": spread}, "ratio": spread,
            "fastest": "x", "failed": {}, "times": times,
        },
    }
    record = {"benchmark": "peers", "results": {"peers": {"diffusers": about}}}
with open(words["out"], "w") as file:
    json.dump(record, file)
"""


def test_all_compile_at_once_and_nothing_runs_beside_what_is_timed(
    tmp_path, monkeypatch, capsys
):
    """One comparison crashes at the start; nobody waits for it."""

    def stand_in(*command):
        return [sys.executable, "-c", _STAND_IN, *command]

    monkeypatch.setattr(gpu, "python", stand_in)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    started = time.monotonic()
    out = tmp_path / "deep" / "out"
    assert gpu.main([f"--out={out}", "--minutes=1", "--parts=compare"]) == 1
    assert time.monotonic() - started < 25, "the plan would have let it take 33 s"
    found = json.loads((out / "gpu.json").read_text())
    assert found["outcomes"] == {
        "step": "done",
        "peers-train": "done",
        "peers-sample": "failed with status 1",
        "peers-graphs": "done",
    }
    assert found["missing"] == ["peers-sample: failed with status 1", "fused: no GPU"]
    about = {k: r["results"]["peers"]["diffusers"] for k, r in found["peers"].items()}
    times = [
        found["alone"]["results"]["alone"],
        about["peers-train"]["train"]["times"],
        about["peers-graphs"]["sample"]["times"],
    ]
    for (_, end), (begin, _) in itertools.pairwise(times):
        assert end <= begin
    record = json.loads((out / "gpu-peers.json").read_text())
    assert {"train", "sample"} <= set(record["results"]["peers"]["diffusers"])
    printed = capsys.readouterr().out
    assert "missing: \n  peers-sample: failed with status 1" in printed
    assert len(list(out.iterdir())) <= 8


def test_a_signal_leaves_no_process_behind_and_what_was_found(tmp_path, monkeypatch):
    started = []

    def run(session, part, parts):
        job = session.start("sleeps", "time.sleep(60)", until=60)
        started.append(job)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(gpu.Session, "run", run)
    monkeypatch.setattr(
        gpu, "python", lambda x: [sys.executable, "-c", f"import time; {x}"]
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        gpu.main([f"--out={tmp_path / 'out'}", "--minutes=1"])
    assert stopped.value.code == 128 + signal.SIGTERM
    assert started[0].outcome() == "the end"
    assert (
        "sleeps: the end"
        in json.loads((tmp_path / "out/gpu.json").read_text())["missing"]
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_of_two_ways_to_run_a_peer_the_faster_counts():
    def record(task, seconds):
        times = {"seconds": {"diffusers": {"median": seconds}}, "fastest": str(seconds)}
        about = {"largest_difference": 1e-6, task: times}
        return {"benchmark": "peers", "results": {"peers": {"diffusers": about}}}

    records = {
        "peers-train": record("train", 3.0),
        "peers-sample": record("sample", 2.0),
        "peers-graphs": record("sample", 1.0),
    }
    about = gpu.merged(records)["results"]["peers"]["diffusers"]
    assert about["train"]["fastest"] == "3.0" and about["sample"]["fastest"] == "1.0"


def test_the_trainings_are_given_options_that_there_are():
    for recipe, options in {
        "configs/cifar.py": [gpu_runs._SHORT],
        "configs/cifar_features.py": [gpu_runs._WIDER],
        "configs/shapes.py": [],
    }.items():
        for is_small in (False, True):
            what = recipe.removeprefix("configs/").removesuffix(".py").split("_")[-1]
            made, fixed = cli.load_recipe(recipe)
            words = gpu_runs.flags(*options, gpu_runs.small(what, is_small))
            stored = to_json(cli.override(made, words, fixed))
            for word in words:
                name, value = word.removeprefix("--config.").split("=", 1)
                section, option = name.split(".")
                found = stored[section][option]
                found = tuple(found) if isinstance(found, list) else found
                assert str(found) == value
    for more in ({}, gpu_runs.small("drawing", True)):
        words = gpu_runs.asked("evaluate", gpu_runs._DRAWING, more)
        read = cli.read_line(["evaluate", "runs/a", *words])
        assert (
            read.values["num_steps"] == (more or gpu_runs._DRAWING)["sample.num_steps"]
        )
    args = SimpleNamespace(workdir="runs/a", features="runs/b", small=True)
    for what in ((), ("--images=data:test",)):
        read = cli.read_line(gpu_runs._scoring(args, *what))
        asked = COMMANDS[read.command](**read.values)
        refuse_idle(Diffusion(), asked)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--parts=cifar,imagenet"], "--parts=cifar,imagenet is not known"),
     (["--minutes=0"], "--minutes=0.0 is too small")],
)  # fmt: skip
def test_a_flag_that_cannot_work_is_refused(flags, message, tmp_path, capsys):
    assert gpu.main([f"--out={tmp_path / 'out'}", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
