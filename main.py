"""Train a diffusion model or draw from one: `python main.py --help`."""

# PYTHON_ARGCOMPLETE_OK: shells may ask this file how a line could go on.

import sys

from ddpm_jax.__main__ import run

if __name__ == "__main__":
    sys.exit(run())
