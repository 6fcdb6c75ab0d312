"""Editing pictures with a trained model: reading them, running a task, writing it."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.codecs import Codec
from ddpm_jax.commands.model import (
    Described,
    Trained,
    describe_model,
    digest,
    model_request,
    open_model,
)
from ddpm_jax.commands.sampled import interpolate_any, numbered_items
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.conditioning.known_frames import NAME as FRAMES
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, KnownFrames, Recipe
from ddpm_jax.requests import (
    COMMANDS,
    Edit,
    Encode,
    Extend,
    Inpaint,
    Interpolate,
    Sample,
    TextDiff,
    Variations,
    sections,
)
from ddpm_jax.requests.edit import Several
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.runtime import capacity, images
from ddpm_jax.runtime.devices import describe
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.results import finished_result, is_finished, result_folder
from ddpm_jax.sampling import extend
from ddpm_jax.sampling.edits import OTHER_EMBEDDING, in_turn, walks
from ddpm_jax.sampling.plan import Program, Trajectory, run_batches
from ddpm_jax.sampling.result_files import Results, write_results

Rows = dict[str, np.ndarray]
"""What is given for each image to make: arrays [R, ...]."""


def edit(recipe: Recipe, asked: Edit, workdir: Path) -> Path:
    """Edit the pictures that a request names, and write the results.

    Args:
        recipe: of the model.
        asked: what is done; its `out` may name the folder of the results, which else is
            a numbered one of `edits/` in the workdir.
        workdir: folder of the run.

    Returns:
        The folder that holds the pictures.

    Raises:
        UserError: if the workdir holds no model, a picture or mask cannot be used, or
            the options do not fit.
    """
    spec, mode = recipe.task, asked.mode
    if not isinstance(spec, Diffusion):
        assert isinstance(asked, Interpolate)  # other models serve no other edit
        num_samples = recipe.request(Sample).num_images
        return interpolate_any(spec, asked, num_samples, workdir)
    described = describe_model(spec, asked, workdir)
    info, results = described.info, workdir / "edits"
    assembly.check_sample(spec, info, assembly.sample_of_edit(spec, asked))
    assembly.check_edit(spec, asked, info.item_shape)
    assembly.refuse_idle(spec, asked)
    pictures = read_pictures(spec, asked, info)
    blocks = lay_blocks(asked, info, pictures) if isinstance(asked, Extend) else []
    given, noise, columns = lay_out(spec, asked, info, pictures)
    out = asked.folder
    request = partial(_request, asked, pictures=pictures, columns=columns)
    done = finished_result(results, request(described), out)
    if done is not None:
        return done
    trained = open_model(recipe, asked, workdir)
    folder = result_folder(results, request(trained), out)
    if is_finished(folder):  # of an older checkpoint, the newest being damaged
        return folder
    print(
        f"{mode}: {len(given['image'])} images from {len(pictures)} pictures, with "
        f"{trained.described} on {describe()}.",
        flush=True,
    )
    started = time.perf_counter()
    if isinstance(asked, Extend):
        program = assembly.program(trained, asked)
        with progress(len(blocks) * len(noise)) as bar:
            x = extended(asked, trained, program, given, noise, blocks, bar.update)
        shown, trajectory = x, Trajectory(x[None], None)  # the clips themselves
    else:
        shown, x, trajectory = _run(asked, trained, given, noise)
    seconds = time.perf_counter() - started
    record = {
        "mode": mode,
        "seconds": round(seconds, 2),
        "checkpoint_step": trained.step,
        **{name: sections.options_in(asked, name) for name in _sections_of(asked)},
        "device": describe(),
    }
    if not isinstance(asked, Extend):
        record["root_mean_square_change"] = _distance(x, given, trained.codec)
    write_results(
        folder,
        Results(
            x,
            _sheet(given, shown, x, columns, trained.codec),
            trajectory,
            record,
            columns=columns,
            film_rows=asked.film_images,
        ),
        trained.codec.show,
        arrays_file="images.npz",
        record_file="edit.json",
    )
    if mode == "encode":
        error = record["root_mean_square_change"]
        unit = "of 255 grey levels " if info.dtype == "uint8" else ""
        print(f"The decoded pictures are off by {error:.2f} {unit}(RMS).")
    print(f"{seconds:.1f} s. Pictures: {folder}/grid.png, film.png, chain.gif, images/")
    return folder


def _sections_of(asked: Edit) -> list[str]:
    return [*(["extend"] if isinstance(asked, Extend) else []), "edit", "sample"]


def _distance(x: np.ndarray, given: Rows, codec: Codec) -> float:
    off = x.astype(np.float64) - np.asarray(codec.store(given["image"]))
    return float(np.sqrt(np.mean(off**2)))


# --- What is given --------------------------------------------------------------------


def read_pictures(spec: Diffusion, asked: Edit, info: assembly.DataInfo) -> np.ndarray:
    """Read the items that an edit names: [P, ...], as data store them.

    Raises:
        UserError: if they are too few for the mode, or one cannot be read.
    """
    words = [word.strip() for word in asked.image.split(",") if word.strip()]
    if not words:
        raise UserError(
            f"{_name_of(asked)} needs a picture; give --config.edit.image=FILE, or "
            "data:7 for an example of the model's data."
        )
    found: list[np.ndarray] = []
    source: data.Dataset | None = None
    for word in words:
        if word.startswith("data:"):
            source = source or spec.data.open()
            found += numbered_items(source, word)
        elif len(info.item_shape) == 1:
            found += list(data.read_vectors(word, *info.item_shape))
        elif len(info.item_shape) == 4:
            found.append(_read_clip(asked, word, info))
        else:
            padded = bool(spec.data.pad_to)
            factor = assembly.upscale_factor(spec, asked)
            found.append(
                data.read_image(word, info.image_shape, padded=padded, factor=factor)
            )
    if isinstance(asked, Interpolate) and len(found) < 2:
        raise UserError(
            "edit interpolate needs two pictures or more; give "
            "--config.edit.image=A.png,B.png."
        )
    if len({len(item) for item in found}) > 1:  # only clips differ
        raise UserError(
            f"{_name_of(asked)} got clips of {', '.join(str(len(c)) for c in found)} "
            "frames; give clips of one length, or one at a time."
        )
    return np.stack(found)


def _name_of(asked: Edit) -> str:
    return next(name for name, kind in COMMANDS.items() if kind is type(asked))


def _read_clip(asked: Edit, path: str, info: assembly.DataInfo) -> np.ndarray:
    """Read a clip; all of it to make it longer, and else as many frames as items have.

    Raises:
        UserError: it cannot be read, or is shorter.
    """
    frames, height, width, channels = info.item_shape
    clip = data.read_clip(path, data.Layout((height, width), channels, (height, width)))
    if isinstance(asked, Extend):
        return clip
    if len(clip) < frames:
        raise UserError(
            f"{path} has {len(clip)} frames, and the model's clips have {frames}; give "
            "a longer one."
        )
    return clip[:frames]


def lay_out(
    spec: Diffusion, asked: Edit, info: assembly.DataInfo, pictures: np.ndarray
) -> tuple[Rows, np.ndarray, int]:
    """Lay out what is given for each image to make.

    Args:
        spec: of the model.
        asked: what is done.
        info: of the model's data.
        pictures: from `read_pictures`, [N, ...].

    Returns:
        The rows, the number of the noise of each, and how many stand side by side.

    Raises:
        UserError: if there is no mask to inpaint, or a label is not a class.
    """
    if isinstance(asked, Interpolate):
        columns = asked.num_points
        given, noise = walks(pictures[:-1], pictures[1:], columns)
    elif isinstance(asked, TextDiff):
        columns = asked.num_points
        given = {"image": np.repeat(pictures, columns, axis=0)}
        shares = np.linspace(0, asked.share, columns, dtype=np.float32)
        given["share"] = np.tile(shares, len(pictures))
        noise = np.repeat(np.arange(len(pictures)), columns)
    else:
        columns = asked.num_images if isinstance(asked, Several) else 1
        given = {"image": np.repeat(pictures, columns, axis=0)}
        noise = np.arange(len(given["image"]))
    if NAME in spec.conditioners:
        given |= embedded(asked, info, given)
    for name in ("image", "other"):
        if name in given and given[name].dtype == np.uint8:
            given[name] = np.asarray(images.to_float(given[name]))
    if isinstance(asked, Inpaint):
        known = (~_unknown(asked.mask, info)).astype(np.float32)
        given["mask"] = np.broadcast_to(known, given["image"].shape).copy()
        given |= _known_frames(spec, given)
    cond = _cond(spec, sample_of(asked, num_images=columns), info)
    given |= in_turn(cond, len(given["image"]) // columns)
    return given, noise, columns


def embedded(asked: Edit, info: assembly.DataInfo, given: Rows) -> Rows:
    """Embed the pictures of an edit, for a decoder of image embeddings.

    Args:
        asked: what is done; some edits condition the decoder on none.
        info: of the model's data.
        given: the pictures, "image" and perhaps "other" [R, H, W, C], uint8, or
            floating point, which is rounded to bytes.

    Returns:
        Rows by the names that an edit has for them, float32 [R, D].

    Raises:
        UserError: a text is missing, or cannot be read.
    """
    clip = assembly.clip_of(info)

    def embed(name: str) -> np.ndarray:
        rows = given[name]
        if rows.dtype != np.uint8:
            rows = np.asarray(images.to_uint8(rows))
        return clip.encode_images(rows)

    if isinstance(asked, TextDiff):
        for option in ("from_text", "to_text"):
            if not getattr(asked, option):
                raise UserError(
                    f"edit text-diff needs two texts; give config.edit.{option}, what "
                    "the image shows, or is to show instead."
                )
        before, after = clip.encode_texts([asked.from_text, asked.to_text])
        length = np.linalg.norm(after - before)
        if not length:
            raise UserError(
                f"config.edit.from_text={asked.from_text!r} and to_text have no "
                "difference; give two texts that differ."
            )
        toward = np.repeat(((after - before) / length)[None], len(given["image"]), 0)
        return {NAME: embed("image"), OTHER_EMBEDDING: toward}
    if isinstance(asked, Interpolate) and asked.method != "noise":
        return {NAME: embed("image"), OTHER_EMBEDDING: embed("other")}
    if isinstance(asked, Encode | Variations):
        return {NAME: embed("image")}
    return {}


def _unknown(mask: str, info: assembly.DataInfo) -> np.ndarray:
    """Read what is to be filled: bool, of a shape that broadcasts to that of items."""
    if not mask:
        raise UserError(
            "edit inpaint needs a mask; give --config.edit.mask=FILE, a picture that "
            "is white where the image is to be filled, or of points the coordinate, "
            "such as y."
        )
    if len(info.item_shape) == 1:
        return data.read_coordinates(mask, *info.item_shape)
    if len(info.item_shape) == 4:
        frames = data.read_frames(mask, info.item_shape[0])
        return frames[:, None, None, None]
    return data.read_mask(mask, info.image_shape[:2])[..., None]


def _known_frames(spec: Diffusion, given: Rows) -> dict[str, Any]:
    """Make the condition of a model of known frames; nothing of others.

    Args:
        spec: of the model.
        given: "image" and "mask" [R, F, H, W, C].
    """
    conditioner = spec.conditioners.get(FRAMES)
    if not isinstance(conditioner, KnownFrames):
        return {}
    keys = jax.random.split(jax.random.key(0), len(given["mask"]))  # adds no noise
    clips, known = jnp.asarray(given["image"]), jnp.asarray(given["mask"][..., 0, 0, 0])
    rows = conditioner.from_given(keys, clips, known)
    return {FRAMES: jax.tree.map(np.asarray, rows)}


def lay_blocks(
    asked: Extend, info: assembly.DataInfo, clips: np.ndarray
) -> list[extend.Block]:
    """Lay out the blocks that make clips longer.

    Args:
        asked: how long, and how many frames of a block are known.
        info: of the model's data.
        clips: [N, F', ...].

    Raises:
        UserError: their numbers do not fit.
    """
    length, given = info.item_shape[0], clips.shape[1]
    known = length // 2 if asked.known is None else asked.known
    frames = asked.frames
    if frames is None:
        frames = given + length - min(known, given)
    num_rows = len(clips) * asked.num_images
    each = math.prod(info.item_shape[1:]) * num_rows
    capacity.check("config.extend.frames", frames, each, capacity.machine_memory())
    return extend.blocks_of(given, frames, length, known)


def _cond(spec: Diffusion, asked: Sample, info: assembly.DataInfo) -> dict[str, Any]:
    """Take the conditions asked for in turn; left out, there are none."""
    cond: dict[str, Any] = {}
    if assembly.num_classes(spec, info) is not None or asked.label:
        labeled = dataclasses.replace(asked, label=asked.label or "none")
        cond["label"] = assembly.sample_labels(spec, info, labeled)
    if asked.prompt:
        texts = assembly.prompts(spec, info, asked) or []
        cond |= assembly.text_cond(info, texts, asked.negative_prompt)
    return {**cond, **assembly.further_cond(spec, info, asked)}


# --- The work -------------------------------------------------------------------------


def _run(
    asked: Edit, trained: Trained, given: Rows, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Trajectory]:
    """Run the task in batches of one size; shown, result and trajectory in uint8."""
    count = len(noise)
    with progress(count) as bar:
        batches = list(
            run_batches(
                assembly.program(trained, asked),
                trained.params,
                assembly.sample_key(assembly.seed_of(trained.spec, asked)),
                given,
                num_rows=count,
                batch_size=min(asked.batch_size, count),
                indices=noise,
                on_batch=bar.update,
                advice="use a smaller config.edit.weight, or another method.",
            )
        )
    shown, x, parts = (
        [getattr(made, name) for (made,) in batches]
        for name in ("condition_preview", "items", "trajectory")
    )
    frames = np.concatenate([part.x_t for part in parts], axis=1)
    return np.concatenate(shown), np.concatenate(x), Trajectory(frames, None)


def extended(
    asked: Extend,
    trained: Trained,
    program: Program,
    given: Rows,
    noise: np.ndarray,
    blocks: list[extend.Block],
    on_batch: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Make clips longer, a block at a time.

    Args:
        asked: what is done.
        trained: the model.
        program: of one block.
        given: rows from `lay_out`, R of them.
        noise: the number of the noise of each row, [R].
        blocks: from `lay_blocks`.
        on_batch: is told the number of rows of each batch done.

    Returns:
        Clips [R, F'', ...] as the program's codec stores them.
    """
    codec, length = trained.codec, trained.info.item_shape[0]
    whole = np.asarray(codec.store(given["image"]))
    key = assembly.sample_key(assembly.seed_of(trained.spec, asked))
    for number, block in enumerate(blocks):
        known = whole[:, -block.known :]
        if known.dtype == np.uint8:
            known = np.asarray(images.to_float(known))
        image = np.zeros((len(whole), length, *whole.shape[2:]), np.float32)
        mask = np.zeros_like(image)
        image[:, : block.known], mask[:, : block.known] = known, 1
        rows: Rows = {**given, "image": image, "mask": mask}
        batches = run_batches(
            program,
            trained.params,
            jax.random.fold_in(key, number),
            {**rows, **_known_frames(trained.spec, rows)},
            num_rows=len(noise),
            batch_size=min(asked.batch_size, len(noise)),
            indices=noise,
            on_batch=on_batch,
            advice="use a smaller config.extend.weight, or another method.",
        )
        made = np.concatenate([made.items for (made,) in batches])
        new = made[:, block.known : block.known + block.new]
        whole = np.concatenate([whole, new], axis=1)
    return whole


def _sheet(
    given: Rows, shown: np.ndarray, x: np.ndarray, columns: int, codec: Codec
) -> np.ndarray:
    """Lay a picture, what was given of it, and what was made of that side by side.

    Items that are no images are in one plot, what was made alone.
    """
    if x.ndim != 4:
        return codec.show.sheet(x, columns)
    original = np.asarray(codec.store(given["image"]))
    # The far end of a walk stands on its right.
    other = np.asarray(codec.store(given["other"])) if "other" in given else None
    lines = []
    for start in range(0, len(x), columns):
        made = x[start : start + columns]
        if other is None:
            lines += [original[start], shown[start], *made]
        else:
            lines += [original[start], *made, other[start]]
    return codec.show.sheet(np.stack(lines), len(lines) * columns // len(x))


def _request(
    asked: Edit, found: Described, pictures: np.ndarray, columns: int
) -> dict[str, Any]:
    """Describe an edit by all that decides its images, as plain data."""
    spec = found.spec
    mask = b""
    if isinstance(asked, Inpaint) and asked.mask:
        is_file = len(found.info.item_shape) == 3
        mask = Path(asked.mask).read_bytes() if is_file else asked.mask.encode()
    paths = {"image", "mask"}  # whose content counts
    free = {"batch_size", "labels", "step", "ema", "ema_std", "seed"}
    chain = sample_of(asked, num_images=columns)
    in_edit, in_sample = (sections.options_in(asked, s) for s in ("edit", "sample"))
    if isinstance(asked, Extend):
        in_edit |= sections.options_in(asked, "extend")
    request = {
        "command": _name_of(asked),
        **model_request(asked, found),
        "image": hashlib.sha256(pictures.tobytes()).hexdigest()[:16],
        "mask": hashlib.sha256(mask).hexdigest()[:16] if mask else None,
        "seed": assembly.seed_of(spec, asked),
        "label": asked.label,
        "edit": {k: v for k, v in in_edit.items() if k not in paths},
        "sample": {k: v for k, v in in_sample.items() if k not in free}
        | {"num_steps": assembly.num_steps(spec, chain)},
    }
    if asked.prompt:  # of a file or of data, which may be others tomorrow
        request["prompts"] = digest(assembly.prompts(spec, found.info, chain))
    return request
