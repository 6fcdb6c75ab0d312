"""Samples of a model: their request, names, sheet and files."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs.embeddings import scaled
from ddpm_jax.commands.model import Described, digest, model_request
from ddpm_jax.commands.prior import prior_request
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Embeddings
from ddpm_jax.requests import Sample, sections
from ddpm_jax.runtime import files, images
from ddpm_jax.sampling.forward import forward_trajectory
from ddpm_jax.sampling.plan import Trajectory
from ddpm_jax.sampling.result_files import Results, write_results


def write_samples(
    model: assembly.Model,
    asked: Sample,
    folder: Path,
    items: np.ndarray,
    trajectory: Trajectory,
    sheet: np.ndarray,
    record: dict[str, Any],
) -> None:
    """Write samples with their names, labels and captions, by `write_results`.

    Args:
        model: that made them.
        asked: which names the items.
        folder: where to.
        items: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].
        trajectory: of the first of them.
        sheet: of all, uint8 [rows, columns, C].
        record: of how they were sampled, as plain data.
    """
    spec, info = model.spec, model.info
    made = Results(
        items,
        sheet,
        trajectory,
        record,
        labels=assembly.sample_labels(spec, info, asked),
        names=image_names(spec, info, asked),
        captions=None if asked.prompt_to else assembly.prompts(spec, info, asked),
    )
    write_results(folder, made, model.codec.show)


def sheet_of(
    model: assembly.Model, asked: Sample, cond: dict[str, Any] | None, drawn: np.ndarray
) -> np.ndarray:
    """Lay out a drawing in one picture, with what it was drawn from if there is such.

    Args:
        model: that made it.
        asked: as of the drawing.
        cond: the condition of each, leaves [N, ...].
        drawn: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].

    Returns:
        uint8 [rows, columns, C]. Of a model that draws from a picture, that picture,
        what was drawn, and the image that the picture was made of, side by side.
    """
    spec = model.spec
    if not spec.map_name:
        return model.codec.show.sheet(drawn, columns_of(spec, model.info, asked))
    assert cond is not None  # a model that is shown a picture is given one
    shown, real = assembly.shown(spec, cond)
    beside = np.stack([np.asarray(images.to_uint8(shown)), drawn, real], axis=1)
    threes = max(1, round((len(drawn) / 3) ** 0.5))
    return images.grid(beside.reshape(-1, *drawn.shape[1:]), columns=3 * threes)


def columns_of(spec: Diffusion, info: DataInfo, asked: Sample) -> int | None:
    """Stand each class in a column of its own, if that makes a sheet; else None.

    A walk between two prompts is a row.
    """
    if asked.prompt_to:
        return asked.num_images
    classes = assembly.num_classes(spec, info)
    if classes is None or asked.label or classes > 16:
        return None
    return classes if asked.num_images >= classes else None


def format_consistency(decibels: float) -> str:
    """Say how far a drawing agrees with the pictures that it was drawn from."""
    levels = 255 * 10 ** (-decibels / 20)
    return (
        f"Brought down to the pictures they were drawn from, the images differ by a "
        f"PSNR of {decibels:.2f} dB (about {levels:.1f} of 255)."
    )


# --- Names ---------------------------------------------------------------------------


def image_names(spec: Diffusion, info: DataInfo, asked: Sample) -> list[str] | None:
    """Name each image to draw after its number, class and prompt; None for number."""
    labels = assembly.sample_labels(spec, info, asked)
    texts = assembly.prompts(spec, info, asked)
    if labels is None and texts is None:
        return None
    classes = [name.replace("/", "-") for name in (*(info.label_names or ()), "none")]
    names = [f"{i:06d}" for i in range(asked.num_images)]
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

# Options that change no image, or are resolved into what is stored.
_RESOLVED = {
    *("batch_size", "step", "ema", "ema_std", "seed", "num_steps"),
    *("autoguidance_step", "autoguidance_ema", "autoguidance_ema_std"),
}
SHOWN = ("film_frames", "film_images")
"""Options of how much of a chain is shown."""


def sample_options(asked: Sample) -> dict[str, Any]:
    """Return what is asked for, by the names that results have been stored with."""
    return {"kind": "sample_defaults", **sections.options_in(asked, "sample")}


def sample_request(found: Described, asked: Sample) -> dict[str, Any]:
    """Describe a sampling by all that decides its images, as plain data.

    Args:
        found: the model.
        asked: what is asked for.
    """
    spec = found.spec
    request = {
        "command": "sample",
        **model_request(asked, found),
        "seed": assembly.seed_of(spec, asked),
        "num_steps": assembly.num_steps(spec, asked),
        **{n: v for n, v in sample_options(asked).items() if n not in _RESOLVED},
    }
    texts = assembly.prompts(spec, found.info, asked)
    if texts is not None:  # of a file or of data, which may be others tomorrow
        request["prompts"] = digest(texts)
    request |= prior_request(found.info, asked)
    if spec.map_name:
        source = spec.data.open(asked.picture.removeprefix("data:") or None)
        request["data"] = assembly.data_fingerprint(source, spec)
    return request


# --- Real images on their way into noise ---------------------------------------------


def write_forward(model: assembly.Model, asked: Sample, folder: Path) -> None:
    """Show real images on their way into noise, where the data are still at hand."""
    try:
        save_forward(model, asked, folder, model.spec.data.open())
    except UserError as error:
        files.note(f"no forward.png, for want of the data: {error}")


def save_forward(
    model: assembly.Model, asked: Sample, folder: Path, source: Any
) -> None:
    """Draw the first real images on their way into noise: forward.png."""
    count = min(asked.film_images, len(source))
    real = np.stack([source.source[i]["image"] for i in range(count)])
    if isinstance(model.spec.codec, Embeddings):  # which are its items
        real = scaled(assembly.clip_of(model.info).encode_images(real))
    trajectory = forward_trajectory(
        assembly.sample_key(assembly.seed_of(model.spec, asked)),
        real,
        model.spec.schedule.build(),
        asked.film_frames,
        model.codec,
    )
    images.save_png(folder / "forward.png", model.codec.show.trajectory(trajectory))
