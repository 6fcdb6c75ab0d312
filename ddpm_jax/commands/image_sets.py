"""The sets of images that are scored: drawn by a model, or given.

A set has a name for its folder, a line that describes it, and its images in batches. A
drawn set is stored part by part while it grows, so that a run that was killed goes on
from there, and ends as `samples.npz`, which evaluators of the field read.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.codecs import Autoencoder
from ddpm_jax.commands.drawing import SHOWN, sample_options, sample_request
from ddpm_jax.commands.encoding import runs_of
from ddpm_jax.commands.model import find_model, open_model
from ddpm_jax.commands.parameters import parameters_name
from ddpm_jax.commands.prior import check_prior
from ddpm_jax.commands.reconstructions import reconstructions
from ddpm_jax.commands.sample import conditions_of, sample_batches
from ddpm_jax.commands.sampled import draw, open_sampled, request_of
from ddpm_jax.data.dataset import fingerprint_of
from ddpm_jax.data.pipeline import permutation
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion, Recipe, TaskSpec
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import capacity, files, images
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import on_every_host, wait_for_all_hosts
from ddpm_jax.runtime.progress import progress
from ddpm_jax.sampling.result_files import SAMPLES, write_items
from ddpm_jax.specs import kind_of
from ddpm_jax.training.loop import catch_interrupts

_DRAWN = "drawn"  # the parts of a set that still grows


class Interrupted(Exception):
    """The user stopped it between two batches; what is finished is stored."""


def to_the_end(
    work: Callable[[Callable[[], int]], Any], summarise: Callable[[], Any]
) -> int:
    """Do what is stored as it grows, however often it is interrupted.

    Args:
        work: is given a function to ask between batches, which returns the number of
            the signal that interrupts it, or 0.
        summarise: called when all is done.

    Returns:
        0 if all is done, else 128 plus the number of the signal.
    """
    with catch_interrupts() as interrupted:
        try:
            work(interrupted)
        except Interrupted as stop:
            print("Interrupted; saved. The same command goes on from here.")
            return stop.args[0] if stop.args else 128 + interrupted()
    wait_for_all_hosts("the rows")
    summarise()
    return 0


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images to be scored.

    Attributes:
        request: all that decides its pixels, as plain data; "images" says of what kind.
        described: for a person: "10,000 samples of step 4000 (ema), ...".
        model: how the images were drawn, as plain data; None if they were given.
        num_images: N.
        image_shape: (H, W, C).
        load: folder -> the images as a data set; what takes long is stored in the
            folder on the way, and raises `Interrupted`.
    """

    request: dict[str, Any]
    described: str
    model: dict[str, Any] | None
    num_images: int
    image_shape: tuple[int, int, int]
    load: Callable[[Path], data.Dataset]


# --- Drawn ----------------------------------------------------------------------------


def drawn_set(
    recipe: Recipe, asked: Sample, workdir: Path, interrupted: Callable[[], int]
) -> ImageSet:
    """Describe the draws of one checkpoint, with one set of options and one seed.

    Args:
        recipe: of the model.
        asked: how, from which step, and how many.
        workdir: of the model.
        interrupted: asked between batches.

    Raises:
        UserError: the workdir holds no such model, or the options do not fit it.
    """
    spec = recipe.task
    if not isinstance(spec, Diffusion):
        return _sampled_set(spec, asked, workdir, interrupted)
    found = find_model(spec, asked, workdir)
    info = found.info
    assembly.check_sample(spec, info, asked)
    check_prior(spec, info, asked)
    request = sample_request(found, asked)
    options = sample_options(asked)
    steps = assembly.num_steps(spec, asked)
    said = f"{asked.sampler}, {steps} steps"
    if asked.guidance_scale != 1:
        said += f", guidance {asked.guidance_scale:g}"
    if found.worse is not None:
        step, which = found.worse["checkpoint_step"], found.worse["parameters"]
        said += f", autoguidance {asked.autoguidance:g} of step {step:,} ({which})"
    kept = ("num_images", "batch_size", "film_frames", "film_images", "step", "ema_std")
    model = {
        "checkpoint_step": found.step,
        "parameters": parameters_name(asked),
        **({} if found.worse is None else {"worse": found.worse}),
        "options": {k: v for k, v in options.items() if k not in (*kept, "ema")}
        | {"num_steps": steps},
    }

    def batches(first: int) -> Iterator[np.ndarray]:
        trained = open_model(recipe, asked, workdir)
        conditions = conditions_of(trained, asked, trained.params.network)
        program, params = assembly.program(trained, asked), trained.params
        options: Any = {"first": first, "stop": interrupted}
        for made in sample_batches(spec, asked, program, params, conditions, **options):
            yield made.items

    def load(folder: Path) -> data.Dataset:
        labels, names = assembly.sample_labels(spec, info, asked), info.label_names
        # Images drawn without a class cannot be held against one.
        if labels is not None and (labels >= len(names or ())).any():
            labels = None
        shape = (asked.num_images, *info.image_shape)
        return _grown(folder, shape, model, batches, labels, names)

    return ImageSet(
        request={
            "images": "samples",
            **{name: value for name, value in request.items() if name not in SHOWN},
        },
        described=f"samples of step {found.step:,} ({parameters_name(asked)}; {said}, "
        f"seed {asked.seed})",
        model=model,
        num_images=asked.num_images,
        image_shape=info.image_shape,
        load=load,
    )


def _sampled_set(
    spec: TaskSpec, asked: Sample, workdir: Path, interrupted: Callable[[], int]
) -> ImageSet:
    """Describe samples of a model of any kind."""
    opened, kind = open_sampled(spec, workdir), kind_of(spec)
    seed = assembly.seed_of(spec, asked)
    model = {
        "checkpoint_step": opened.step,
        "parameters": "ema",
        # Of one call, unguided: as tables and plots of scores have it.
        "options": {
            **{"sampler": kind, "num_steps": 1, "guidance_scale": 1.0},
            "seed": seed,
        },
    }
    described = f"samples of a {kind}, step {opened.step:,} (seed {seed})"
    shape = opened.model.item_shape
    of_all = (asked.num_images, *shape)

    def batches(first: int) -> Iterator[np.ndarray]:
        return draw(spec, asked, opened.model, first=first, stop=interrupted)

    return ImageSet(
        request={"images": "samples", **request_of(spec, asked, opened.about)},
        described=described,
        model=model,
        num_images=asked.num_images,
        image_shape=data.image_shape_of(shape, opened.model.dtype, f"a {kind}"),
        load=lambda folder: _grown(folder, of_all, model, batches),
    )


def _grown(
    folder: Path,
    shape: tuple[int, ...],
    model: dict[str, Any],
    batches: Callable[[int], Iterator[np.ndarray]],
    labels: np.ndarray | None = None,
    names: tuple[str, ...] | None = None,
) -> data.Dataset:
    """Return a set that is stored, or make it.

    Args:
        folder: of its parts, and of what they become.
        shape: (N, H, W, C).
        model: how the images are made, as plain data.
        batches: the first image that is missing -> the images from there on.
        labels: [N], to be stored beside the images, or None.
        names: of the classes.

    Raises:
        Interrupted: by the user, before it was whole.
    """
    stored = _stored(folder / SAMPLES, shape)
    if on_every_host(stored is not None):
        assert stored is not None
        return _in_memory(folder.name, *stored, names)
    parts.check_settings(folder, model, (_DRAWN,))
    grown = parts.PartialResults(folder, _DRAWN, shape[0])
    with progress(shape[0], "sampling", done=grown.done) as bar:
        for made in batches(grown.done):
            bar.update(grown.add({"images": made}))
    if grown.done < shape[0]:
        raise Interrupted
    whole = grown.whole()["images"]
    write_items(folder, whole, images.grid(whole[:100]), labels)
    grown.drop()
    return _in_memory(folder.name, whole, labels, names)


def _stored(
    path: Path, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Read images that were stored here; None if there are none that can be used."""
    if not path.exists():
        return None
    try:
        pixels, labels = read_npz(path)
        if pixels.shape == shape:
            return pixels, labels
        reason = f"it holds {list(pixels.shape)} of {list(shape)}"
    except UserError as error:
        reason = str(error).partition(";")[0]
    files.note(f"{path} cannot be used ({reason}); making the images anew.")
    return None


# --- Reconstructed --------------------------------------------------------------------


def reconstructed_set(
    spec: TaskSpec, workdir: Path, split: str, num_images: int
) -> ImageSet:
    """Describe a split of the data as its latents' means are decoded.

    What a model of these latents can at best be expected to reach.

    Args:
        spec: its `codec` names the autoencoder.
        workdir: of a model, whose autoencoder comes first; or of none.
        split: of the data.
        num_images: N, at most; fewer if there are not so many.

    Raises:
        UserError: there is no autoencoder, or it takes other images.
    """
    autoencoder = None
    if isinstance(spec, Diffusion):
        autoencoder = runs_of(spec, workdir).get(assembly.AUTOENCODER)
    if autoencoder is None:
        raise UserError(
            f"config.evaluate.images=reconstructions:{split} are an autoencoder's; "
            "name its folder: config.codec.kind=latents and config.codec.run=DIR."
        )
    source = spec.data.open(split)
    autoencoder.shape_of(source.image_shape)  # refuses other images
    count = min(num_images, len(source))
    return ImageSet(
        request={
            "images": "reconstructions",
            "split": split,
            "data": source.fingerprint,
            "autoencoder": autoencoder.fingerprint,
            "num_images": count,
        },
        described=f"reconstructions of {source.name} ({split})",
        model=None,
        num_images=count,
        image_shape=source.image_shape,
        load=lambda folder: _reconstructed(autoencoder, _some(source, count), folder),
    )


def _reconstructed(
    autoencoder: Autoencoder, source: data.Dataset, folder: Path
) -> data.Dataset:
    path = folder / SAMPLES
    stored = _stored(path, (len(source), *source.image_shape))
    if not on_every_host(stored is not None):
        pixels, labels = reconstructions(autoencoder, source)
        write_items(folder, pixels, images.grid(pixels[:100]), labels)
        wait_for_all_hosts(f"{path}")
    return _in_memory(folder.name, *read_npz(path), source.label_names)


# --- Given ----------------------------------------------------------------------------


def given_set(
    of: Data,
    kind: str,
    where: str,
    like: data.Dataset,
    num_images: int,
    seed: int | None = None,
) -> ImageSet:
    """Describe a folder, a file, a split of the data, or noise.

    Args:
        of: the data.
        kind: folder, npz, data or noise.
        where: the folder, the file or the split.
        like: the reference, whose size and channels the noise takes.
        num_images: N, at most; fewer if there are not so many.
        seed: of the noise.

    Raises:
        UserError: they cannot be opened.
    """
    if kind == "noise":
        source = _noise(seed, num_images, like)
    else:
        source = _given(of, kind, where, like)
    count = min(num_images, len(source))
    return ImageSet(
        request={
            "images": kind,
            "split" if kind == "data" else "where": where,
            "data": source.fingerprint,
            "num_images": count,
        },
        described=source.name,
        model=None,
        num_images=count,
        image_shape=source.image_shape,
        load=lambda folder: _some(source, count),
    )


def _noise(seed: int | None, count: int, like: data.Dataset) -> data.Dataset:
    each, memory = math.prod(like.image_shape), capacity.machine_memory()
    capacity.check("config.evaluate.num_images", count, each, memory)
    shape = (count, *like.image_shape)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return _in_memory(f"uniform noise, seed {seed}", pixels, None, None)


def _given(of: Data, kind: str, where: str, like: data.Dataset) -> data.Dataset:
    if kind == "npz":
        return _in_memory(
            f"images of {where}", *read_npz(Path(where)), like.label_names
        )
    if kind == "folder":
        found = data.load(f"folder:{where}")
        if found.listing is not None and found.listing.left_out:
            files.note(
                f"left out of {found.name}: {found.listing.describe_left_out()}."
            )
        return found
    source = of.open(where)
    return dataclasses.replace(source, name=f"real {source.name} ({where})")


def _in_memory(
    name: str,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    label_names: tuple[str, ...] | None,
) -> data.Dataset:
    return data.Dataset(
        name=name,
        source=data.Arrays(pixels, labels),
        shape=pixels.shape[1:],
        label_names=None if labels is None else label_names,
        fingerprint=fingerprint_of([pixels.tobytes()]),
        split="",
    )


def _some(source: data.Dataset, count: int) -> data.Dataset:
    """Take this many images; some are chosen at random, the same ones every time."""
    if count == len(source):
        return source
    return data.subset(source, np.sort(permutation(0, 0, len(source))[:count]))


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read images `arr_0` and, if there are, labels `arr_1`.

    Raises:
        UserError: no such file, no such arrays, or not uint8 [N, H, W, C].
    """
    try:
        found = files.read_npz(path)
    except (FileNotFoundError, files.DamagedError) as error:
        raise UserError(
            f"cannot read {path} ({error}); give an .npz with images in arr_0."
        ) from error
    if "arr_0" not in found:
        raise UserError(
            f"{path} has {', '.join(found) or 'nothing'} in it; images of an .npz lie "
            "in arr_0."
        )
    pixels = found["arr_0"]
    if pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise UserError(
            f"arr_0 of {path} is {pixels.dtype} {list(pixels.shape)}; images are uint8 "
            "[N, H, W, C] with values 0 to 255."
        )
    labels = found.get("arr_1")
    if labels is not None and (
        labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu"
    ):
        raise UserError(
            f"arr_1 of {path} is {labels.dtype} {list(labels.shape)}; labels are "
            f"integers [{len(pixels)}], one for each image."
        )
    return pixels, labels
