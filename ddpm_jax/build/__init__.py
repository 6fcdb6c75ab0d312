"""The one reader of the config: a ConfigDict goes in, functions and arrays come out.

No other room sees a config, a flag or a string that selects behaviour. `check` refuses
what cannot work, before anything is compiled.
"""

from ddpm_jax.build.checks import check, check_batch
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
    train_key,
)
from ddpm_jax.build.sampling import denoiser, levels, sample_labels, sampler
from ddpm_jax.build.source import DataInfo, data_info, dataset

__all__ = [
    "DataInfo",
    "check",
    "check_batch",
    "data_info",
    "dataset",
    "denoiser",
    "init_params",
    "learning_rate",
    "levels",
    "model",
    "network",
    "num_classes",
    "objective",
    "optimizer",
    "sample_key",
    "sample_labels",
    "sampler",
    "schedule",
    "train_key",
]
