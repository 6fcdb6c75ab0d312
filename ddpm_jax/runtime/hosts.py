"""Multi-host programs: processes started together, one voice, ended together.

Each process runs the same command and owns the devices of its host. JAX's distributed
runtime joins them: process 0 is the coordinator, the others connect to it, and all of
them watch each other's heartbeats. What this file adds is the interface: one
line where it cannot work, one voice while it runs, and an end within bounded time when
a process is lost. (A process may also be ended by the runtime itself, by SIGABRT and
with a message of its own, whichever sees the loss first.)
"""

import contextlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from ddpm_jax.errors import UserError

START_TIMEOUT = 300  # seconds in which all processes must have come together
HEARTBEAT_TIMEOUT = 60  # seconds without a heartbeat until a process counts as lost
_LEAVE_TIMEOUT = 10  # seconds that a process with an error waits for the others'

LOST = 3
"""Exit status of a process that ends because another did, or a collective failed."""

# How the runtime begins the message of what went wrong outside Python.
_OF_THE_RUNTIME = re.compile(
    r"(ABORTED|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|"
    r"RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN)\b"
)


def start(
    *,
    detect: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: int | None = None,
    heartbeat_timeout: int | None = None,
) -> None:
    """Join the other processes of this run, if there are to be any.

    To be called before JAX is used. In a run of one process nothing is done.

    Args:
        detect: take the next three from SLURM, Kubernetes, the TPU pod or Open MPI.
        coordinator: HOST:PORT of process 0, as the others reach it.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        start_timeout: seconds to wait for all of them; None is `START_TIMEOUT`.
        heartbeat_timeout: seconds without a heartbeat after which one counts as lost;
            None is `HEARTBEAT_TIMEOUT`.

    Raises:
        UserError: the arguments do not fit together, or nothing is detected.
    """
    _check(detect, coordinator, num_processes, process_id)
    for name, value in (
        ("--start-timeout", start_timeout),
        ("--heartbeat-timeout", heartbeat_timeout),
    ):
        if value is not None and not detect and coordinator is None:
            raise UserError(f"{name} is for runs of several processes; leave it out.")
        if value is not None and value < 1:
            raise UserError(f"{name}={value} is too short; use 1 second or more.")
    if not detect and coordinator is None:
        return
    import jax

    patience = START_TIMEOUT if start_timeout is None else start_timeout
    with _or_exit(patience, _nobody_came(coordinator, num_processes, process_id)):
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # Of the two clocks ours must run out first: JAX's ends in SIGABRT.
                initialization_timeout=patience + 60,
                heartbeat_timeout_seconds=heartbeat_timeout or HEARTBEAT_TIMEOUT,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(_refusal(detect, error)) from error


def _check(
    detect: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    given = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-id": process_id,
    }
    absent = [name for name, value in given.items() if value is None]
    present = [name for name in given if name not in absent]
    if detect and present:
        raise UserError(
            f"--distributed detects {present[0]} by itself; give one of the two."
        )
    if absent and present:
        raise UserError(
            f"{' and '.join(present)} given without {' and '.join(absent)}; a start "
            "by hand needs all three, on every host."
        )
    if coordinator is None or num_processes is None or process_id is None:
        return  # none of them is given
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator} is not HOST:PORT; give the name of the host "
            "of process 0 and a free port on it, such as node1:8476."
        )
    if num_processes < 1:
        raise UserError(f"--num-processes={num_processes} is too small; use 1 or more.")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process-id={process_id} is not one of {num_processes} processes; use "
            f"0 to {num_processes - 1}, each once."
        )


def _nobody_came(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> str:
    if process_id == 0:
        return (
            f"not all of {num_processes} processes came to {coordinator} within "
            "--start-timeout={seconds} seconds; start the others too, each with its "
            "--process-id, or let it wait longer."
        )
    where = coordinator or "the process that was detected as the first"
    return (
        f"no answer from the coordinator, {where}, or not all processes came there, "
        "within --start-timeout={seconds} seconds; start process 0, and make sure "
        "that its port can be reached from here."
    )


def _refusal(detect: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    if detect:
        return (
            f"--distributed found no run of several processes ({reason.rstrip('.')}); "
            "start it by SLURM, Open MPI, on a TPU pod or in a Kubernetes job (see "
            "docs/clusters.md), or give --coordinator, --num-processes and "
            "--process-id."
        )
    return (
        f"the processes cannot be joined ({reason.rstrip('.')}); join them once, at "
        "the start of the program."
    )


@contextlib.contextmanager
def _or_exit(seconds: int, message: str) -> Iterator[None]:
    """End the program with a line if what is inside takes too long.

    JAX waits outside Python, where no exception reaches it.
    """

    def leave() -> None:
        line = message.replace("{seconds}", str(seconds))
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def are_several() -> bool:
    """Return whether this is one process of several, before JAX has its devices."""
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized()


@contextlib.contextmanager
def as_one() -> Iterator[None]:
    """Let only process 0 print, and end this process at once if the run breaks apart.

    What fails on this host alone leaves the others waiting in a collective operation,
    and what they do in leaving (a save under way has hosts wait for each other) would
    wait for this one. So nothing is tidied up: the state is in the checkpoints.

    Raises:
        UserError: what was raised within, if this host is alone.
    """
    if not are_several():
        yield
        return
    import jax

    try:
        with contextlib.ExitStack() as stack:
            if jax.process_index():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    except UserError:
        raise
    except Exception as error:
        if _OF_THE_RUNTIME.match(str(error)):
            which = f"process {jax.process_index()} of {jax.process_count()}"
            print(
                f"error: {which}: an operation over all processes failed "
                f"({str(error).splitlines()[0][:200]}). If another process was lost, "
                "start all of them again with the same command; training goes on from "
                "its last checkpoint.",
                file=sys.__stderr__,
                flush=True,
            )
            _exit(LOST)
        traceback.print_exc(file=sys.__stderr__)
        _exit(1)


def leave(error: UserError) -> None:
    """Report what is wrong on this host alone, and end this process at once."""
    print(f"error: {error}", file=sys.__stderr__, flush=True)
    _exit(2)


def end(status: int) -> int:
    """Let the processes part; return the exit status that was given.

    After an error the others may not come to their end. They learn of ours when this
    process is gone, which is a little later.
    """
    if are_several() and status not in (0, 128 + signal.SIGTERM):
        import jax

        timer = threading.Timer(_LEAVE_TIMEOUT, _exit, [status])
        timer.daemon = True
        timer.start()
        jax.distributed.shutdown()
        timer.cancel()
    return status


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
