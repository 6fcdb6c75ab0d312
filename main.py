"""Train a diffusion model or draw from one: `python main.py --help`."""

import sys

from ddpm_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
