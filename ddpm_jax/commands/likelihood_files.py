"""The folder of one likelihood measurement: its numbers and its picture."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.diffusion.variational_bound import Bound, rate_distortion, standard_error
from ddpm_jax.runtime import files, plots
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import describe

RESULT = "likelihood.json"
PARTS = "parts"


# --- Numbers --------------------------------------------------------------------------


def finish(
    folder: Path,
    measured: parts.PartialResults,
    settings: dict[str, Any],
    times: np.ndarray,
) -> None:
    """Make the numbers and the picture out of the parts, then drop the parts.

    Args:
        folder: where to.
        measured: all images.
        settings: what decides the numbers; the result repeats them.
        times: t of each term of the bound, rising [N].
    """
    whole = {k: leaf.astype(np.float64) for k, leaf in measured.whole().items()}
    if settings["method"] == "bound":
        numbers = _finish_bound(folder, settings, whole, times)
    else:
        files.write_npz(folder / "images.npz", whole)
        numbers = {
            "bits_per_dim": _estimate(whole["bits"]),
            "network_calls": _estimate(whole["num_calls"]),
        }
    finished = time.strftime("%Y-%m-%dT%H:%M:%S")
    about = {**settings, "device": describe(), "finished": finished}
    files.write_json(folder / RESULT, {**numbers, **about})
    measured.drop()


def read(folder: Path) -> dict[str, Any] | None:
    """Read the result of a measurement; None if there is none that can be used."""
    return parts.stored_result(folder / RESULT, ("method", "bits_per_dim"))


def _finish_bound(
    folder: Path,
    settings: dict[str, Any],
    whole: dict[str, np.ndarray],
    times: np.ndarray,
) -> dict[str, Any]:
    bound = Bound(**{name: leaf.T for name, leaf in whole.items()})
    curve = rate_distortion(bound)
    decoder, rate = bound.steps[0], bound.prior + bound.steps[1:].sum(0)
    files.write_npz(
        folder / "terms.npz",
        {
            "t": times,
            "terms": bound.steps.mean(-1),
            "terms_error": standard_error(bound.steps),
            "x0_mse": bound.x0_mse.mean(-1),
            "eps_mse": bound.eps_mse.mean(-1),
            **curve._asdict(),
            "image_prior": bound.prior,
            "image_rate": rate,
            "image_decoder": decoder,
        },
    )
    plots.plot_bound(
        folder / "bound.png",
        times,
        bound.steps.mean(-1),
        curve.rate,
        curve.distortion,
        title=f"{settings['data']} ({settings['split']}), "
        f"{settings['num_images']:,} images",
    )
    return {
        "bits_per_dim": _estimate(rate + decoder),
        "rate": _estimate(rate),
        "decoder": _estimate(decoder),
        "prior": _estimate(bound.prior),
        "rmse": _pair(curve.distortion[0], curve.distortion_error[0]),
        "num_steps": len(times),
    }


def _estimate(values: np.ndarray) -> dict[str, float | None]:
    return _pair(values.mean(), standard_error(values))


def _pair(mean: float, error: float | np.ndarray) -> dict[str, float | None]:
    known = bool(np.isfinite(error))  # one image has no standard error, nor JSON a NaN
    return {"mean": float(mean), "standard_error": float(error) if known else None}


def format_result(result: dict[str, Any]) -> str:
    """Say a result for a person to read."""

    def say(name: str, digits: int = 4) -> str:
        mean, error = result[name]["mean"], result[name]["standard_error"]
        return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")

    if result["method"] == "ode":
        calls = result["network_calls"]["mean"]
        return (
            f"bits/dim {say('bits_per_dim')} by the probability-flow ODE, "
            f"{calls:.0f} network calls an image."
        )
    return (
        f"bits/dim at most {say('bits_per_dim')} by the bound over "
        f"{result['num_steps']} steps:\n"
        f"  rate L_1 + ... + L_T {say('rate')} (of it L_T "
        f"{result['prior']['mean']:.2g}), L_0 {say('decoder')}, distortion "
        f"{say('rmse', 2)} (RMSE on 0..255)."
    )
