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


def read_node(config: ConfigDict, path: str, slot: type[T]) -> T:
    """Read the spec of one node.

    Args:
        config: all of it.
        path: of the node, such as "schedule" or "conditioners.text".
        slot: its class, or the base class of all that fit.

    Raises:
        UserError: an option is unknown, or has a wrong type or value.
    """
    node = config
    for name in path.split("."):
        node = node[name]
    spec: T = specs.from_config(node, slot, f"config.{path}")
    return spec


def schedule_spec(config: ConfigDict) -> ScheduleSpec:
    """Read the noise schedule; see `read_node`."""
    return read_node(config, "schedule", ScheduleSpec)


def fit_spec(config: ConfigDict) -> Fit:
    """Read how it is trained; see `read_node`."""
    return read_node(config, "training", Fit)


def defaults_of(node: ConfigDict) -> dict[str, Any]:
    """Return field -> default of the spec of a node, for fields that have one."""
    cls = specs.kinds()[node.kind]
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }
