"""Programs of a process, kept: what JAX has traced and compiled serves the next run.

JAX knows a program by the function that it was made of. Two runs of the same spec in
one process, or two drawings from one run, would each compose a function of their own
and trace, lower and compile it anew, which takes seconds even where the compiled code
is found on disk. Here the composed function is kept under all that it was made of.

What is kept holds no parameters: they are arguments.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jax.sharding import Mesh

from ddpm_jax import specs
from ddpm_jax.data.info import DataInfo
from ddpm_jax.diffusion.few_steps import FewStepSpec
from ddpm_jax.recipe import Diffusion, Fit
from ddpm_jax.runtime.recent import Recent
from ddpm_jax.specs import to_json

T = TypeVar("T")

_MOST = 16
_kept: Recent[Any] = Recent(_MOST)

# What reaches programs through their arguments, or not at all.
_NOT_IN_TRAINING = frozenset(
    {
        *("report_every", "preview_every", "checkpoint_every"),
        *("keep_last", "keep_every", "wandb", "batch_size"),
    }
)
_NOT_IN_MODEL = frozenset({"data", "seed", "init_from", "preview_steps"})
_NOT_IN_DATA = frozenset({"name", "fingerprint", "captions"})


def kept(
    what: str,
    spec: Diffusion,
    info: DataInfo,
    make: Callable[[], T],
    *,
    mesh: Mesh | None = None,
    fit: Fit | None = None,
    request: Mapping[str, Any] | None = None,
) -> T:
    """Return what `make` composes, or what it composed before of the same parts.

    Args:
        what: which of the things that are made of these parts.
        spec: of the model.
        info: of the data.
        make: () -> functions that close over these parts and no others.
        mesh: the devices, where it depends on them.
        fit: how it is trained, where it depends on that.
        request: what else it depends on, as plain data.
    """
    stored = to_json(spec)
    parts = {name: stored[name] for name in stored if name not in _NOT_IN_MODEL}
    parts["data"] = {"flip": spec.data.flip}  # the others act on `info` alone
    if fit is not None:
        leave = set(_NOT_IN_TRAINING)
        if fit.decay == "constant" and not isinstance(spec.loss, FewStepSpec):
            leave.add("num_steps")
        options = to_json(fit)
        parts["training"] = {k: v for k, v in options.items() if k not in leave}
    of_data = dataclasses.asdict(info)
    of_data = {name: of_data[name] for name in of_data if name not in _NOT_IN_DATA}
    text = json.dumps([parts, request, of_data], sort_keys=True)
    return _kept.get((what, text, _classes(parts), mesh), make)


def _classes(parts: Any) -> tuple[type, ...]:
    """List the classes of all specs: another of the same name may take its place."""
    if isinstance(parts, Mapping):
        known = specs.kinds()
        own = [known[parts["kind"]]] if parts.get("kind") in known else []
        return (*own, *(c for name in sorted(parts) for c in _classes(parts[name])))
    if isinstance(parts, list | tuple):
        return tuple(c for part in parts for c in _classes(part))
    return ()
