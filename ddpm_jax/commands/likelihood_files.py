"""The folder of one likelihood measurement: its parts, its numbers, its picture."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_jax import plots
from ddpm_jax.devices import describe
from ddpm_jax.diffusion.likelihood import Bound, rate_distortion, standard_error
from ddpm_jax.errors import UserError

RESULT = "likelihood.json"
_SETTINGS, _PARTS = "settings.json", "parts"


# --- Parts ----------------------------------------------------------------------------


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Note what decides the numbers, or refuse to go on where it was something else.

    Raises:
        UserError: the folder was begun with other settings, data included.
    """
    path = folder / _SETTINGS
    if not path.exists():
        _write_json(path, settings)
        return
    before = json.loads(path.read_text())
    # Through JSON, which knows no tuples.
    now = json.loads(json.dumps(settings))
    changed = sorted(name for name in now if now[name] != before.get(name))
    if changed:
        raise UserError(
            f"{folder} was begun with other settings ({', '.join(changed)}); restore "
            "them, or remove that folder."
        )


def num_done(folder: Path) -> int:
    """Count the images that are stored, from the first on without a gap."""
    done = 0
    for path in _parts(folder):
        start, end = _ends(path)
        if start == done:
            done = end
        else:
            path.unlink()  # behind a gap: it will be measured again
    return done


def save_part(folder: Path, start: int, arrays: dict[str, np.ndarray]) -> None:
    """Store the batch that starts at an image; a kill leaves it whole or absent."""
    end = start + len(next(iter(arrays.values())))
    (folder / _PARTS).mkdir(exist_ok=True)
    _write_npz(folder / _PARTS / f"{start:08d}-{end:08d}.npz", arrays)


def _parts(folder: Path) -> list[Path]:
    return sorted((folder / _PARTS).glob("*.npz"), key=_ends)


def _ends(path: Path) -> tuple[int, int]:
    start, end = path.stem.split("-")
    return int(start), int(end)


def _load_parts(folder: Path) -> dict[str, np.ndarray]:
    """Read all parts as one set of float64 arrays [N, ...]."""
    stored = []
    for path in _parts(folder):
        try:
            with np.load(path) as file:
                stored.append(dict(file))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); remove it, and give the same "
                "command again."
            ) from error
    return {
        name: np.concatenate([part[name] for part in stored]).astype(np.float64)
        for name in stored[0]
    }


# --- Numbers --------------------------------------------------------------------------


def finish(folder: Path, settings: dict[str, Any], times: np.ndarray) -> None:
    """Make the numbers and the picture out of the parts, then drop the parts.

    Args:
        folder: with all parts.
        settings: as for `check_settings`; the result repeats them.
        times: t of each term of the bound, rising [N].
    """
    whole = _load_parts(folder)
    if settings["method"] == "bound":
        numbers = _finish_bound(folder, settings, whole, times)
    else:
        _write_npz(folder / "images.npz", whole)
        numbers = {
            "bits_per_dim": _estimate(whole["bits"]),
            "network_calls": _estimate(whole["num_calls"]),
        }
    finished = time.strftime("%Y-%m-%dT%H:%M:%S")
    about = {**settings, "device": describe(), "finished": finished}
    _write_json(folder / RESULT, {**numbers, **about})
    shutil.rmtree(folder / _PARTS)


def _finish_bound(
    folder: Path,
    settings: dict[str, Any],
    whole: dict[str, np.ndarray],
    times: np.ndarray,
) -> dict[str, Any]:
    bound = Bound(**{name: leaf.T for name, leaf in whole.items()})
    curve = rate_distortion(bound)
    decoder, rate = bound.steps[0], bound.prior + bound.steps[1:].sum(0)
    _write_npz(
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


def _pair(mean: float, error: float) -> dict[str, float | None]:
    known = bool(np.isfinite(error))  # one image has no standard error, nor JSON a NaN
    return {"mean": float(mean), "standard_error": float(error) if known else None}


def spell(result: dict[str, Any]) -> str:
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


# --- Writing --------------------------------------------------------------------------


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    _write(path, lambda file: np.savez(file, **arrays))


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write beside and rename, so that a name always belongs to a whole file."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            write(file)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); make room there, and give the "
            "same command again."
        ) from error
