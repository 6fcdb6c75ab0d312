"""scheduler_config.json of a DDPM or DDIM scheduler <-> our diffusion and sampling."""

from collections.abc import Mapping
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.weights.diffusers_settings import choose, complete, key_of
from ddpm_jax.weights.pretrained import Options

FILE = "scheduler_config.json"

_SCHEDULER_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
_SCHEDULER_FIXED = {
    "trained_betas": (None,),
    "thresholding": (False,),
    "clip_sample_range": (1.0,),
    "set_alpha_to_one": (True,),
    "steps_offset": (0,),
    # These say nothing of the model.
    **dict.fromkeys(("dynamic_thresholding_ratio", "sample_max_value"), None),
    **dict.fromkeys(("tensor_format", "timestep_values"), None),
}
_SAMPLERS = {"DDPMScheduler": "ancestral", "DDIMScheduler": "ddim"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic"} | {
    "squaredcos_cap_v2": "cosine"
}
_VARIANCES = {"fixed_small": "small", "fixed_small_log": "small"} | {
    "fixed_large": "large",
    "learned_range": "learned",
}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "linear"}


def scheduler_options(
    where: str, settings: Mapping[str, Any]
) -> tuple[Options, Options]:
    """Read the settings of a DDPMScheduler or DDIMScheduler.

    Returns:
        Options that are the model's, and options that sampling may change.

    Raises:
        UserError: naming the first that the process here cannot be.
    """
    kind = settings.get("_class_name", "DDPMScheduler")
    sampler = choose(where, "_class_name", kind, _SAMPLERS)
    config = complete(where, settings, _SCHEDULER_DEFAULTS, _SCHEDULER_FIXED)
    schedule = choose(where, "beta_schedule", config["beta_schedule"], _SCHEDULES)
    ends = {}
    if schedule != "cosine":
        ends = {key: float(config[key]) for key in ("beta_start", "beta_end")}
    variance = choose(where, "variance_type", config["variance_type"], _VARIANCES)
    process = {
        "schedule": {
            "kind": schedule,
            "num_levels": config["num_train_timesteps"],
            **ends,
            "t_range": None,
            "zero_terminal_snr": config["rescale_betas_zero_snr"],
        },
        "prediction": choose(
            where, "prediction_type", config["prediction_type"], _PREDICTIONS
        ),
        "variance": variance,
    }
    sample = {
        "sampler": sampler,
        "clip": config["clip_sample"],
        "spacing": choose(
            where, "timestep_spacing", config["timestep_spacing"], _SPACINGS
        ),
    }
    loss = "hybrid" if variance == "learned" else "simple"
    return process, {"loss": {"kind": loss}, "sample": sample}


def scheduler_config(
    process: Mapping[str, Any], sample: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the settings of a DDPMScheduler.

    Args:
        process: our options `schedule`, `prediction` and `variance`.
        sample: our options of that section, of which it keeps clipping and spacing.

    Raises:
        UserError: naming what the scheduler cannot be.
    """
    ours = process["schedule"]
    schedule = key_of(_SCHEDULES, ours["kind"])
    if schedule is None:
        raise UserError(
            f"config.schedule.kind={ours['kind']!r}, which diffusers cannot express; "
            f"it has {', '.join(_SCHEDULES.values())}."
        )
    prediction = key_of(_PREDICTIONS, process["prediction"])
    if prediction is None:
        raise UserError(
            f"config.prediction={process['prediction']!r}, which diffusers' "
            f"DDPMScheduler cannot express; it has {', '.join(_PREDICTIONS.values())}."
        )
    levels, t_range = ours["num_levels"], ours["t_range"]
    if t_range not in (None, levels):
        raise UserError(
            f"config.schedule.t_range={t_range} gives the network t * {t_range} / "
            f"{levels}, which diffusers cannot express."
        )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": levels,
        "beta_start": ours.get("beta_start", 1e-4),
        "beta_end": ours.get("beta_end", 0.02),
        "beta_schedule": schedule,
        "trained_betas": None,
        "variance_type": key_of(_VARIANCES, process["variance"]),
        "clip_sample": sample["clip"],
        "clip_sample_range": 1.0,
        "prediction_type": prediction,
        "thresholding": False,
        "timestep_spacing": key_of(_SPACINGS, sample["spacing"]) or "trailing",
        "steps_offset": 0,
        "rescale_betas_zero_snr": ours["zero_terminal_snr"],
    }
