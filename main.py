"""Train a diffusion model or draw from one: `python main.py --help`."""

# PYTHON_ARGCOMPLETE_OK: shells may ask this file how a line could go on.

import sys

try:
    from ddpm_jax.__main__ import run
except KeyboardInterrupt:  # from then on `run` sees to it
    print("interrupted.", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(run())
