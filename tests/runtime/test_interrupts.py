"""Ctrl-C and SIGTERM: never lost, quiet, and nothing that is to be kept is lost."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.cli import main
from ddpm_jax.commands import feed
from ddpm_jax.runtime import interrupts
from ddpm_jax.training.loop import catch_interrupts

ROOT = Path(__file__).parents[2]

# Stands in for a package that is imported: the signal comes in a callback of the
# garbage collector, as JAX registers one, where exceptions are dropped; then a call
# takes long.
COLLECTS = """
import gc, time
def callback(phase, info):
    if phase == "start":
        print("ready", flush=True)
        time.sleep(0.5)
gc.callbacks.append(callback)
gc.collect()
gc.callbacks.clear()
time.sleep(60)
"""
KEEPS = """
import sys, time
from ddpm_jax.runtime import interrupts
interrupts.GRACE = 0.3
interrupts.install()
with interrupts.keeping():
    print("ready", flush=True)
    while not interrupts.received():
        time.sleep(0.02)
    interrupts.check()  # leaves alone who saves
    time.sleep({})
    print("saved")
interrupts.check()
"""


def answer(*arguments, numbers, **options):
    """Send signals to a program that is ready: its status and streams."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        # Whoever runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        time.sleep(0.3)  # two at once would count as one press
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_the_collector_ends_the_start(number, tmp_path):
    (tmp_path / "jax.py").write_text(COLLECTS)
    found = answer(
        str(ROOT / "main.py"),
        "--config=digits",
        f"--workdir={tmp_path}/run",
        numbers=[number],
        env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert found == (128 + number, "", "interrupted.\n")


def test_what_is_to_be_kept_is_kept_however_long_it_takes():
    found = answer("-c", KEEPS.format(1), numbers=[signal.SIGTERM], cwd=ROOT)
    status, out, err = found
    assert (status, out) == (1, "saved\n")
    assert err.rstrip().endswith("Interrupted: 15")  # raised after it, by `check`


def test_a_second_signal_ends_it_without_saving():
    numbers = [signal.SIGINT, signal.SIGINT]
    found = answer("-c", KEEPS.format(60), numbers=numbers, cwd=ROOT)
    assert found == (130, "", "stopped without saving.\n")


def test_a_library_leaves_signals_alone(capsys):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["sample", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in numbers] == before
    assert not interrupts.is_installed()
    assert not interrupts.received()


@pytest.fixture
def handling(monkeypatch):
    """A program that handles signals, one of which is set by hand."""
    state = interrupts._Received()
    state.installed = True
    monkeypatch.setattr(interrupts, "_state", state)
    return state


def test_a_loop_is_left_alone_from_its_second_question_on(handling):
    """Up to then it has at most a first step, and may wait long for its compile."""
    with catch_interrupts() as interrupted:
        assert [interrupted(), handling.keepers] == [0, 0]
        assert [interrupted(), handling.keepers] == [0, 1]
        handling.number = signal.SIGTERM
        assert [interrupted(), handling.keepers] == [signal.SIGTERM, 1]
    assert handling.answered
    assert handling.keepers == 0


def test_batches_come_in_order_through_an_attended_wait(handling):
    batches = ({"image": np.full(2, i)} for i in itertools.count())
    stream = feed._attended(batches)
    assert [int(next(stream)["image"][0]) for _ in range(20)] == list(range(20))
    stream.close()


def test_a_wait_for_a_batch_ends_with_the_program(handling):
    never = threading.Event()

    def stuck():
        yield {"image": np.zeros(2)}
        never.wait(20)
        yield {}

    stream = feed._attended(stuck())
    next(stream)
    handling.number = signal.SIGINT
    with pytest.raises(interrupts.Interrupted):
        next(stream)
    never.set()


def test_what_a_batch_raises_is_raised_where_it_is_waited_for(handling):
    def broken():
        yield {"image": np.zeros(2)}
        raise OSError("gone")

    stream = feed._attended(broken())
    next(stream)
    with pytest.raises(OSError, match="gone"):
        next(stream)
