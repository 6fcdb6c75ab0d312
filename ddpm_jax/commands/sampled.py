"""Drawing from any model that can be sampled, whatever its task.

Nothing here knows how a model is sampled: it asks a `tasks.spec.Sampled` for items by
their numbers, a batch at a time. Of the options of a drawing only those that mean
something to every model are looked at, and the others are refused.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly, data, specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.codecs import display_of
from ddpm_jax.commands import about
from ddpm_jax.commands.model import digest
from ddpm_jax.commands.plane import write_figures
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import differences
from ddpm_jax.requests import Interpolate, Sample
from ddpm_jax.requests.sample import sample_of
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import describe
from ddpm_jax.runtime.progress import progress
from ddpm_jax.runtime.results import finished_result, result_folder
from ddpm_jax.sampling.result_files import write_items
from ddpm_jax.tasks.spec import Sampled, TaskSpec
from ddpm_jax.training import checkpoints as store


class Opened(NamedTuple):
    """A trained model of a kind of its own.

    Attributes:
        model: what its spec opens.
        step: of its checkpoint.
        about: metadata and result.
    """

    model: Any
    step: int
    about: dict[str, Any]


def open_task(workdir: Path, kind: str) -> Opened:
    """Open the finished model of a folder, as the spec of its task says.

    Args:
        workdir: of the run.
        kind: of its task, which is registered.

    Raises:
        UserError: there is none, it is not finished, or it is damaged.
    """
    described = _described(workdir, kind)
    spec, _ = specs.from_recipe(described["config"], TaskSpec)
    step = described["step"]
    params = store.restore_params(workdir, step=step)
    return Opened(spec.open(params, described), step, described)


def _described(workdir: Path, kind: str) -> dict[str, Any]:
    """Read metadata and result of a finished model, and none of its parameters."""
    return auxiliary.about(workdir, auxiliary.kind_named(kind))


def open_sampled(spec: TaskSpec, workdir: Path) -> Opened:
    """Open a model that is to be sampled.

    Args:
        spec: of the model.
        workdir: of the run.

    Raises:
        UserError: as `open_task`; or the options are not those of the run.
    """
    kind = specs.kind_of(spec)
    opened = open_task(workdir, kind)
    refuse_other_options(spec, workdir)
    if not isinstance(opened.model, Sampled):
        raise UserError(
            f"the model of kind {kind} in {workdir} has no item_shape, sample and "
            "store; give them to what its TaskSpec.open returns."
        )
    return opened


def refuse_other_options(spec: TaskSpec, workdir: Path) -> None:
    """Refuse other options than those that the model of a run was trained with.

    Args:
        spec: as a command has it.
        workdir: of the run.

    Raises:
        UserError: naming them.
    """
    free, stored = (*about.FREE_OPTIONS, *about.SPELLING), about.trained_recipe(workdir)
    lines = differences(stored.task, spec)
    changed = [line for line in lines if not line.startswith(free)]
    if changed:
        raise UserError(
            f"the model in {workdir} was trained with other options "
            f"({'; '.join(changed)}); they cannot be changed now."
        )


def request_of(
    spec: TaskSpec, asked: Sample, described: dict[str, Any]
) -> dict[str, Any]:
    """Describe a drawing by all that decides its items, as plain data.

    Args:
        spec: of the model.
        asked: what is asked for.
        described: metadata and result of the model.
    """
    return {
        "command": "sample",
        "checkpoint_step": described["step"],
        "fingerprint": digest(described.get("checksums")),
        "seed": assembly.seed_of(spec, asked),
        "num_images": asked.num_images,
    }


def draw(
    spec: TaskSpec,
    asked: Sample,
    model: Sampled,
    *,
    first: int = 0,
    stop: Callable[[], Any] = lambda: False,
) -> Iterator[np.ndarray]:
    """Sample the items that are asked for, a batch at a time.

    Args:
        spec: of the model.
        asked: how many, and of which seed.
        model: any that can be sampled.
        first: the item to begin with, where those before it are finished.
        stop: asked before each batch.

    Yields:
        Items of a batch as files hold them, [B, ...].

    Raises:
        UserError: an item is not finite.
    """
    total, key = asked.num_images, assembly.sample_key(assembly.seed_of(spec, asked))
    size = min(asked.batch_size, total)
    for start in range(first, total, size):
        if stop():
            return
        # All batches are of one size, so that one program makes them.
        made = model.sample(key, size, first=start)[: total - start]
        if not bool(jnp.isfinite(made).all()):
            raise UserError(
                f"an item among {start} to {start + len(made) - 1} is not finite; "
                "train with a lower learning rate, in another --workdir."
            )
        yield model.store(made)


def sample_any(spec: TaskSpec, asked: Sample, workdir: Path) -> Path:
    """Sample a model of any kind, and write what it made.

    Args:
        spec: of the model.
        asked: how many, of which seed, and perhaps the folder, which else is a numbered
            one of `samples/` in the workdir.
        workdir: of the model.

    Returns:
        The folder that holds images/ (of images), samples.npz, sample.json, grid.png.

    Raises:
        UserError: the workdir holds no such model, or the options do not fit it.
    """
    assembly.refuse_idle(spec, asked)
    out = asked.folder
    request = request_of(spec, asked, _described(workdir, specs.kind_of(spec)))
    refuse_other_options(spec, workdir)
    done = finished_result(workdir / "samples", request, out)
    if done is not None:
        return done
    opened = open_sampled(spec, workdir)
    folder = result_folder(workdir / "samples", request, out)
    model, count = opened.model, asked.num_images
    print(f"Sampling {count} items of {model!r} on {describe()}.", flush=True)
    started = time.perf_counter()
    with progress(count, unit="item") as bar:
        parts = []
        for part in draw(spec, asked, model):
            parts.append(part)
            bar.update(len(part))
    items, seconds = np.concatenate(parts), time.perf_counter() - started
    show = display_of(model.item_shape)
    show.save(folder / "images", items, None)
    record = {
        "seconds": round(seconds, 2),
        "checkpoint_step": opened.step,
        "seed": assembly.seed_of(spec, asked),
        "device": describe(),
        "versions": opened.about.get("versions", {}),
    }
    files.write_json(folder / "sample.json", record)
    if spec.data.source.startswith("points:"):
        with contextlib.suppress(UserError):  # a file that is no longer there
            write_figures(spec.data, spec.data.open(), folder, items)
    write_items(folder, items, show.sheet(items, None))
    print(f"{seconds:.1f} s. Images: {folder}/grid.png, samples.npz")
    return folder


def interpolate_any(
    spec: TaskSpec, asked: Interpolate, num_samples: int, workdir: Path
) -> Path:
    """Walk between latents of a model of any kind, and write what it made of them.

    Args:
        spec: of the model.
        asked: names the items to walk between, for a model with an encoder.
        num_samples: with none named, it walks between so many samples.
        workdir: of the model.

    Returns:
        The folder that holds samples.npz [N - 1, P, ...] and grid.png.

    Raises:
        UserError: the workdir holds no such model, or the options do not fit it.
    """
    assembly.refuse_idle(spec, asked)
    out, points = asked.folder, asked.num_points
    words = [word.strip() for word in asked.image.split(",") if word.strip()]
    drawn = sample_of(asked, num_images=num_samples)
    request = {
        **request_of(spec, drawn, _described(workdir, specs.kind_of(spec))),
        "command": "edit interpolate",
        "image": digest(words) if words else None,
        "num_points": points,
    }
    refuse_other_options(spec, workdir)
    done = finished_result(workdir / "edits", request, out)
    if done is not None:
        return done
    model = open_sampled(spec, workdir).model
    if words:
        source = spec.data.open()
        found = [item for word in words for item in numbered_items(source, word)]
        latents = model.encode(np.stack(found))
    else:
        key = assembly.sample_key(assembly.seed_of(spec, asked))
        latents = model.latents(key, num_samples)
    if len(latents) < 2:
        raise UserError(
            "edit interpolate needs two items or more; give --config.edit.image="
            "data:7,data:8, or a config.sample.num_images of 2 or more."
        )
    folder = result_folder(workdir / "edits", request, out)
    walks = model.store(model.interpolate(latents[:-1], latents[1:], points))
    items = walks.reshape(-1, *model.item_shape)
    write_items(folder, items, display_of(model.item_shape).sheet(items, points))
    print(f"{len(walks)} walks of {points}: {folder}/grid.png, samples.npz")
    return folder


def numbered_items(source: data.Dataset, word: str) -> list[np.ndarray]:
    """Read items of the data by their numbers, "data:7" or "data:7-10".

    Args:
        source: the data.
        word: of `config.edit.image`.

    Raises:
        UserError: there are no such items.
    """
    indices = data.indices_of(word, source)
    if indices is None:
        raise UserError(
            f"config.edit.image={word} is no example of the data; write data:7, or "
            "data:7-10 for several."
        )
    return [source.source[i]["image"] for i in indices]
