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

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ddpm_jax import assembly, data, specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.idle import refuse_idle
from ddpm_jax.codecs import display_of
from ddpm_jax.commands import about
from ddpm_jax.commands.drawing import digest
from ddpm_jax.commands.plane import write_figures
from ddpm_jax.diffusion.variational_bound import standard_error
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import differences
from ddpm_jax.runtime import files
from ddpm_jax.runtime.devices import describe
from ddpm_jax.runtime.keys import check_seed
from ddpm_jax.runtime.results import finished_result, result_folder
from ddpm_jax.sampling.result_files import write_items
from ddpm_jax.tasks.spec import Sampled, TaskSpec
from ddpm_jax.training import checkpoints as store

_LOOKED_AT = {
    "sample": {"num_images", "batch_size", "seed"},
    "evaluate": {
        *("num_images", "num_seeds", "images", "scores", "features", "weights"),
        *("resize", "batch_size", "reference", "reference_split", "floor_split"),
        "allow_few",
    },
    "likelihood": {"split", "num_images", "batch_size"},
    "edit": {"image", "num_points"},
}
"""Section -> its options that mean something to a model of any kind."""


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


def check_asked(cfg: ConfigDict) -> None:
    """Refuse options of a drawing that do nothing to a model of this kind.

    Raises:
        UserError: naming the first, or a number that is out of range.
    """
    for section, known in _LOOKED_AT.items():
        if section in cfg:
            why = f"in a model of kind {cfg.kind}; leave it out"
            others = [name for name in cfg[section] if name not in {*known, "kind"}]
            refuse_idle(cfg, [(f"{section}.{n}", lambda _: True, why) for n in others])
    for name in ("num_images", "batch_size"):
        if cfg.sample[name] < 1:
            raise UserError(
                f"config.sample.{name}={cfg.sample[name]} is too small; use 1 or more."
            )
    if cfg.sample.seed is not None:
        check_seed("config.sample.seed", cfg.sample.seed)


def open_sampled(cfg: ConfigDict, workdir: Path) -> Opened:
    """Open a model that is to be sampled, by a config that may ask something of it.

    Args:
        cfg: that of the run, its sections of requests being free.
        workdir: of the run.

    Raises:
        UserError: as `open_task`; or the options are not those of the run.
    """
    opened = open_task(workdir, cfg.kind)
    _check_options(cfg, workdir)
    if not isinstance(opened.model, Sampled):
        raise UserError(
            f"the model of kind {cfg.kind} in {workdir} has no item_shape, sample and "
            "store; give them to what its TaskSpec.open returns."
        )
    return opened


def _check_options(cfg: ConfigDict, workdir: Path) -> None:
    """Refuse other options than those that the model of a run was trained with."""
    free = (*about.FREE_OPTIONS, *about.SPELLING, "training.")
    stored = about.trained_config(workdir)
    changed = [line for line in differences(stored, cfg) if not line.startswith(free)]
    if changed:
        raise UserError(
            f"the model in {workdir} was trained with other options "
            f"({'; '.join(changed)}); they cannot be changed now."
        )


def request_of(cfg: ConfigDict, described: dict[str, Any]) -> dict[str, Any]:
    """Describe a drawing by all that decides its items, as plain data.

    Args:
        cfg: its `sample` says what is asked for.
        described: metadata and result of the model.
    """
    return {
        "command": "sample",
        "checkpoint_step": described["step"],
        "fingerprint": digest(described.get("checksums")),
        "seed": assembly.sample_seed(cfg),
        "num_images": cfg.sample.num_images,
    }


def draw(
    cfg: ConfigDict,
    model: Sampled,
    *,
    first: int = 0,
    stop: Callable[[], Any] = lambda: False,
) -> Iterator[np.ndarray]:
    """Sample `config.sample.num_images` items, a batch at a time.

    Args:
        cfg: its `sample` says how many, and of which seed.
        model: any that can be sampled.
        first: the item to begin with, where those before it are finished.
        stop: asked before each batch.

    Yields:
        Items of a batch as files hold them, [B, ...].

    Raises:
        UserError: an item is not finite.
    """
    total, key = cfg.sample.num_images, assembly.sample_key(cfg)
    size = min(cfg.sample.batch_size, total)
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


def bits_per_dim(cfg: ConfigDict, workdir: Path) -> dict[str, float]:
    """Measure bits/dim of a split of the data: their mean, and its standard error.

    Args:
        cfg: its `likelihood` names the split, how many of it, and how many at a time.
        workdir: of the model.

    Raises:
        UserError: the model has no likelihood, or the split cannot be opened.
    """
    model, options = open_sampled(cfg, workdir).model, cfg.likelihood
    if not getattr(model, "has_likelihood", False):
        raise UserError(
            f"config.evaluate.scores=bits_per_dim, and a model of kind {cfg.kind} has "
            "no likelihood; leave this score out."
        )
    items, _ = data.in_memory(assembly.dataset(cfg, options.split))
    items, size = items[: options.num_images], options.batch_size
    key = assembly.sample_key(cfg)
    found = np.concatenate(
        [
            # Each batch has a key of its own, and each item one within its batch.
            model.bits_per_dim(jax.random.fold_in(key, start), items[start:][:size])
            for start in range(0, len(items), size)
        ]
    ).astype(np.float64)
    error = float(standard_error(found))
    return {"value": float(found.mean()), "standard_error": error}


def sample_any(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> Path:
    """Sample a model of any kind, and write what it made.

    Args:
        cfg: its `sample` says how many, and of which seed.
        workdir: of the model.
        out: their folder; None: a numbered one of `samples/` in the workdir.

    Returns:
        The folder that holds images/ (of images), samples.npz, sample.json, grid.png.

    Raises:
        UserError: the workdir holds no such model, or the options do not fit it.
    """
    check_asked(cfg)
    request = request_of(cfg, _described(workdir, cfg.kind))
    _check_options(cfg, workdir)
    done = finished_result(workdir / "samples", request, out)
    if done is not None:
        return done
    opened = open_sampled(cfg, workdir)
    folder = result_folder(workdir / "samples", request, out)
    model, count = opened.model, cfg.sample.num_images
    print(f"Sampling {count} items of {model!r} on {describe()}.", flush=True)
    started = time.perf_counter()
    with tqdm(total=count, unit="item", disable=None, dynamic_ncols=True) as bar:
        parts = []
        for part in draw(cfg, model):
            parts.append(part)
            bar.update(len(part))
    items, seconds = np.concatenate(parts), time.perf_counter() - started
    show = display_of(model.item_shape)
    show.save(folder / "images", items, None)
    record = {
        "seconds": round(seconds, 2),
        "checkpoint_step": opened.step,
        "seed": assembly.sample_seed(cfg),
        "device": describe(),
        "versions": opened.about.get("versions", {}),
    }
    files.write_json(folder / "sample.json", record)
    if cfg.data.source.startswith("points:"):
        with contextlib.suppress(UserError):  # a file that is no longer there
            write_figures(cfg, assembly.dataset(cfg), folder, items)
    write_items(folder, items, show.sheet(items, None))
    print(f"{seconds:.1f} s. Images: {folder}/grid.png, samples.npz")
    return folder


def interpolate_any(cfg: ConfigDict, workdir: Path, out: Path | None = None) -> Path:
    """Walk between latents of a model of any kind, and write what it made of them.

    Args:
        cfg: its `edit` names the items to walk between, for a model with an encoder;
            with none named, it walks between samples, `sample.num_images` of them.
        workdir: of the model.
        out: their folder; None: a numbered one of `edits/` in the workdir.

    Returns:
        The folder that holds samples.npz [N - 1, P, ...] and grid.png.

    Raises:
        UserError: the workdir holds no such model, or the options do not fit it.
    """
    check_asked(cfg)
    points = cfg.edit.num_points
    words = [word.strip() for word in cfg.edit.image.split(",") if word.strip()]
    request = {
        **request_of(cfg, _described(workdir, cfg.kind)),
        "command": "edit interpolate",
        "image": digest(words) if words else None,
        "num_points": points,
    }
    _check_options(cfg, workdir)
    done = finished_result(workdir / "edits", request, out)
    if done is not None:
        return done
    model = open_sampled(cfg, workdir).model
    if words:
        source = assembly.dataset(cfg)
        found = [item for word in words for item in numbered_items(source, word)]
        latents = model.encode(np.stack(found))
    else:
        latents = model.latents(assembly.sample_key(cfg), cfg.sample.num_images)
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
