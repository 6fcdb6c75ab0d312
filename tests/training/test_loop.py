"""The loop: what is called when, what is averaged, what stops it."""

import contextlib
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.interrupts import Interrupted
from ddpm_jax.training.log import METRICS_FILE, open_log, read_metrics
from ddpm_jax.training.loop import Hook, Pace, Report, catch_interrupts, train_loop
from ddpm_jax.training.state import TrainState


def counting_step(state, key, batch):
    """Count; the loss of step k is k."""
    del key, batch
    step = state.step + 1
    metrics = {
        "loss": jnp.where(step == 13, jnp.nan, step.astype(jnp.float32)),
        "grad_norm": 2.0 * step,
        "curve": jnp.zeros(3),  # no number: not in the mean
    }
    return state.replace(step=step), metrics


def run(num_steps, *, start=0, report_every=4, hooks=(), **options):
    reports = []
    state = TrainState(jnp.int32(start), {}, {}, {})
    batches = iter(lambda: {"image": np.zeros((2, 1))}, None)
    state = train_loop(
        state,
        counting_step,
        batches,
        jax.random.key(0),
        num_steps=num_steps,
        report_every=report_every,
        report=reports.append,
        hooks=hooks,
        **options,
    )
    return int(state.step), reports


def test_reports_average_exactly_the_steps_since_the_last_one():
    _, reports = run(10)
    assert [r.step for r in reports] == [4, 8, 10]
    # Means of 1..4, 5..8 and 9..10.
    assert [r.loss for r in reports] == pytest.approx([2.5, 6.5, 9.5])
    norms = [r.numbers["grad_norm"] for r in reports]
    assert norms == pytest.approx([5.0, 13.0, 19.0])
    assert set(reports[0].numbers) == {"loss", "grad_norm"}


def test_a_later_step_takes_the_place_of_the_first_from_its_number_on():
    def doubled(state, key, batch):
        state, metrics = counting_step(state, key, batch)
        return state, {**metrics, "loss": 2 * metrics["loss"], "hinge": metrics["loss"]}

    _, reports = run(8, later=((2, doubled), (5, counting_step)))
    # Steps 1 and 2, then 3, 4 and 5 doubled (counted from 0: 2, 3 and 4), then 6 to 8.
    assert reports[0].loss == pytest.approx((1 + 2 + 6 + 8) / 4)
    assert reports[1].loss == pytest.approx((10 + 6 + 7 + 8) / 4)
    # Of the steps that have it.
    assert reports[0].numbers["hinge"] == pytest.approx(3.5)
    _, resumed = run(8, start=3, later=((2, doubled), (5, counting_step)))
    assert resumed[0].loss == pytest.approx(8.0)


def test_hooks_run_at_their_steps_and_at_the_end_and_see_that_state():
    seen = []

    def note(step, state):
        seen.append((step, int(state.step)))

    run(7, report_every=100, hooks=(Hook(3, note),))
    assert seen == [(3, 3), (6, 6), (7, 7)]


def test_a_resumed_loop_reports_at_the_same_steps():
    _, reports = run(10, start=6)
    assert [r.step for r in reports] == [8, 10]
    assert reports[0].loss == pytest.approx(7.5)


def test_an_interrupted_loop_saves_but_does_nothing_long():
    seen, asked = [], iter([False, False, True])
    last, reports = run(
        10,
        hooks=(
            Hook(100, lambda step, state: seen.append(("save", step)), True),
            Hook(3, lambda step, state: seen.append(("draw", step))),
        ),
        interrupted=lambda: next(asked),
    )
    assert (last, seen) == (3, [("save", 3)])
    assert [r.step for r in reports] == [3]


def test_an_interruption_at_the_last_step_finds_the_loop_finished():
    seen = []
    last, _ = run(
        1,
        hooks=(Hook(100, lambda step, state: seen.append(step)),),
        interrupted=lambda: True,
    )
    assert (last, seen) == (1, [1])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UserError("cannot read the image x.png"), pytest.raises(UserError, match="x")),
        (Interrupted(2), contextlib.nullcontext()),  # Ctrl-C during a wait for it
    ],
)
def test_a_batch_that_does_not_come_saves_before_it_stops(error, outcome):
    def batches():
        yield {"image": np.zeros((2, 1))}
        yield {"image": np.zeros((2, 1))}
        raise error

    seen = []
    with outcome:
        train_loop(
            TrainState(jnp.int32(0), {}, {}, {}),
            counting_step,
            batches(),
            jax.random.key(0),
            num_steps=9,
            report_every=9,
            report=seen.append,
            hooks=(
                Hook(9, lambda step, state: seen.append((step, int(state.step))), True),
            ),
        )
    assert seen == [(2, 2)]


def test_a_loss_that_is_not_finite_stops_the_run_before_any_hook_sees_it():
    seen = []
    with pytest.raises(UserError, match="loss is nan at step 13; rate of step 13"):
        run(
            20,
            report_every=20,
            hooks=(Hook(6, lambda step, state: seen.append(step)),),
            describe_failure=lambda step: f"rate of step {step}",
        )
    assert seen == [6, 12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_once_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with catch_interrupts() as interrupted:
        assert interrupted() == 0
        os.kill(os.getpid(), number)
        assert interrupted() == number
        assert signal.getsignal(number) == before  # a second one acts as usual
    assert signal.getsignal(number) == before


def report_of(step):
    return Report(step, {"loss": 0.5, "loss_q1": float("nan")}, 100.0)


def test_metrics_hold_every_step_once_after_a_crash(tmp_path):
    def write(start, steps):
        with open_log(
            tmp_path, start=start, num_steps=40, learning_rate=lambda step: step / 10
        ) as log:
            for step in steps:
                log.report(report_of(step))

    write(0, [10, 20, 30])
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"step": 4')  # a line that a kill cut short
    write(20, [30, 40])  # resumed from step 20
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == [10, 20, 30, 40]
    assert records[0]["loss_q1"] is None  # JSON has no nan
    assert records[3]["learning_rate"] == pytest.approx(3.9)
    for line in (tmp_path / METRICS_FILE).read_text().splitlines():
        json.loads(line)


def test_a_line_that_cannot_be_read_takes_no_other_with_it(tmp_path, capsys):
    def write(start, steps):
        with open_log(
            tmp_path, start=start, num_steps=40, learning_rate=lambda step: 0.1
        ) as log:
            for step in steps:
                log.report(report_of(step))

    path = tmp_path / METRICS_FILE
    write(0, [10, 20, 30])
    lines = path.read_bytes().splitlines()
    bad = [b"\xff\x85\x00", b"[" * 100_000, b"{}", b"7", b'{"step": "x", "loss": 1}']
    path.write_bytes(b"\n".join([lines[0], *bad, *lines[1:], b'{"step": 4']))
    assert [r["step"] for r in read_metrics(tmp_path)] == [10, 20, 30]
    write(20, [30, 40])
    assert [r["step"] for r in read_metrics(tmp_path)] == [10, 20, 30, 40]
    assert f"note: 5 line(s) of {path}" in capsys.readouterr().err
    assert path.read_bytes().count(b"\n") == 4


def test_numbers_are_kept_where_tensorboard_cannot_write(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file of somebody's")
    with open_log(
        tmp_path, start=0, num_steps=9, learning_rate=lambda step: 0.1
    ) as log:
        log.report(report_of(3))
        log.image("samples", np.zeros((4, 4, 3), np.uint8), 3)
        log.report(report_of(6))
    assert [record["step"] for record in read_metrics(tmp_path)] == [3, 6]
    (note,) = capsys.readouterr().err.strip().splitlines()
    assert note.startswith("note: ") and "tensorboard" in note
    assert (tmp_path / "tensorboard").read_text() == "a file of somebody's"


def test_the_host_is_never_more_than_eight_steps_ahead():
    """Of several CPU devices XLA would take 32 programs, and could then stand still."""
    done = []

    class Result:
        def __init__(self, number):
            self.number = number

        def block_until_ready(self):
            done.append(self.number)
            return self

    pace = Pace()
    for number in range(20):
        pace(Result(number))
        assert number - (done[-1] if done else -1) <= 8
    assert done == list(range(12))
