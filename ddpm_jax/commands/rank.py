"""Whether drawn images show what was asked for, and whether they are only remembered.

For models of captioned pictures that no rule can read. A dual encoder that was trained
on real pairs (configs/emoji_retrieval.py) looks for the prompt of each image among
others, and the nearest training picture is looked up, pixel by pixel. Real pictures
that neither network was trained on are measured alike: drawn ones may be expected to do
as well.

workdir/ranks/
    0001/NETWORK/       of the images drawn, or real
        ranks.json      how often the prompt is found, and how near they are to the data
        neighbours.png  images beside their nearest training pictures
    0001/request.json, samples.npz, grid.png
    ranks.json          all rows

What is there already is not computed again.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.assembly import retrieval as dual_encoders
from ddpm_jax.commands.about import step_of
from ddpm_jax.commands.image_sets import ImageSet, drawn_set, given_set, to_the_end
from ddpm_jax.commands.model import describe_model, make_folder
from ddpm_jax.commands.neighbours import NEIGHBOURS, lay_beside
from ddpm_jax.commands.retrieval import FIRST, found
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.precision_recall import nearest
from ddpm_jax.recipe import Data, Diffusion, Recipe
from ddpm_jax.requests import Rank, Sample
from ddpm_jax.runtime import files, images
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import on_every_host
from ddpm_jax.runtime.results import result_folder

_ROW = "ranks.json"
_WANTED = (
    *("set", "images", "guidance_scale", "seed", "num_images", "found", "distance"),
    "model",
)
_REAL = "real "  # and the name of the split
_USUAL = 5  # percent of real pictures that are nearer to the data than what is "near"


@dataclasses.dataclass(frozen=True)
class _Set:
    """Images, and the text of each."""

    kind: str  # "real test", "drawn for data:test"
    images: ImageSet
    texts: tuple[str, ...]
    seed: int | None
    scale: float | None


def rank(recipe: Recipe[Diffusion], asked: Rank, workdir: Path) -> int:
    """Draw for prompts, look for the prompts, and print how often they are found.

    Args:
        recipe: of the model.
        asked: names the network, and what is drawn; left out, the captions of the
            held-out pictures and as many of the training set, each once and at most
            `num_images`. Its `out` may name the folder in which `ranks/` is made, which
            else is the workdir.
        workdir: of the model.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: the options or the network do not fit the model.
    """
    spec, out = recipe.task, asked.folder or workdir
    _check(spec, asked)
    dual_encoder = dual_encoders.retrieval(Path(asked.retrieval))
    step, train = step_of(asked, workdir), spec.data.open()
    known = functools.cache(lambda: _flat(data.in_memory(train)[0]))

    def rows(interrupted: Callable[[], int]) -> None:
        real = _real(spec.data, asked.baseline_split, train)
        sets, usual = [] if real is None else [real], None
        for prompt in [asked.prompt] if asked.prompt else _by_default(train, real):
            for variant in assembly.variants(spec, asked, [step]):
                one = dataclasses.replace(variant, prompt=prompt)
                sets.append(_drawn(recipe, one, workdir, interrupted))
        for each in sets:  # before any is drawn
            _check_fits(each, dual_encoder)
        print(_HEAD)
        for each in sets:
            row = _row(out, each, dual_encoder, train, known, usual)
            if each is real:
                usual = row["distance"]["usual"]
            print(_format(row), flush=True)

    return to_the_end(rows, functools.partial(_summarise, out))


def _check(spec: Diffusion, asked: Rank) -> None:
    assembly.refuse_idle(spec, asked)
    assembly.check_seeds(spec, asked)
    if spec.text is None:
        raise UserError(
            "rank looks for prompts, and this model was trained without text; "
            "train one on captions, as configs/emoji.py does."
        )
    if not asked.retrieval:
        raise UserError(
            "rank needs a network that knows pictures and captions; train one by a "
            "recipe such as configs/emoji_retrieval.py, and give its run as "
            "config.evaluate.retrieval=DIR."
        )


def _real(of: Data, split: str, train: data.Dataset) -> _Set | None:
    """Take pictures that nothing was trained on, if there are some with captions."""
    if not split:
        return None
    try:
        held_out = of.open(split)
        if held_out.texts is None:
            raise UserError(f"{held_out.name} has no captions.")
        one = given_set(of, "data", split, train, len(held_out))
    except UserError as error:
        files.note(f"no real pictures to compare with: {error}")
        return None
    return _Set(f"{_REAL}{split}", one, held_out.texts, None, None)


def _by_default(train: data.Dataset, real: _Set | None) -> list[str]:
    """Ask for all captions that were held out, and for as many from all over the rest.

    Without any held out, for all of the training set.
    """
    if real is None:
        return [f"data:{train.split}"]
    every = max(1, len(train) // len(real.texts))
    held_out = real.kind.removeprefix(_REAL)
    return [f"data:{held_out}", f"data:{train.split}/{every}"]


def _drawn(
    recipe: Recipe[Diffusion],
    asked: Sample,
    workdir: Path,
    interrupted: Callable[[], int],
) -> _Set:
    """Ask for each prompt once, up to the number of images that is asked for."""
    info = describe_model(recipe.task, asked, workdir).info
    assembly.check_sample(recipe.task, info, asked)
    listed = assembly.prompts(recipe.task, info, asked)
    assert listed is not None  # `_check` has refused a model without
    texts = tuple(dict.fromkeys(listed))
    once = dataclasses.replace(asked, num_images=len(texts))
    return _Set(
        f"drawn for {asked.prompt}",
        drawn_set(recipe, once, workdir, interrupted),
        texts,
        assembly.seed_of(recipe.task, asked),
        asked.guidance_scale,
    )


def _check_fits(one: _Set, dual_encoder: dual_encoders.Retrieval) -> None:
    given, wanted = one.images.image_shape, dual_encoder.features.image_shape
    if given != wanted:
        raise UserError(
            f"{one.images.described}: {'x'.join(map(str, given))}, and "
            f"{dual_encoder.features.name} takes "
            f"{'x'.join(map(str, wanted or ()))}; train one on pictures of that size."
        )
    count = len(set(one.texts))
    if count <= FIRST:
        raise UserError(
            f"{one.kind}: {count} different prompts, of which the first {FIRST} are "
            f"too many; give {FIRST + 1} or more, in a file: "
            "--config.sample.prompt=file:PATH."
        )


def _row(
    workdir: Path,
    given: _Set,
    dual_encoder: dual_encoders.Retrieval,
    train: data.Dataset,
    known: Callable[[], np.ndarray],
    usual: float | None,
) -> dict[str, Any]:
    """Return the row of a set."""
    one = given.images
    folder = result_folder(workdir / "ranks", one.request)
    seen = make_folder(folder / f"retrieval-{dual_encoder.features.fingerprint}")
    path = seen / _ROW
    row = parts.stored_result(path, _WANTED)
    if on_every_host(row is not None):
        assert row is not None
        if row["distance"]["nearer_than"] == usual:
            return row
    with files.alone_in(folder):
        source = one.load(folder)
    pixels, _ = data.in_memory(source)
    near = nearest(_flat(pixels), known(), min(NEIGHBOURS, len(train)))
    images.save_png(seen / "neighbours.png", lay_beside(source, train, *near))
    distances = near[0][:, 0] * (255 / np.sqrt(np.prod(one.image_shape)))
    nearer = None if usual is None else float(np.mean(distances < usual))
    row = {
        "set": folder.name,
        "images": given.kind,
        "guidance_scale": given.scale,
        "seed": given.seed,
        "num_images": len(pixels),
        "found": found(dual_encoder, pixels, given.texts),
        "distance": {
            "median": float(np.median(distances)),
            "usual": float(np.percentile(distances, _USUAL)),
            "nearer_than": usual,
            "share_nearer": nearer,
        },
        "retrieval": dual_encoder.features.fingerprint,
        "model": one.model,
    }
    files.write_json(path, row)
    return row


def _flat(pixels: np.ndarray) -> np.ndarray:
    """Make a vector of each image, float32 [N, H W C] in [0, 1]."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255


_COLUMNS = ("guidance", "seed", "number", "first", "in 5", "+-", "of", "distance")
_HEAD = f"{'images':<26}" + "".join(f"{name:>10}" for name in _COLUMNS) + "    copied"


def _format(row: dict[str, Any]) -> str:
    hit, distance = row["found"], row["distance"]
    in_first = hit[f"in_first_{FIRST}"]
    copied = distance["share_nearer"]
    if row["seed"] is None:  # by its own making
        copied = _USUAL / 100
    numbers = [
        "" if row["guidance_scale"] is None else f"{row['guidance_scale']:g}",
        "" if row["seed"] is None else f"{row['seed']}",
        f"{row['num_images']:,}",
        f"{100 * hit['first']['value']:.1f}",
        f"{100 * in_first['value']:.1f}",
        f"{100 * in_first['standard_error']:.1f}",
        f"{hit['among']}",
        f"{distance['median']:.1f}",
        "" if copied is None else f"{100 * copied:.1f}",
    ]
    return f"{row['images'][:25]:<26}" + "".join(f"{text:>10}" for text in numbers)


def _summarise(workdir: Path) -> None:
    folder = workdir / "ranks"
    rows = parts.stored_rows(folder.glob(f"*/*/{_ROW}"), _WANTED)
    rows.sort(key=lambda row: (row["images"], row["guidance_scale"] or 0, row["set"]))
    files.write_json(folder / _ROW, rows)
    print(
        "first, in 5: % whose text the network finds; distance: the median one to the "
        "nearest training picture (RMS, of 255); copied: % that are nearer to one than "
        f"{100 - _USUAL}% of real pictures are.\nFiles: {folder}/"
    )
