"""Drawing from a trained model, and writing what was drawn."""

import functools
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import build, config, files, images, sampling
from ddpm_jax.build import DataInfo, Params, Space
from ddpm_jax.commands.model import make_folder, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.devices import describe, spread_whole
from ddpm_jax.errors import UserError
from ddpm_jax.training.state import TrainState


def sample(cfg: ConfigDict, workdir: Path) -> Path:
    """Draw `config.sample.num_images` images from a checkpoint, and write them.

    Returns:
        The folder that holds them.

    Raises:
        UserError: if the workdir holds no model, or the options do not fit it.
    """
    trained = open_model(cfg, workdir)
    info, mesh = trained.info, trained.mesh
    folder = make_folder(sample_folder(cfg, workdir, trained.step))
    print(
        f"Drawing {cfg.sample.num_images} images with {trained.described}: "
        f"{cfg.sample.sampler}, {build.num_steps(cfg)} steps, on {describe()}.",
        flush=True,
    )
    started = time.perf_counter()
    draw = draw_of(cfg, trained.unet, mesh, trained.space)
    bar = tqdm(
        total=cfg.sample.num_images, unit="image", disable=None, dynamic_ncols=True
    )
    with bar:
        told = cond_of(cfg, info, trained.unet, trained.params.network)
        drawn, film = _draw_all(cfg, draw, trained.params, told, on_batch=bar.update)
    seconds = time.perf_counter() - started
    record: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "checkpoint_step": trained.step,
        "parameters": parameters_name(cfg),
        "sample": config.to_json(cfg)["sample"],
        "seed": build.sample_seed(cfg),
        "device": describe(),
        "versions": trained.about.get("versions", {}),
    }
    if cfg.model.picture:
        _, given = build.shown(cfg, told.cond)
        record["consistency_db"] = build.consistency(cfg, drawn, given)
    sheet = sheet_of(cfg, info, told, drawn)
    write_samples(cfg, info, folder, drawn, film, sheet, record)
    write_forward(cfg, folder, trained.space)
    if record.get("consistency_db") is not None:
        print(spell_consistency(record["consistency_db"]))
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, film.png, chain.gif, images/")
    return folder


def spell_consistency(decibels: float) -> str:
    """Say how far a drawing agrees with the pictures that it was drawn from."""
    levels = 255 * 10 ** (-decibels / 20)
    return (
        f"Brought down to the pictures they were drawn from, the images differ by a "
        f"PSNR of {decibels:.2f} dB (about {levels:.1f} of 255)."
    )


def write_forward(cfg: ConfigDict, folder: Path, space: Space) -> None:
    """Show real images on their way into noise, where the data are still at hand."""
    try:
        save_forward_film(cfg, build.dataset(cfg), folder, space)
    except UserError as error:
        print(f"note: no forward.png, for want of the data: {error}", file=sys.stderr)


def write_samples(
    cfg: ConfigDict,
    info: DataInfo,
    folder: Path,
    drawn: np.ndarray,
    film: sampling.Film,
    sheet: np.ndarray,
    record: dict,
) -> None:
    """Write all that a drawing leaves.

    Args:
        cfg: its `sample` names the images.
        info: of the model.
        folder: where to.
        drawn: uint8 [N, H, W, C].
        film: of the first of them.
        sheet: of all, uint8 [rows, columns, C].
        record: of how they were drawn, as plain data.
    """
    names = image_names(cfg, info)
    images.save_images(folder / "images", drawn, names)
    images.save_npz(folder / "samples.npz", drawn, build.sample_labels(cfg, info))
    texts = build.prompts(cfg, info)
    if texts is not None and not cfg.sample.prompt_to:
        _write_captions(folder / "images", names or [], texts)
    images.save_png(folder / "film.png", images.film_strip(film.x_t))
    images.save_png(folder / "film-x0.png", images.film_strip(film.x0))
    columns = max(1, round(len(film.x_t[0]) ** 0.5))
    images.save_gif(
        folder / "chain.gif",
        np.stack([images.grid(frame, columns=columns) for frame in film.x_t]),
        fps=8,
        hold_last=2.0,
    )
    files.write_json(folder / "sample.json", record)
    # Last, since its presence says that the folder is complete.
    images.save_png(folder / "grid.png", sheet)


def sheet_of(
    cfg: ConfigDict, info: DataInfo, told: "Told", drawn: np.ndarray
) -> np.ndarray:
    """Lay out a drawing in one picture, with what it was drawn from if there is such.

    Args:
        cfg: as of the drawing.
        info: of the model.
        told: from `cond_of`.
        drawn: uint8 [N, H, W, C].

    Returns:
        uint8 [rows, columns, C]. Of a model that draws from a picture, that picture,
        what was drawn, and the image that the picture was made of, side by side.
    """
    if not cfg.model.picture:
        return images.grid(drawn, columns=columns_of(cfg, info))
    shown, real = build.shown(cfg, told.cond)
    beside = np.stack([np.asarray(images.to_uint8(shown)), drawn, real], axis=1)
    threes = max(1, round((len(drawn) / 3) ** 0.5))
    return images.grid(beside.reshape(-1, *drawn.shape[1:]), columns=3 * threes)


def image_names(cfg: ConfigDict, info: DataInfo) -> list[str] | None:
    """Name each image to draw after its number, class and prompt; None for number."""
    labels, texts = build.sample_labels(cfg, info), build.prompts(cfg, info)
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


class Told(NamedTuple):
    """What a network is told of each image to draw, and whose noise that takes."""

    cond: Any  # leaves [N, ...]
    noise: np.ndarray | None  # int32 [N]; None: each its own


def cond_of(cfg: ConfigDict, info: DataInfo, unet: Any, params: Any) -> Told:
    """Make what the network is told of each image of a drawing.

    Args:
        cfg: its `sample` says what is asked for.
        info: of the model.
        unet: the network.
        params: its parameters, which read the two ends of a walk between prompts.

    Raises:
        UserError: a label or a prompt cannot be used.
    """
    if not cfg.sample.prompt_to:
        return Told(build.sample_cond(cfg, info), None)
    cond = build.cond_between(cfg, info, unet, params)
    return Told(cond, np.zeros(cfg.sample.num_images, np.int32))


def columns_of(cfg: ConfigDict, info: DataInfo) -> int | None:
    """Stand each class in a column of its own, if that makes a sheet; else None.

    A walk between two prompts is a row.
    """
    if cfg.sample.prompt_to:
        return cfg.sample.num_images
    classes = build.num_classes(cfg, info)
    whole = classes and not cfg.sample.labels and classes <= 16
    return classes if whole and cfg.sample.num_images >= classes else None


def draw_of(cfg: ConfigDict, unet: Any, mesh: Mesh, space: Space) -> sampling.Draw:
    """Build the drawing that `config.sample` describes; it is given `build.Params`."""
    return sampling.make_draw(
        lambda params: build.denoiser(cfg, unet, params.network),
        build.sampler(cfg),
        build.levels(cfg),
        shape=space.shape,
        film_frames=cfg.sample.film_frames,
        film_images=cfg.sample.film_images,
        mesh=mesh,
        encode=lambda params, cond: build.encode(
            unet, params.network, build.lay_out_picture(cfg, cond)
        ),
        see_of=lambda params: functools.partial(space.decode, params.space),
    )


def _draw_all(
    cfg: ConfigDict,
    draw: sampling.Draw,
    params: Any,
    told: Told,
    on_batch: Callable[[int], Any] = lambda count: None,
) -> tuple[np.ndarray, sampling.Film]:
    return sampling.draw_images(
        draw,
        params,
        build.sample_key(cfg),
        num_images=cfg.sample.num_images,
        batch_size=min(cfg.sample.batch_size, cfg.sample.num_images),
        cond=told.cond,
        noise=told.noise,
        on_batch=on_batch,
    )


# Options of `config.sample` that a folder's name shows, or that change no image in it.
_NAMED = {
    *("ema", "ema_std", "step", "sampler", "variance", "eta", "num_steps", "spacing"),
    *("guidance_scale", "seed", "num_images", "clip", "labels"),
    *("prompt", "negative_prompt", "prompt_to"),
}
_PROMPTS = {"prompt": "of", "prompt_to": "to", "negative_prompt": "not"}
_OF_NO_MATTER = {"batch_size", "film_frames", "film_images"}


def sample_folder(cfg: ConfigDict, workdir: Path, step: int) -> Path:
    """Name the folder of a drawing after all that decides what is in it."""
    options = cfg.sample
    seed = cfg.seed if options.seed is None else options.seed
    method = options.sampler
    if method == "ancestral":
        method += f"-{options.variance or cfg.diffusion.variance}"
    elif method == "ddim":
        method += f"-{options.eta:g}"
    steps = f"{build.num_steps(cfg)}-steps"
    if options.num_steps is not None or options.spacing != "trailing":
        steps += "-" + options.spacing.replace(":", "-").replace(",", "-")
    parts = [f"step-{step}", parameters_name(cfg), method, steps, f"seed-{seed}"]
    parts.append(f"{options.num_images}-images")
    if options.guidance_scale != 1:
        parts.append(f"guidance-{options.guidance_scale:g}")
    if not options.clip:
        parts.append("unclipped")
    if options.labels:
        labels = "-".join(options.labels.replace(",", " ").replace("/", " ").split())
        parts.append(f"labels-{_short(labels)}")
    parts += [
        f"{word}-{_named(options[name])}"
        for name, word in _PROMPTS.items()
        if options[name]
    ]
    rest = {
        name: value
        for name, value in options.items()
        if name not in _NAMED | _OF_NO_MATTER and value != config.default().sample[name]
    }
    if rest:
        said = "_".join(f"{name}-{value}" for name, value in sorted(rest.items()))
        parts.append(_short(said.replace("/", "-")))
    return workdir / "samples" / "_".join(parts)


def _named(prompt: str) -> str:
    """Name what was asked for in words: those of another prompt, or file, differ."""
    said, content = slug(prompt), prompt
    if prompt.startswith(build.PROMPT_FILE):
        content = "\n".join(build.prompt_lines(prompt))
    if said.replace("-", " ") != content:
        said = f"{_cut(said, 40)}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"
    return _short(said)


def _short(text: str) -> str:
    """Replace a long text by its hash: a file system takes names of 255 bytes."""
    long = len(text) > 60
    return hashlib.sha256(text.encode()).hexdigest()[:12] if long else text


def make_preview(
    cfg: ConfigDict,
    info: DataInfo,
    unet: Any,
    mesh: Mesh,
    space: Space,
    workdir: Path,
    log_image: Callable,
) -> Callable[[int, TrainState], None]:
    """Draw a few images with the averaged parameters, quickly, while training."""
    quick = cfg.copy_and_resolve_references()
    quick.sample.sampler = "ddim"
    quick.sample.eta = 0.0
    quick.sample.spacing = "trailing"
    quick.sample.churn = 0.0
    quick.sample.num_steps = cfg.training.sample_num_steps
    quick.sample.num_images = min(cfg.sample.num_images, cfg.sample.batch_size)
    quick.sample.prompt_to = ""
    draw = draw_of(quick, unet, mesh, space)
    told = Told(build.sample_cond(quick, info), None)
    of_space = spread_whole(space.params, mesh)

    def preview(step: int, state: TrainState) -> None:
        params = Params(state.ema_params, of_space)
        drawn, film = _draw_all(quick, draw, params, told)
        sheet = sheet_of(quick, info, told, drawn)
        folder = workdir / "progress"
        images.save_png(folder / f"step-{step:07d}.png", sheet)
        images.save_png(
            folder / f"step-{step:07d}-film.png", images.film_strip(film.x_t)
        )
        log_image("samples", _as_rgb(sheet), step)

    return preview


def _as_rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], 3))


def save_forward_film(cfg: ConfigDict, source: Any, folder: Path, space: Space) -> None:
    """Draw the first real images on their way into noise: forward.png."""
    count = min(cfg.sample.film_images, len(source))
    real = np.stack([source.source[i]["image"] for i in range(count)])
    film = sampling.forward_film(
        build.sample_key(cfg),
        real,
        build.schedule(cfg),
        max(2, cfg.sample.film_frames),
        encode=functools.partial(jax.jit(space.encode), space.params),
        decode=functools.partial(jax.jit(space.decode), space.params),
    )
    images.save_png(folder / "forward.png", images.film_strip(film))
