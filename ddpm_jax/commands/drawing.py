"""Samples of a model: their request, names, sheet and files."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs import Codec, Display
from ddpm_jax.codecs.display import IMAGES
from ddpm_jax.commands.model import Described
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import images
from ddpm_jax.sampling.forward import forward_trajectory
from ddpm_jax.sampling.plan import Trajectory
from ddpm_jax.sampling.result_files import Results, write_results


def write_samples(
    cfg: ConfigDict,
    info: DataInfo,
    folder: Path,
    items: np.ndarray,
    trajectory: Trajectory,
    sheet: np.ndarray,
    record: dict[str, Any],
    show: Display = IMAGES,
) -> None:
    """Write samples with their names, labels and captions, by `write_results`.

    Args:
        cfg: its `sample` names the items.
        info: of the model.
        folder: where to.
        items: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].
        trajectory: of the first of them.
        sheet: of all, uint8 [rows, columns, C].
        record: of how they were sampled, as plain data.
        show: how items are shown, of the codec.
    """
    made = Results(
        items,
        sheet,
        trajectory,
        record,
        labels=assembly.sample_labels(cfg, info),
        names=image_names(cfg, info),
        captions=None if cfg.sample.prompt_to else assembly.prompts(cfg, info),
    )
    write_results(folder, made, show)


def sheet_of(
    cfg: ConfigDict,
    info: DataInfo,
    cond: dict[str, Any] | None,
    drawn: np.ndarray,
    show: Display = IMAGES,
) -> np.ndarray:
    """Lay out a drawing in one picture, with what it was drawn from if there is such.

    Args:
        cfg: as of the drawing.
        info: of the model.
        cond: the condition of each, leaves [N, ...].
        drawn: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].
        show: how items are shown, of the codec.

    Returns:
        uint8 [rows, columns, C]. Of a model that draws from a picture, that picture,
        what was drawn, and the image that the picture was made of, side by side.
    """
    if not assembly.map_name(cfg):
        return show.sheet(drawn, columns_of(cfg, info))
    assert cond is not None  # a model that is shown a picture is given one
    shown, real = assembly.shown(cfg, cond)
    beside = np.stack([np.asarray(images.to_uint8(shown)), drawn, real], axis=1)
    threes = max(1, round((len(drawn) / 3) ** 0.5))
    return images.grid(beside.reshape(-1, *drawn.shape[1:]), columns=3 * threes)


def columns_of(cfg: ConfigDict, info: DataInfo) -> int | None:
    """Stand each class in a column of its own, if that makes a sheet; else None.

    A walk between two prompts is a row.
    """
    if cfg.sample.prompt_to:
        return cfg.sample.num_images
    classes = assembly.num_classes(cfg, info)
    whole = classes and not cfg.sample.labels and classes <= 16
    return classes if whole and cfg.sample.num_images >= classes else None


def format_consistency(decibels: float) -> str:
    """Say how far a drawing agrees with the pictures that it was drawn from."""
    levels = 255 * 10 ** (-decibels / 20)
    return (
        f"Brought down to the pictures they were drawn from, the images differ by a "
        f"PSNR of {decibels:.2f} dB (about {levels:.1f} of 255)."
    )


# --- Names ---------------------------------------------------------------------------


def image_names(cfg: ConfigDict, info: DataInfo) -> list[str] | None:
    """Name each image to draw after its number, class and prompt; None for number."""
    labels, texts = assembly.sample_labels(cfg, info), assembly.prompts(cfg, info)
    if labels is None and texts is None:
        return None
    classes = [name.replace("/", "-") for name in (*(info.label_names or ()), "none")]
    names = [f"{i:06d}" for i in range(cfg.sample.num_images)]
    if labels is not None:
        names = [f"{name}-{classes[c]}" for name, c in zip(names, labels, strict=True)]
    if texts is not None:
        names = [f"{name}-{slug(t)}" for name, t in zip(names, texts, strict=True)]
    return names


def slug(text: str) -> str:
    """Make a part of a file's name of a prompt: its words, joined, of any script."""
    words = "-".join(re.findall(r"\w+", text.lower()))
    return _cut(words, 80) or "prompt"


def _cut(text: str, num_bytes: int) -> str:
    """Shorten a text to what a file system takes, at the end of a character."""
    return text.encode()[:num_bytes].decode(errors="ignore").rstrip("-")


# --- Requests ------------------------------------------------------------------------

# Options of `config.sample` that change no image, or are resolved into what is stored.
_RESOLVED = {"batch_size", "step", "ema", "ema_std", "seed", "num_steps"}
SHOWN = ("film_frames", "film_images")
"""Options of how much of a chain is shown."""


def sample_request(cfg: ConfigDict, found: Described) -> dict[str, Any]:
    """Describe a sampling by all that decides its images, as plain data.

    Args:
        cfg: its `sample` says what is asked for.
        found: the model.
    """
    options = to_json(cfg)["sample"]
    asked = {name: v for name, v in options.items() if name not in _RESOLVED}
    request = {
        "command": "sample",
        **model_request(cfg, found),
        "seed": assembly.sample_seed(cfg),
        "num_steps": assembly.num_steps(cfg),
        **asked,
    }
    texts = assembly.prompts(cfg, found.info)
    if texts is not None:  # of a file or of data, which may be others tomorrow
        request["prompts"] = digest(texts)
    if assembly.map_name(cfg):
        split = cfg.sample.picture.removeprefix("data:") or None
        source = assembly.dataset(cfg, split)
        request["data"] = assembly.data_fingerprint(source, cfg)
    return request


def model_request(cfg: ConfigDict, found: Described) -> dict[str, Any]:
    """Describe which parameters are used, as plain data; arguments as above."""
    return {
        "checkpoint_step": found.step,
        "parameters": parameters_name(cfg),
        "fingerprint": digest(found.about.get("checksums")),
    }


def digest(plain: Any) -> str:
    """Hash plain data to 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


# --- Real images on their way into noise ---------------------------------------------


def write_forward(cfg: ConfigDict, folder: Path, codec: Codec) -> None:
    """Show real images on their way into noise, where the data are still at hand."""
    try:
        save_forward(cfg, assembly.dataset(cfg), folder, codec)
    except UserError as error:
        print(f"note: no forward.png, for want of the data: {error}", file=sys.stderr)


def save_forward(cfg: ConfigDict, source: Any, folder: Path, codec: Codec) -> None:
    """Draw the first real images on their way into noise: forward.png."""
    count = min(cfg.sample.film_images, len(source))
    real = np.stack([source.source[i]["image"] for i in range(count)])
    trajectory = forward_trajectory(
        assembly.sample_key(cfg),
        real,
        assembly.schedule(cfg),
        max(2, cfg.sample.film_frames),
        codec,
    )
    images.save_png(folder / "forward.png", codec.show.trajectory(trajectory))
