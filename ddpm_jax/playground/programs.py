"""Compiled programs of plans in parts, cached for later requests.

One serves every seed, label, number of steps and strength; another sampler, guidance or
number of images makes another.
"""

import dataclasses
import json
from collections.abc import Callable

from jax.sharding import Mesh

from ddpm_jax.assembly.plans import NOT_COMPILED
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Edit, Sample
from ddpm_jax.runtime.recent import Recent
from ddpm_jax.sampling.parts import StageParts, compile_parts, padded_length
from ddpm_jax.sampling.plan import Plan

MOST_KEPT = 8

# What reaches a program through its arguments, or not at all: in parts the levels too.
_NOT_COMPILED = NOT_COMPILED | {
    *("num_steps", "spacing", "strength", "jump_length", "num_resamples")
}


Programs = Callable[..., tuple[StageParts, ...]]
"""(plan, spec, request, batch size, mesh) -> programs by stage, kept or new."""


def keeper(most: int = MOST_KEPT) -> Programs:
    """Keep the programs of the `most` most recently used kinds of task."""
    kept: Recent[tuple[StageParts, ...]] = Recent(most)

    def programs(
        plan: Plan, spec: Diffusion, asked: Sample | Edit, batch_size: int, mesh: Mesh
    ) -> tuple[StageParts, ...]:
        return kept.get(
            _name(plan, spec, asked, batch_size),
            lambda: tuple(compile_parts(stage, mesh) for stage in plan),
        )

    return programs


def _name(plan: Plan, spec: Diffusion, asked: Sample | Edit, batch_size: int) -> str:
    """Name a kind of task after all that its programs have built in."""
    left_out = _NOT_COMPILED
    if asked.churn:  # whose amount is shared out over the steps
        left_out = left_out - {"num_steps"}
    if asked.zero_init_steps:  # which are told from others by their levels
        left_out = left_out - {"num_steps", "spacing"}
    stored = dataclasses.asdict(asked)
    options = {name: v for name, v in stored.items() if name not in left_out}
    num_levels = spec.schedule.num_levels
    lengths = [padded_length(stage.levels, num_levels) for stage in plan]
    return json.dumps([type(asked).__name__, batch_size, lengths, options])
