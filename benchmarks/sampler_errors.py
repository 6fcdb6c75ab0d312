"""Measure the errors of all samplers on all grids and chains, with exact denoisers.

    python -m benchmarks.sampler_errors --to=docs/sampler-errors.md

writes the page of that name. No network is involved: the data are N(0, v), whose best
prediction is known, and a table has the standard deviation that a sampler
ends with, divided by the true one.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from ddpm_jax.diffusion import grids, karras, multistep, process, samplers, schedules
from ddpm_jax.diffusion.denoisers import Cond
from ddpm_jax.diffusion.generate import generate_part, image_keys
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError

T = 1000
STEPS = (5, 10, 20, 50)
ROWS = 1024  # of one variance: quantiles of the start, and as many samples of noise

CHAINS: dict[str, Callable[[], Schedule]] = {
    "linear": lambda: schedules.from_betas(schedules.linear_betas(T)),
    "cosine": lambda: schedules.from_betas(schedules.cosine_betas(T)),
    "sigmoid": lambda: schedules.from_betas(schedules.sigmoid_betas(T)),
    "quadratic": lambda: schedules.from_betas(schedules.quadratic_betas(T)),
    "constant": lambda: schedules.from_betas(schedules.constant_betas(T)),
    "jsd": lambda: schedules.from_betas(schedules.jsd_betas(T)),
    "linear, zero_terminal_snr": lambda: schedules.from_betas(
        schedules.zero_terminal_snr(schedules.linear_betas(T))
    ),
    "cosine, zero_terminal_snr": lambda: schedules.from_betas(
        schedules.zero_terminal_snr(schedules.cosine_betas(T))
    ),
    "linear_logsnr": lambda: schedules.linear_logsnr(num_levels=T),
    "cosine_logsnr": lambda: schedules.cosine_logsnr(num_levels=T),
    "straight": lambda: schedules.straight(T),
    "straight, alpha_min 0.001": lambda: schedules.straight(T, alpha_min=0.001),
}
SPACINGS: dict[str, Callable[[Schedule, int], Level]] = {
    "trailing": lambda chain, N: grids.grid(chain, N, grids.trailing_steps),
    "leading": lambda chain, N: grids.grid(chain, N, grids.leading_steps),
    "linear": lambda chain, N: grids.grid(chain, N, grids.linear_steps),
    "quadratic": lambda chain, N: grids.grid(chain, N, grids.quadratic_steps),
    "karras": grids.karras_grid,
    "logsnr": grids.logsnr_grid,
}
SAMPLERS: dict[str, samplers.Sampler] = {
    "ancestral, small": samplers.ancestral(),
    "ancestral, large": samplers.ancestral(process.large_variance),
    "ddim, eta 0": samplers.ddim(0.0),
    "ddim, eta 0.5": samplers.ddim(0.5),
    "euler": karras.euler(),
    "heun": karras.heun(),
    "dpmpp_2m": multistep.dpmpp_2m(),
    "dpmpp_3m": multistep.dpmpp_3m(),
    "dpmpp_2m_sde": multistep.dpmpp_2m_sde(),
    "unipc": multistep.unipc(2),
    "unipc_3": multistep.unipc(3),
    "pndm": multistep.pndm(),
}
RANDOM = ("ancestral, small", "ancestral, large", "ddim, eta 0.5", "dpmpp_2m_sde")


class Cell(NamedTuple):
    """One grid of levels."""

    chain: str
    spacing: str
    num_steps: int
    levels: Level | None  # leaves [N + 1]; None where the grid is refused


def cells(chains: Sequence[str] = tuple(CHAINS)) -> list[Cell]:
    """Lay out every grid of some chains."""
    found = []
    for name in chains:
        chain = CHAINS[name]()
        for spacing, make in SPACINGS.items():
            for num_steps in STEPS:
                try:
                    levels = make(chain, num_steps)
                except UserError:
                    levels = None
                found.append(Cell(name, spacing, num_steps, levels))
    return found


def exact(variances: jax.Array) -> Callable[..., process.Prediction]:
    """Return the best denoiser for rows of data N(0, variances), [B, 1]."""

    def denoise(x: jax.Array, level: Level, cond: Cond = None) -> process.Prediction:
        del cond
        scaled = x / (level.alpha**2 * variances + level.sigma**2)
        return process.Prediction(
            level.alpha * variances * scaled, level.sigma * scaled
        )

    return denoise


def ratios(
    sampler: samplers.Sampler,
    of_cells: Sequence[Cell],
    variances: Sequence[float],
    rows: int = ROWS,
) -> np.ndarray:
    """Measure the final over the true standard deviation: [cells, variances].

    Args:
        sampler: one that does not depend on the chain.
        of_cells: those that are not refused.
        variances: of the data.
        rows: of each variance; a deterministic sampler multiplies its start by a
            number, for which 2 are enough.
    """
    start = ndtri((jnp.arange(rows) + 0.5) / rows)
    start = jnp.tile(start / jnp.std(start), len(variances))[:, None]
    denoise = exact(jnp.repeat(jnp.asarray(variances, jnp.float32), rows)[:, None])
    keys = image_keys(jax.random.key(0), jnp.arange(len(start)))
    longest = max(cell.num_steps for cell in of_cells) + 1

    def stacked(*leaves: jax.Array) -> jax.Array:
        padded = [np.pad(a, (0, longest - len(a)), mode="edge") for a in leaves]
        return jnp.stack(padded)

    levels = jax.tree.map(stacked, *(cell.levels for cell in of_cells))

    def run(levels: Level, num_steps: jax.Array) -> jax.Array:
        state, _ = generate_part(
            keys,
            sampler,
            denoise,
            sampler.init(start),
            levels,
            (0, num_steps),
            record=lambda info: (),
        )
        return jnp.std(state.x.reshape(len(variances), rows), axis=1)

    counts = jnp.asarray([cell.num_steps for cell in of_cells])
    found = jax.jit(jax.vmap(run))(levels, counts)
    return np.asarray(found, np.float64) / np.sqrt(variances)


# --- The page -------------------------------------------------------------------------

_HEAD = """\
# Errors of the samplers

Made by [benchmarks/sampler_errors.py](../benchmarks/sampler_errors.py):

```
python -m benchmarks.sampler_errors --to=docs/sampler-errors.md
```

The data are N(0, {variance:g}) and the denoiser is the best one for them, so no network
is involved and what is seen is the sampler's own error: the standard deviation that it
ends with, divided by the true one, for N = {steps} steps. 1 is right; below 1, images
lack contrast; above 1, they have too much. T = {T}. The four samplers that draw noise
({random}) are measured with {rows:,} draws, which leaves about {chance:.0%} to chance;
the others multiply their start by a number, and have no such error.

What to read off it:

- All first-order methods lose contrast at few steps, on every chain: that is their
  error, not a fault. On cosine chains grids in time lose least: `karras` and `logsnr`
  spend half of few steps where sigma / alpha is in the hundreds and nothing happens.
- No deterministic method of higher order is further from 1 than `ddim` on the same
  grid, up to 0.1 in the logarithm. That is
  [tested](../tests/diffusion/test_sampler_errors.py) for all chains and grids, also for
  N(0, 0.01), N(0, 0.25) and N(0, 25).
- `dpmpp_3m` and `unipc_3` overshoot on `karras` at 10 to 20 steps, by as much as `ddim`
  falls short: the steps there are long in the log-SNR at the noisy end. Use `logsnr`
  with them, or the methods of one order less.
- On the straight path of flow matching the samplers are the same as elsewhere, since
  only sigma / alpha matters to them. Even times on it are a good grid of few steps.
- "refused": a chain that ends in pure noise has no finite start in sigma / alpha, and
  the program says so and names the grids to use. `adaptive`, which is not listed since
  it chooses its own steps, refuses such chains too.
  `leading` starts short of the noisiest level, where on the straight path x is no
  N(0, I), and is refused there.
"""


def page(variance: float = 1.0) -> str:
    """Write the page of tables, for data N(0, variance)."""
    head = _HEAD.format(
        variance=variance,
        steps=", ".join(map(str, STEPS)),
        T=T,
        random=", ".join(f"`{name}`" for name in RANDOM),
        rows=ROWS,
        chance=(2 * ROWS) ** -0.5,
    )
    every = cells()
    allowed = [cell for cell in every if cell.levels is not None]
    found = {}
    for name, sampler in SAMPLERS.items():
        rows = ROWS if name in RANDOM else 2
        values = ratios(sampler, allowed, [variance], rows)[:, 0]
        found[name] = dict(zip((cell[:3] for cell in allowed), values, strict=True))
    return "\n".join([head, *(_table(chain, found) for chain in CHAINS)])


def _table(chain: str, found: dict[str, dict]) -> str:
    lines = [f"## {chain}", "", "| sampler | " + " | ".join(SPACINGS) + " |"]
    lines.append("|---" * (1 + len(SPACINGS)) + "|")
    for name, values in found.items():
        row = [f"`{name.partition(',')[0]}`{''.join(name.partition(',')[1:])}"]
        for spacing in SPACINGS:
            of_steps = [values.get((chain, spacing, N)) for N in STEPS]
            known = [f"{value:.2f}" for value in of_steps if value is not None]
            row.append(" ".join(known) or "refused")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="the page, a .md file")
    parser.parse_args().to.write_text(page())


if __name__ == "__main__":
    main()
