"""Where the program starts: `ddpm-jax`, `python -m ddpm_jax` and main.py call `run`.

The rest is imported here and not above, so that Ctrl-C is quiet from the beginning.
"""

import contextlib
import os
import sys


def run() -> int:
    """Run the program with the arguments of the process.

    Returns:
        The exit status; see `ddpm_jax.cli`.
    """
    try:
        from ddpm_jax.runtime import interrupts, streams

        streams.prepare()
        interrupts.install()
        from ddpm_jax.cli import main, make_completion

        interrupts.check()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks how a line could go on
            with contextlib.suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(make_completion())
        return main()
    except KeyboardInterrupt as stop:
        if hasattr(stop, "number"):  # noted
            interrupts.end(stop.number)
        print("interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
