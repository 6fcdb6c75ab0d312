"""The one reader of the config: a ConfigDict goes in, functions and arrays come out.

No other room sees a config, a flag or a string that selects behaviour. `check` refuses
what cannot work, before anything is compiled.
"""

from ddpm_jax.build.checks import check, check_batch
from ddpm_jax.build.editing import TASKS as EDITS
from ddpm_jax.build.editing import check_edit
from ddpm_jax.build.editing import task as edit_task
from ddpm_jax.build.likelihood import (
    Measure,
    bound_times,
    check_likelihood,
    likelihood_key,
    likelihood_methods,
    measure,
)
from ddpm_jax.build.parts import (
    init_params,
    learning_rate,
    model,
    network,
    num_classes,
    objective,
    optimizer,
    sample_key,
    schedule,
    time_sampler,
    train_key,
)
from ddpm_jax.build.sampling import (
    denoiser,
    levels,
    num_steps,
    sample_labels,
    sampler,
)
from ddpm_jax.build.source import DataInfo, data_info, dataset

__all__ = [
    "EDITS",
    "DataInfo",
    "Measure",
    "bound_times",
    "check",
    "check_batch",
    "check_edit",
    "check_likelihood",
    "data_info",
    "dataset",
    "denoiser",
    "edit_task",
    "init_params",
    "learning_rate",
    "levels",
    "likelihood_key",
    "likelihood_methods",
    "measure",
    "model",
    "network",
    "num_classes",
    "num_steps",
    "objective",
    "optimizer",
    "sample_key",
    "sample_labels",
    "sampler",
    "schedule",
    "time_sampler",
    "train_key",
]
