"""Where the program starts: `ddpm-jax`, `python -m ddpm_jax` and main.py call `run`.

The rest is imported here and not above, so that Ctrl-C is noted from the beginning.
"""

import contextlib
import os
import sys

from ddpm_jax import interrupts


def run() -> int:
    """Run the program with the arguments of the process.

    Returns:
        The exit status; see `ddpm_jax.cli`.
    """
    interrupts.install()
    try:
        from ddpm_jax.cli import main, make_parser

        interrupts.check()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks how a line could go on
            with contextlib.suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(make_parser())
        return main()
    except interrupts.Interrupted as stop:
        interrupts.end(stop.number)


if __name__ == "__main__":
    sys.exit(run())
