"""Server of the page: to this machine alone, through `gate`, without the internet."""

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.playground.gate import MAX_UPLOAD, Gate, Policy
from ddpm_jax.playground.jobs import Studio
from ddpm_jax.playground.scratch import scratch_folder
from ddpm_jax.runtime import interrupts

HOST = "127.0.0.1"
_POLL = 0.1  # seconds between two checks whether it is to end
MAX_QUEUE = 64  # jobs that wait
MAX_SESSIONS = 100  # windows whose state is kept


def check_port(port: int) -> None:
    """Refuse a port that cannot be listened at; 0 stands for any that is free.

    Raises:
        UserError: saying what to give instead.
    """
    if not 0 <= port < 2**16:
        raise UserError(
            f"--port={port} is not a port; use 1024 to 65535, or 0 for any."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}); give another with "
                "--port=NUMBER, or --port=0 for any that is free."
            ) from error


def serve(
    studio: Studio | None, port: int, hosts: frozenset[str] = frozenset()
) -> None:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        studio: the model; None for the Points tab alone.
        port: from `check_port`.
        hosts: from `gate.check_hosts`, names that the page may be reached by.

    Raises:
        UserError: the machine is too busy for the page to answer.
    """  # noqa: DOC501 (others are gradio's)
    with interrupts.keeping(), scratch_folder() as folder:
        _end_with_the_terminal()
        _keep_to_ourselves(folder)
        # After the environment is set, which they read.
        from starlette.middleware import Middleware

        from ddpm_jax.playground.page import (
            STYLE,
            THEME,
            kinds_of_inputs,
            make_page,
        )
        from ddpm_jax.playground.points_tab import Desk

        device, closing = threading.Lock(), threading.Event()
        if studio is not None:
            device, closing = studio.device, studio.closing
        page = make_page(studio, Desk(folder, device, closing))
        page.queue(default_concurrency_limit=None, max_size=MAX_QUEUE, api_open=False)
        gate = Middleware(Gate, policy=Policy(folder, kinds_of_inputs(page), hosts))
        try:
            page.launch(
                server_name=HOST,
                server_port=port or _free_port(),
                app_kwargs={"middleware": [gate]},
                max_file_size=MAX_UPLOAD,
                state_session_capacity=MAX_SESSIONS,
                allowed_paths=[],
                blocked_paths=[],
                theme=THEME,
                css=STYLE,
                share=False,
                inbrowser=False,
                quiet=True,
                show_error=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                prevent_thread_lock=True,
            )
        except ValueError as error:  # gradio requests its own page, for some seconds
            if "localhost is not accessible" not in str(error):
                raise
            raise UserError(
                f"the page did not answer at http://{HOST} in time; start it again, "
                "when the machine is less busy."
            ) from error
        shown = "points that you draw" if studio is None else str(studio.workdir)
        print(f"{page.local_url} shows {shown}; Ctrl-C ends.", flush=True)
        try:
            while not interrupts.received():
                time.sleep(_POLL)
            interrupts.answered()
            with contextlib.suppress(OSError):  # the terminal may be gone
                print()  # below the ^C
        finally:
            closing.set()
            page.close(verbose=False)


def _keep_to_ourselves(folder: Path) -> None:
    """Configure gradio to call no host of the internet, and to leave no files."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    # It checks whether it runs, for which no proxy is needed.
    for name in ("no_proxy", "NO_PROXY"):
        others = os.environ.get(name, "")
        os.environ[name] = f"{others},{HOST}".lstrip(",")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _end_with_the_terminal() -> None:
    """Let SIGHUP be like SIGTERM, unless it is ignored, as under nohup."""
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
