"""Compiled programs of plans in parts, cached for later requests.

One serves every seed, label, number of steps and strength; another sampler, guidance or
number of images makes another.
"""

import json
from collections.abc import Callable

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.assembly.plans import NOT_COMPILED
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime.recent import Recent
from ddpm_jax.sampling.parts import StageParts, compile_parts, padded_length
from ddpm_jax.sampling.plan import Plan

MOST_KEPT = 8

# What reaches a program through its arguments, or not at all: in parts the levels too.
_OF_SAMPLE = NOT_COMPILED["sample"] | {"num_steps", "spacing"}
_OF_EDIT = NOT_COMPILED["edit"] | {"strength", "jump_length", "num_resamples"}


Programs = Callable[..., tuple[StageParts, ...]]
"""(mode, plan, cfg, batch size, mesh) -> programs for each stage, kept or new."""


def keeper(most: int = MOST_KEPT) -> Programs:
    """Keep the programs of the `most` most recently used kinds of task."""
    kept: Recent[tuple[StageParts, ...]] = Recent(most)

    def programs(
        mode: str, plan: Plan, cfg: ConfigDict, batch_size: int, mesh: Mesh
    ) -> tuple[StageParts, ...]:
        return kept.get(
            _name(mode, plan, cfg, batch_size),
            lambda: tuple(compile_parts(stage, mesh) for stage in plan),
        )

    return programs


def _name(mode: str, plan: Plan, cfg: ConfigDict, batch_size: int) -> str:
    """Name a kind of task after all that its programs have built in."""
    stored = to_json(cfg)
    own = _OF_SAMPLE
    if cfg.sample.churn:  # whose amount is shared out over the steps
        own = own - {"num_steps"}
    sample = {k: v for k, v in stored["sample"].items() if k not in own}
    edit = {k: v for k, v in stored["edit"].items() if k not in _OF_EDIT}
    num_levels = cfg.schedule.num_levels
    lengths = [padded_length(stage.levels, num_levels) for stage in plan]
    return json.dumps([mode, batch_size, lengths, sample, edit], sort_keys=True)
