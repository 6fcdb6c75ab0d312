"""The training loop: steps in, reports and hooks out.

Steps are dispatched without waiting for their results; numbers are fetched only where
a report or a hook is due, and every loss up to there is checked before anything is
saved, so that no checkpoint ever holds the result of a non-finite step.
"""

import collections
import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import interrupts
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.task import Batch, Step, Summary, means

_MAX_IN_FLIGHT = 8


class Pace:
    """Keeps the host no more than a few steps ahead of the devices.

    Dispatching further ahead gains nothing, and would make the progress bar and the
    answer to an interruption lag behind what is computed. On several CPU devices it
    must not be left out: XLA takes 32 programs for each and then has the host wait,
    at which steps with a collective can end up waiting for each other for ever.
    """

    def __init__(self) -> None:
        self._dispatched: collections.deque[jax.Array] = collections.deque()

    def __call__(self, result: jax.Array) -> None:
        """Add the result of a step, [...], and wait for that of some steps before."""
        self._dispatched.append(result)
        if len(self._dispatched) > _MAX_IN_FLIGHT:
            jax.block_until_ready(self._dispatched.popleft())


class Hook(NamedTuple):
    """Something to do with the state now and then.

    Attributes:
        every: in steps; it is also done when the loop reaches its end.
        run: (step, state) -> None. The state is read before the next step donates it.
        when_stopped: whether it is also done when the loop is stopped early. What
            saves is; what takes long is not, since the user waits for a program to
            stop.
    """

    every: int
    run: Callable[[int, TrainState], None]
    when_stopped: bool = False


class Report(NamedTuple):
    """What happened since the last report.

    Attributes:
        step: the last one.
        numbers: the summary of its steps.
        examples_per_second: of the loop alone: no compile, no hooks.
    """

    step: int
    numbers: Summary
    examples_per_second: float

    @property
    def loss(self) -> float:
        """Return the mean loss of these steps."""
        return self.numbers["loss"]


def train_loop(
    state: TrainState,
    train_step: Step,
    batches: Iterator[Batch],
    key: jax.Array,
    *,
    num_steps: int,
    report_every: int,
    report: Callable[[Report], None],
    later: tuple[tuple[int, Step], ...] = (),
    summarize: Callable[[list[dict]], Summary] = means,
    hooks: tuple[Hook, ...] = (),
    interrupted: Callable[[], bool] = lambda: False,
    on_step: Callable[[], Any] = lambda: None,
    describe_failure: Callable[[int], str] = lambda step: "",
) -> TrainState:
    """Train from `state.step` to `num_steps`, or until interrupted.

    Args:
        state: where to start; donated.
        train_step: compiled step.
        batches: the batch of step `state.step`, then those that follow; one that is
            waited for in vain may raise `interrupts.Interrupted`.
        key: [], of the run; the step folds its number in.
        num_steps: where to end.
        report_every: in steps; aligned to the step's number, so that a resumed run
            reports at the same steps.
        report: called with each report.
        later: (number, compiled step) in rising order: takes the place of the one
            before it from that step on, counted from 0.
        summarize: metrics of several steps -> the numbers of a report.
        hooks: called in this order, after the report of their step.
        interrupted: called after every step; True ends the loop, `when_stopped` hooks
            done.
        on_step: called after every step, for a progress bar.
        describe_failure: step -> the rest of the message if its loss is not finite.

    Returns:
        The last state; its step shows whether the loop finished.

    Raises:
        UserError: if a loss is not finite, and no hook sees that state; or if the
            next batch cannot be read, `when_stopped` hooks done.
    """
    pending: list[dict] = []  # on the device, of steps not yet checked
    window: list[dict] = []  # fetched, of steps not reported yet
    busy, examples = 0.0, 0
    started = time.perf_counter()
    periods = [hook.every for hook in hooks]
    first, pace, is_compiled = int(state.step) + 1, Pace(), False

    def keep(step: int) -> None:
        """Save the state of a step, whose next batch does not come."""
        _check_finite(
            jax.device_get(pending), step + 1 - len(pending), describe_failure
        )
        _run(hooks, step, state, stopped=True)

    for step in range(first, num_steps + 1):
        try:
            batch = next(batches)
        except UserError:
            keep(step - 1)
            raise
        except interrupts.Interrupted:
            keep(step - 1)
            break
        examples += len(jax.tree.leaves(batch)[0])
        while later and later[0][0] < step:
            (_, train_step), *rest = later
            later, is_compiled = tuple(rest), False
        state, metrics = train_step(state, key, batch)
        if not is_compiled:  # it has been now; the time is not a measure of speed
            jax.block_until_ready(metrics)
            busy, examples, is_compiled = 0.0, 0, True
            started = time.perf_counter()
        pending.append(metrics)
        pace(metrics["loss"])
        on_step()
        stopped = interrupted() and step < num_steps
        last = stopped or step == num_steps
        if last or any(step % every == 0 for every in (report_every, *periods)):
            fetched = jax.device_get(pending)
            _check_finite(fetched, step - len(fetched) + 1, describe_failure)
            window += fetched
            pending.clear()
            busy += time.perf_counter() - started
            if last or step % report_every == 0:
                rate = examples / busy if examples else 0.0
                report(Report(step, summarize(window), rate))
                window.clear()
                busy, examples = 0.0, 0
            _run(hooks, step, state, stopped=stopped, at_end=step == num_steps)
            started = time.perf_counter()
        if last:
            break
    return state


def _run(
    hooks: tuple[Hook, ...],
    step: int,
    state: TrainState,
    *,
    stopped: bool = False,
    at_end: bool = False,
) -> None:
    for hook in hooks:
        wanted = hook.when_stopped if stopped else at_end or step % hook.every == 0
        if wanted:
            hook.run(step, state)


def _check_finite(
    metrics: list[dict], first_step: int, describe_failure: Callable[[int], str]
) -> None:
    for offset, one in enumerate(metrics):
        for name in ("loss", "grad_norm"):
            if not math.isfinite(one.get(name, 0.0)):
                step = first_step + offset
                raise UserError(
                    f"{name} is {one[name]} at step {step}; {describe_failure(step)}"
                )


@contextlib.contextmanager
def catch_interrupts(start: int = 0) -> Iterator[Callable[[], int]]:
    """Turn SIGINT and SIGTERM into a function that the loop calls between steps.

    Args:
        start: how many steps are done; on several hosts, the same on all.

    Yields:
        A function that returns the number of the signal that came, or 0. A second
        signal of the same kind acts as it would have without this. On several hosts
        all of them call it after each step, and get the same result at the same step.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # Python delivers signals to the main thread alone
        return
    if jax.process_count() > 1:
        with _interrupt_as_terminate(), interrupts.keeping():
            interrupts.answered()
            yield _agreed(start)
        return
    if interrupts.is_installed():
        with contextlib.ExitStack() as kept:
            yield _noted(kept)
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, frame: Any) -> None:
        del frame
        came.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: came[0] if came else 0
    finally:
        for came_before, handler in before.items():
            signal.signal(came_before, handler)


def _noted(kept: contextlib.ExitStack) -> Callable[[], int]:
    """Return the received signal; from the second call on, nothing is lost.

    Up to there at most a first step was taken, which may wait long for a compile.
    """
    calls = 0

    def stopped() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            kept.enter_context(interrupts.keeping())
        if interrupts.received():
            interrupts.answered()
        return interrupts.received()

    return stopped


def _agreed(start: int) -> Callable[[], int]:
    """Return whether all hosts stop here, because one of them got a signal.

    JAX's runtime takes SIGTERM itself. It informs the other hosts in the background,
    and they agree on the step after the last that any of them has started; the call
    reads a number, with no communication.
    """
    calls, came = start, False

    def stopped() -> int:
        nonlocal calls, came
        if not came:
            calls += 1
            came = multihost_utils.reached_preemption_sync_point(calls)
        return signal.SIGTERM if came else 0

    return stopped


@contextlib.contextmanager
def _interrupt_as_terminate() -> Iterator[None]:
    """Pass Ctrl-C on as the signal that the runtime listens to."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(
        signal.SIGINT, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM)
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
