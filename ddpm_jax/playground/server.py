"""Where the page is served: this machine alone, and quietly."""

import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.playground.jobs import Studio

HOST = "127.0.0.1"


def check_port(port: int) -> None:
    """Refuse a port that cannot be listened at; 0 stands for any that is free.

    Raises:
        UserError: saying what to give instead.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port={port} is no port; use 1024 to 65535, or 0 for any.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}); give another with "
                "--port=NUMBER, or --port=0 for any that is free."
            ) from error


def serve(studio: Studio, port: int) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    Args:
        studio: the model.
        port: from `check_port`.
    """
    with tempfile.TemporaryDirectory(prefix="ddpm_jax-playground-") as folder:
        _keep_to_ourselves(Path(folder))
        # After the environment is set, which they read.
        from ddpm_jax.playground.page import STYLE, THEME, make_page

        page = make_page(studio, Path(folder))
        page.queue(default_concurrency_limit=None)
        with _until_told():
            page.launch(
                server_name=HOST,
                server_port=port or _free_port(),
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
            print(f"{page.local_url} shows {studio.workdir}; Ctrl-C ends.", flush=True)
            try:
                while True:
                    time.sleep(3600)
            finally:
                studio.closing.set()
                page.close(verbose=False)


def _keep_to_ourselves(folder: Path) -> None:
    """Tell gradio to ask nobody on the internet, and to leave nothing behind."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    # It asks itself whether it runs, which is no business of a proxy.
    for name in ("no_proxy", "NO_PROXY"):
        others = os.environ.get(name, "")
        os.environ[name] = f"{others},{HOST}".lstrip(",")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def _until_told() -> Iterator[None]:
    """Leave the block at SIGINT or SIGTERM, without a word."""

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        print()
    finally:
        signal.signal(signal.SIGTERM, before)
