"""From the nodes of a config to specs."""

import dataclasses
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ddpm_jax import specs
from ddpm_jax.diffusion.schedules import ScheduleSpec
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.training.fit import Fit

T = TypeVar("T")


def task_spec(config: ConfigDict, slot: type[T]) -> T:
    """Read what is trained.

    Args:
        config: all of it.
        slot: the class that is wanted.

    Raises:
        UserError: an option is unknown, or cannot be with the others.
    """
    spec, _ = specs.from_recipe(config, slot)
    return spec


def diffusion_spec(config: ConfigDict) -> Diffusion:
    """Read a diffusion model; see `task_spec`."""
    return task_spec(config, Diffusion)


def schedule_spec(config: ConfigDict) -> ScheduleSpec:
    """Read the noise schedule.

    Raises:
        UserError: it is unknown, or an option of it cannot be.
    """
    spec: ScheduleSpec = specs.from_config(
        config.schedule, ScheduleSpec, "config.schedule"
    )
    return spec


def fit_spec(config: ConfigDict) -> Fit:
    """Read how it is trained.

    Raises:
        UserError: an option cannot be.
    """
    spec: Fit = specs.from_config(config.training, Fit, "config.training")
    return spec


def defaults_of(node: ConfigDict) -> dict[str, Any]:
    """Return field -> default of the spec of a node, for fields that have one."""
    cls = specs.kinds()[node.kind]
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }
