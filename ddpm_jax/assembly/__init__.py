"""The one reader of the config: a ConfigDict goes in, functions and arrays come out.

No other room sees a config, a flag or a string that selects behaviour. `check` refuses
what cannot work, before anything is compiled.
"""

from ddpm_jax.assembly.cascade import (
    cascade_conds,
    check_cascade,
    plan_cascade,
    stage_configs,
    stage_folders,
    stage_of,
)
from ddpm_jax.assembly.checks import check, check_batch, mesh
from ddpm_jax.assembly.conditions import (
    Captions,
    captions,
    cond_between,
    conditioners,
    encode,
    example_cond,
    example_condition,
    sample_cond,
    text_cond,
)
from ddpm_jax.assembly.editing import (
    check_edit,
    edit_methods,
    plan_edit,
    upscale_factor,
)
from ddpm_jax.assembly.evaluation import (
    BITS_PER_DIM,
    check_evaluate,
    images_kind,
    numbers,
    score_names,
    variants,
)
from ddpm_jax.assembly.evaluation import features as evaluation_features
from ddpm_jax.assembly.idle import (
    check_edit_effects,
    check_training_effects,
    leave_out_idle,
)
from ddpm_jax.assembly.keys import sample_key, sample_seed, train_key
from ddpm_jax.assembly.labels_prompts import label_word, prompts, sample_labels
from ddpm_jax.assembly.latents import (
    COPY,
    check_copy,
    check_latents,
    codec,
    fingerprint_in,
    keep_copy,
    refuse_latents,
)
from ddpm_jax.assembly.likelihood import (
    bound_times,
    check_likelihood,
    likelihood_key,
    likelihood_methods,
    measure,
)
from ddpm_jax.assembly.parts import (
    diffusion_task,
    dtype,
    init_params,
    model,
    network,
    num_views,
    objective,
    optimizer,
    schedule,
    time_sampler,
)
from ddpm_jax.assembly.pictures import (
    consistency,
    map_name,
    shown,
)
from ddpm_jax.assembly.plans import compiled_options, sampling_plan
from ddpm_jax.assembly.programs import kept
from ddpm_jax.assembly.sampling import (
    denoiser,
    levels,
    num_steps,
    sampler,
)
from ddpm_jax.assembly.sizes import check_ceilings, least_bytes
from ddpm_jax.assembly.source import (
    DataInfo,
    LatentInfo,
    data_fingerprint,
    data_info,
    dataset,
    latents_run,
    num_classes,
)
from ddpm_jax.assembly.translation import fit_spec, task_spec

__all__ = [
    "BITS_PER_DIM",
    "COPY",
    "Captions",
    "DataInfo",
    "LatentInfo",
    "bound_times",
    "captions",
    "cascade_conds",
    "check",
    "check_batch",
    "check_cascade",
    "check_ceilings",
    "check_copy",
    "check_edit",
    "check_edit_effects",
    "check_evaluate",
    "check_latents",
    "check_likelihood",
    "check_training_effects",
    "codec",
    "compiled_options",
    "cond_between",
    "conditioners",
    "consistency",
    "data_fingerprint",
    "data_info",
    "dataset",
    "denoiser",
    "diffusion_task",
    "dtype",
    "edit_methods",
    "encode",
    "evaluation_features",
    "example_cond",
    "example_condition",
    "fingerprint_in",
    "fit_spec",
    "images_kind",
    "init_params",
    "keep_copy",
    "kept",
    "label_word",
    "latents_run",
    "least_bytes",
    "leave_out_idle",
    "levels",
    "likelihood_key",
    "likelihood_methods",
    "map_name",
    "measure",
    "mesh",
    "model",
    "network",
    "num_classes",
    "num_steps",
    "num_views",
    "numbers",
    "objective",
    "optimizer",
    "plan_cascade",
    "plan_edit",
    "prompts",
    "refuse_latents",
    "sample_cond",
    "sample_key",
    "sample_labels",
    "sample_seed",
    "sampler",
    "sampling_plan",
    "schedule",
    "score_names",
    "shown",
    "stage_configs",
    "stage_folders",
    "stage_of",
    "task_spec",
    "text_cond",
    "time_sampler",
    "train_key",
    "upscale_factor",
    "variants",
]
