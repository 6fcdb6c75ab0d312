"""What a sampling leaves: a numbered folder, and its files.

samples/0001/
    request.json        all that decides the images
    images/             a PNG each, named after class and prompt, and their prompts
    grid.png            all on one sheet; written last
    film.png, film-x0.png, chain.gif    the chain of the first, and what it predicted
    forward.png         real images on their way into noise
    samples.npz         all pixels, and classes
    sample.json         how they were drawn
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs import Codec, Display
from ddpm_jax.codecs.display import IMAGES
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import to_json
from ddpm_jax.runtime import files, images
from ddpm_jax.sampling.forward import forward_trajectory
from ddpm_jax.sampling.plan import Trajectory


def write_samples(
    cfg: ConfigDict,
    info: DataInfo,
    folder: Path,
    drawn: np.ndarray,
    film: Trajectory,
    sheet: np.ndarray,
    record: dict,
    show: Display = IMAGES,
) -> None:
    """Write all that a drawing leaves but `forward.png`, which comes before.

    Args:
        cfg: its `sample` names the images.
        info: of the model.
        folder: where to.
        drawn: [N, ...], as the codec stores them; of images uint8 [N, H, W, C].
        film: of the first of them.
        sheet: of all, uint8 [rows, columns, C].
        record: of how they were drawn, as plain data.
        show: how items are shown, of the codec.
    """
    names = image_names(cfg, info)
    show.save(folder / "images", drawn, names)
    images.save_npz(folder / "samples.npz", drawn, assembly.sample_labels(cfg, info))
    texts = assembly.prompts(cfg, info)
    if texts is not None and not cfg.sample.prompt_to:
        _write_captions(folder / "images", names or [], texts)
    images.save_png(folder / "film.png", show.film(film.x_t))
    images.save_png(folder / "film-x0.png", show.film(film.x0))
    columns = max(1, round(len(film.x_t[0]) ** 0.5))
    images.save_gif(
        folder / "chain.gif",
        show.animation(film.x_t, columns),
        fps=8,
        hold_last=2.0,
    )
    files.write_json(folder / "sample.json", record)
    # Last, since its presence says that the folder is complete.
    images.save_png(folder / "grid.png", sheet)


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
        cond: what the network was told of each, leaves [N, ...].
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


def spell_consistency(decibels: float) -> str:
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


def _write_captions(folder: Path, names: Sequence[str], texts: Sequence[str]) -> None:
    """Write which picture is of which prompt, as a folder of training data has it."""
    lines = [
        json.dumps({"file_name": f"{name}.png", "text": text}, ensure_ascii=False)
        for name, text in zip(names, texts, strict=True)
    ]
    files.write_text(folder / "metadata.jsonl", "".join(f"{line}\n" for line in lines))


# --- Requests ------------------------------------------------------------------------

# Options of `config.sample` that change no image, or are resolved into what is stored.
_RESOLVED = {"batch_size", "step", "ema", "ema_std", "seed", "num_steps"}
SHOWN = ("film_frames", "film_images")
"""Options of how much of a chain is shown."""


def sample_request(
    cfg: ConfigDict, info: DataInfo, step: int, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a sampling by all that decides its images, as plain data.

    Args:
        cfg: its `sample` says what is asked for.
        info: of the model.
        step: of the checkpoint.
        stored: its metadata.
    """
    options = to_json(cfg)["sample"]
    asked = {name: v for name, v in options.items() if name not in _RESOLVED}
    request = {
        "command": "sample",
        **model_request(cfg, step, stored),
        "seed": assembly.sample_seed(cfg),
        "num_steps": assembly.num_steps(cfg),
        **asked,
    }
    texts = assembly.prompts(cfg, info)
    if texts is not None:  # of a file or of data, which may be others tomorrow
        request["prompts"] = digest(texts)
    if assembly.map_name(cfg):
        split = cfg.sample.picture.removeprefix("data:") or None
        found = assembly.dataset(cfg, split)
        request["data"] = assembly.data_fingerprint(found, cfg)
    return request


def model_request(
    cfg: ConfigDict, step: int, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe which parameters are used, as plain data; arguments as above."""
    return {
        "checkpoint_step": step,
        "parameters": parameters_name(cfg),
        "fingerprint": digest(stored.get("checksums")),
    }


def digest(plain: Any) -> str:
    """Hash plain data to 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


# --- Real images on their way into noise ---------------------------------------------


def write_forward(cfg: ConfigDict, folder: Path, codec: Codec) -> None:
    """Show real images on their way into noise, where the data are still at hand."""
    try:
        save_forward_film(cfg, assembly.dataset(cfg), folder, codec)
    except UserError as error:
        print(f"note: no forward.png, for want of the data: {error}", file=sys.stderr)


def save_forward_film(cfg: ConfigDict, source: Any, folder: Path, codec: Codec) -> None:
    """Draw the first real images on their way into noise: forward.png."""
    count = min(cfg.sample.film_images, len(source))
    real = np.stack([source.source[i]["image"] for i in range(count)])
    film = forward_trajectory(
        assembly.sample_key(cfg),
        real,
        assembly.schedule(cfg),
        max(2, cfg.sample.film_frames),
        codec,
    )
    images.save_png(folder / "forward.png", codec.show.film(film))
