"""What commands make of a spec and a request: functions and arrays come out.

Functions take the values that they need: a `Diffusion`, the `DataInfo` of its data, a
`Sample` or another request. `check` and `check_sample` refuse what cannot work, before
anything is compiled.
"""

from ddpm_jax.assembly.checks import (
    check,
    check_batch,
    check_parameters,
    check_sample,
)
from ddpm_jax.assembly.conditions import (
    Captions,
    captions,
    cond_between,
    conditioners,
    encode,
    example_cond,
    example_condition,
    further_cond,
    sample_cond,
    text_cond,
)
from ddpm_jax.assembly.editing import (
    check_edit,
    edit_methods,
    sample_of_edit,
    upscale_factor,
)
from ddpm_jax.assembly.evaluation import check_seeds, score_names, variants
from ddpm_jax.assembly.evaluation import features as evaluation_features
from ddpm_jax.assembly.idle import (
    check_training_effects,
    idle_fields,
    leave_out_idle,
    refuse_idle,
)
from ddpm_jax.assembly.keys import (
    likelihood_key,
    prior_key,
    sample_key,
    seed_of,
    train_key,
)
from ddpm_jax.assembly.labels_prompts import label_word, prompts, sample_labels
from ddpm_jax.assembly.latents import check_latents, refuse_latents
from ddpm_jax.assembly.likelihood import bound_times, check_likelihood, measure
from ddpm_jax.assembly.other_runs import (
    AUTOENCODER,
    Opened,
    build_model,
    check_images,
    codec,
    keep_copies,
    open_runs,
    use_copies,
    with_copies,
)
from ddpm_jax.assembly.parts import (
    Model,
    diffusion_task,
    dtype,
    init_params,
    model,
    network,
    num_views,
    objective,
    param_shapes,
    start_state,
)
from ddpm_jax.assembly.pictures import consistency, shown
from ddpm_jax.assembly.plans import compiled_options, plan_of, program
from ddpm_jax.assembly.programs import kept
from ddpm_jax.assembly.sampling import denoiser, levels, num_steps, sampler
from ddpm_jax.assembly.sizes import check_batch_memory, least_bytes
from ddpm_jax.assembly.source import (
    CLIP,
    DataInfo,
    LatentInfo,
    RunInfo,
    clip_of,
    data_fingerprint,
    data_info,
    num_classes,
)
