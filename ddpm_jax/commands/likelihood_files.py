"""The folder of one likelihood measurement: its numbers and its picture."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.commands.measurement import Measurement
from ddpm_jax.diffusion.variational_bound import Bound, rate_distortion, standard_error
from ddpm_jax.runtime import files, plots
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import describe

RESULT = "likelihood.json"
PARTS = "parts"


# --- Numbers --------------------------------------------------------------------------


def finish(folder: Path, measured: parts.PartialResults, of: Measurement) -> None:
    """Make the numbers and the picture out of the parts, then drop the parts.

    Args:
        folder: where to.
        measured: all items.
        of: what was measured; the result repeats its settings.
    """
    whole = {k: leaf.astype(np.float64) for k, leaf in measured.whole().items()}
    settings = of.settings
    if of.times is not None:
        numbers = _finish_bound(folder, settings, whole, of.times)
    else:
        files.write_npz(folder / "images.npz", whole)
        numbers = _numbers(whole)
        if str(of.source.dtype) != "uint8":  # a density
            nats = whole["bits"] * settings["dimensions"] * math.log(2.0)
            numbers["nats_per_item"] = _estimate(nats)
    finished = time.strftime("%Y-%m-%dT%H:%M:%S")
    about = {**settings, "device": describe(), "finished": finished}
    files.write_json(folder / RESULT, {**numbers, **about})
    measured.drop()


def _numbers(whole: dict[str, np.ndarray]) -> dict[str, Any]:
    """Average what was measured of each item, [N] by name."""
    found = {"bits_per_dim": _estimate(whole["bits"])}
    if "num_calls" in whole:
        found["network_calls"] = _estimate(whole["num_calls"])
    if "rate" in whole:
        found["negative_elbo"] = _estimate(whole["rate"] + whole["distortion"])
        found |= {name: _estimate(whole[name]) for name in ("rate", "distortion")}
    return found


def read(folder: Path) -> dict[str, Any] | None:
    """Read the result of a measurement; None if there is none that can be used."""
    return parts.stored_result(folder / RESULT, ("method", "bits_per_dim"))


def _finish_bound(
    folder: Path,
    settings: Mapping[str, Any],
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
    """Say a result for a person to read; of a density in nats an item, too."""
    is_density = "nats_per_item" in result
    nats = result["dimensions"] * math.log(2.0) if is_density else 1.0

    def say(name: str, digits: int = 4, scale: float = 1.0) -> str:
        mean, error = result[name]["mean"], result[name]["standard_error"]
        text = f"{scale * mean:.{digits}f}"
        return text + (f" ± {scale * error:.{digits}f}" if error else "")

    def total(sign: str = "") -> str:
        bits = f"bits/dim {sign}{say('bits_per_dim')}"
        if not is_density:
            return bits
        return f"{sign}{say('nats_per_item')} nats an item ({bits})"

    method = result["method"]
    if method == "bound":
        return (
            f"{total('at most ')} by the bound over {result['num_steps']} steps:\n"
            f"  rate L_1 + ... + L_T {say('rate')} (of it L_T "
            f"{result['prior']['mean']:.2g}), L_0 {say('decoder')}, distortion "
            f"{say('rmse', 2)} (RMSE on 0..255)."
        )
    if method == "ode":
        calls = result["network_calls"]["mean"]
        item = "item" if is_density else "image"
        return (
            f"{total()} by the probability-flow ODE, {calls:.0f} network calls an "
            f"{item}."
        )
    if method == "exact":
        if is_density:
            return f"{total()}, exactly."
        return f"{total('at most ')}, exact but for uniform dequantization."
    return (
        f"{total('at most ')} by the importance-weighted bound of "
        f"{result['options']['num_samples']} samples;\n"
        f"  by the ELBO {say('negative_elbo', scale=nats)}: rate "
        f"{say('rate', scale=nats)}, distortion {say('distortion', scale=nats)}."
    )
