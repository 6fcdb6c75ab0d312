"""Whether pictures show what was asked for, read off the pixels.

For models that were trained on captioned shapes, whose pictures can be read without a
network: data/shapes. Prompts come from two splits, captions that training never showed,
of pairs of colour and shape that it did show and of pairs that it did not. No colour of
theirs is at the end of its range, so that values of 0 and 255 are what guidance adds.
Pictures that were drawn already, such as those of a cascade, can be read as well.

Captions may leave things unsaid. Then only what is said is right or wrong; of scenes of
one thing the attributes that are unsaid are counted, and compared with the law by which
the training data have them. Where a prompt comes more than once, so does how often two
of its pictures agree in what is unsaid: a model that always makes the same choice, not
one that samples, has 1.

workdir/attributes/
    0001/               the images: request.json, samples.npz, grid.png
        attributes.json the share of them that agree, by attribute
    attributes.json     all rows
    over-guidance.png

What is there already is not computed again.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, data
from ddpm_jax.commands.about import step_of
from ddpm_jax.commands.image_sets import drawn_set, to_the_end
from ddpm_jax.commands.model import describe_model
from ddpm_jax.data import shapes
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import Attributes, Sample
from ddpm_jax.requests.evaluate import images_kind
from ddpm_jax.runtime import files, plots
from ddpm_jax.runtime import partial_results as parts
from ddpm_jax.runtime.devices import on_every_host
from ddpm_jax.runtime.results import result_folder

ATTRIBUTES = tuple(field.name for field in dataclasses.fields(shapes.Agreement))
_SPLITS = ("data:test", "data:held_out")
_ROW = "attributes.json"
_WANTED = (
    *("set", "prompts", "guidance_scale", "seed", "num_images", "saturated", "share"),
    "model",
)
Row = dict[str, Any]
"""What was found in a set of pictures, as plain data."""


def attributes(recipe: Recipe[Diffusion], asked: Attributes, workdir: Path) -> int:
    """Draw for prompts, read the pictures, and print how many are as asked for.

    Args:
        recipe: of the model.
        asked: for which prompts, left out those of two splits of the data, or of which
            folder of captioned pictures; its `out` may name the folder in which
            `attributes/` is made, which else is the workdir.
        workdir: of the model.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: the options do not fit the model, or a prompt names no shapes.
    """
    out = asked.folder or workdir
    assembly.refuse_idle(recipe.task, asked)
    assembly.check_seeds(recipe.task, asked)
    kind, where = images_kind(asked.images)
    if kind == "folder":
        print(_HEAD)
        print(_format(_given(out, where)))
        _summarise(out)
        return 0
    chosen = _chosen(recipe.task, asked, workdir)

    def rows(interrupted: Callable[[], int]) -> None:
        print(_HEAD)
        for variant, texts in chosen:
            row = _drawn(recipe, variant, workdir, out, texts, interrupted)
            print(_format(row), flush=True)

    return to_the_end(rows, partial(_summarise, out))


def _chosen(
    spec: Diffusion, asked: Attributes, workdir: Path
) -> list[tuple[Sample, list[str]]]:
    """List the drawings, and the prompts of each.

    Raises:
        UserError: the model knows no text, or a prompt names no shapes.
    """
    if spec.text is None:
        raise UserError(
            "attributes asks for shapes by their names, and this model was "
            "trained without text; train one on shapes, as configs/shapes.py does."
        )
    step, chosen = step_of(asked, workdir), []
    for prompt in [asked.prompt] if asked.prompt else _SPLITS:
        for variant in assembly.variants(spec, asked, [step]):
            one = dataclasses.replace(variant, prompt=prompt)
            # Refuses what is no caption, before all work.
            chosen.append((one, _prompts(spec, one, workdir)))
    return chosen


def _prompts(spec: Diffusion, asked: Sample, workdir: Path) -> list[str]:
    info = describe_model(spec, asked, workdir).info
    assembly.check_sample(spec, info, asked)
    texts = assembly.prompts(spec, info, asked)
    assert texts is not None  # a text-conditional model
    _parsed(texts)
    return texts


def _drawn(
    recipe: Recipe[Diffusion],
    asked: Sample,
    workdir: Path,
    out: Path,
    texts: Sequence[str],
    interrupted: Callable[[], int],
) -> Row:
    """Return the row of a drawing for these prompts."""
    one = drawn_set(recipe, asked, workdir, interrupted)
    folder = result_folder(out / "attributes", one.request)
    with files.alone_in(folder, stop=interrupted):
        row = parts.stored_result(folder / _ROW, _WANTED)
        if on_every_host(row is not None):
            assert row is not None
            return row
        row = {
            "set": folder.name,
            "prompts": asked.prompt,
            "guidance_scale": asked.guidance_scale,
            "seed": assembly.seed_of(recipe.task, asked),
            **_read(one.load(folder), texts),
            "model": one.model,
        }
        files.write_json(folder / _ROW, row)
    return row


def _given(workdir: Path, where: str) -> Row:
    """Return the row of a folder of pictures, each with its caption.

    Raises:
        UserError: it cannot be opened, or a caption is missing or names no shapes.
    """
    source = data.load(f"folder:{where}")
    if source.texts is None:
        raise UserError(
            f"{source.name} has no captions to hold its pictures against; use a folder "
            "images/ that sample or cascade has written for prompts."
        )
    _parsed(source.texts)
    request = {"images": "folder", "data": source.fingerprint}
    folder = result_folder(workdir / "attributes", request)
    row = {
        "set": folder.name,
        "prompts": f"folder:{Path(where).name}",
        "guidance_scale": None,
        "seed": None,
        **_read(source, source.texts),
        "model": None,
        "folder": where,
    }
    files.write_json(folder / _ROW, row)
    return row


def _parsed(
    texts: Sequence[str],
) -> tuple[list[shapes.Scene] | None, list[shapes.Description]]:
    """Parse captions: as scenes, None if one leaves something unsaid; and what is said.

    Raises:
        UserError: one is no caption of shapes.
    """
    said = [shapes.parse_partial(text) for text in texts]
    if any(None in phrase for one in said for phrase in one):
        return None, said
    return [shapes.parse(text) for text in texts], said


def _read(source: data.Dataset, texts: Sequence[str]) -> Row:
    """Read pictures, and say how many agree with what was asked for."""
    pixels, _ = data.in_memory(source)
    seen = shapes.classify(pixels)
    scenes, said = _parsed(texts)
    row: Row = {
        "num_images": len(seen),
        "unclear": float(np.mean([_unclear(scene) for scene in seen])),
        "saturated": float(np.mean((pixels == 0) | (pixels == 255))),
    }
    found: list[Any] = (
        [shapes.partial_agreement(a, b) for a, b in zip(said, seen, strict=True)]
        if scenes is None
        else [shapes.agreement(a, b) for a, b in zip(scenes, seen, strict=True)]
    )
    row["share"] = {name: _share(found, name) for name in ATTRIBUTES}
    if scenes is None:
        row["unsaid"] = unsaid(texts, said, found)
    return row


def _share(found: Sequence[Any], name: str) -> float | None:
    """Average an attribute over the pictures of whose caption it is part."""
    values = [getattr(one, name) for one in found if getattr(one, name) is not None]
    return float(np.mean(values)) if values else None


def unsaid(
    texts: Sequence[str],
    said: Sequence[shapes.Description],
    found: Sequence[shapes.PartialAgreement],
) -> dict[str, Any]:
    """Compare what is seen where nothing is said with the law of the training data.

    Args:
        texts: N captions; those of one thing count.
        said: what they say.
        found: in the pictures.

    Returns:
        For size, color and place "num", how many there are; "seen" and "data", the
        frequency of each word, the latter the mean over the captions of their laws;
        "total_variation" between the two; and over pairs of pictures of one caption
        the share that agree, "agree", with that of independent draws of the law,
        "agree_data"; None without such pairs.
    """
    laws: dict[str, dict[str, dict[str, float]]] = {}
    words: Mapping[str, Any] = defaultdict(lambda: defaultdict(list))
    for text, one, agreement in zip(texts, said, found, strict=True):
        if len(one) != 1:
            continue
        laws.setdefault(text, shapes.unsaid_law(one))
        for name in laws[text]:
            words[name][text] += agreement.unsaid[name][:1] or (shapes.UNKNOWN,)
    result = {}
    for name in sorted(words):
        by_text: Mapping[str, list[str]] = words[name]
        num = sum(map(len, by_text.values()))
        law: dict[str, float] = defaultdict(float)
        for text, listed in by_text.items():
            for word, share in laws[text][name].items():
                law[word] += share * len(listed) / num
        counts = Counter(word for listed in by_text.values() for word in listed)
        seen = {word: counts[word] / num for word in {**law, **counts}}
        distance = sum(abs(seen[word] - law[word]) for word in seen) / 2
        result[name] = {
            "num": num,
            "seen": seen,
            "data": dict(law),
            "total_variation": distance,
            **_agreeing(by_text, {text: laws[text][name] for text in by_text}),
        }
    return result


def _agreeing(
    by_text: Mapping[str, Sequence[str]], laws: Mapping[str, Mapping[str, float]]
) -> dict[str, float | None]:
    """Count the pairs of pictures of one caption that show the same word."""
    pairs, same, expected = 0.0, 0.0, 0.0
    for text, listed in by_text.items():
        num = math.comb(len(listed), 2)
        pairs += num
        same += sum(math.comb(count, 2) for count in Counter(listed).values())
        expected += num * sum(share**2 for share in laws[text].values())
    if not pairs:
        return {"agree": None, "agree_data": None}
    return {"agree": same / pairs, "agree_data": expected / pairs}


def _unclear(scene: shapes.Scene) -> bool:
    """Say whether something of a picture could not be read."""
    return any(shapes.UNKNOWN in thing for thing in scene if thing)


_COLUMNS = ("guidance", "seed", "images", "scene +-", *ATTRIBUTES[:-1], "saturated")
_HEAD = f"{'prompts':<16}" + "".join(f"{name:>10}" for name in _COLUMNS) + "   in %"


def _format(row: Row) -> str:
    share, count = row["share"], row["num_images"]
    whole = f"{100 * share['scene']:.1f} {100 * _error(share['scene'], count):.1f}"
    numbers = [
        "" if row["guidance_scale"] is None else f"{row['guidance_scale']:g}",
        "" if row["seed"] is None else f"{row['seed']}",
        f"{count:,}",
        whole,
        *(_percent(share[name]) for name in ATTRIBUTES[:-1]),
        f"{100 * row['saturated']:.2f}",
    ]
    line = f"{row['prompts'][:15]:<16}" + "".join(f"{text:>10}" for text in numbers)
    return "\n".join([line, *map(_format_unsaid, row.get("unsaid", {}).items())])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _format_unsaid(found: tuple[str, Mapping[str, Any]]) -> str:
    name, of = found
    pairs = ""
    if of["agree"] is not None:
        pairs = (
            f"; pictures of one caption agree in {100 * of['agree']:.1f}% of pairs, "
            f"{100 * of['agree_data']:.1f}% by that law"
        )
    return (
        f"  {name} unsaid ({of['num']:,}): total variation "
        f"{of['total_variation']:.3f} to the law of the data{pairs}"
    )


def _error(share: float, count: int) -> float:
    """Estimate the standard error of a share of `count` independent pictures."""
    return math.sqrt(share * (1 - share) / count)


def _summarise(workdir: Path) -> None:
    """Write all rows that the workdir has, and what guidance does."""
    folder = workdir / "attributes"
    rows = parts.stored_rows(folder.glob(f"*/{_ROW}"), _WANTED)
    rows.sort(key=_order)
    files.write_json(folder / _ROW, rows)
    print(f"Files: {folder}/")
    rows = [row for row in rows if row["model"] is not None]
    if len({row["guidance_scale"] for row in rows}) > 1:
        panels = [
            plots.Panel(f"{name} as asked for, %", _lines(rows, name), None)
            for name in ("scene", "color", "shape", "place", "size", "count")
        ]
        plots.plot_scores(folder / "over-guidance.png", "guidance scale", panels)


def _order(row: Row) -> tuple:
    return row["prompts"], row["guidance_scale"] or 0, row["seed"] or 0, row["set"]


def _lines(rows: Sequence[Row], name: str) -> list[plots.Line]:
    """Draw a share over the guidance scale, a line for each other way of drawing."""
    together: dict[str, dict[float, list[Row]]] = {}
    for row, label in zip(rows, _labels(rows), strict=True):
        scales = together.setdefault(label, {})
        scales.setdefault(row["guidance_scale"], []).append(row)
    lines = []
    for label, by_scale in together.items():
        found = [_pooled(here, name) for here in by_scale.values()]
        values = [100 * share for share, _ in found]
        errors = [100 * _error(*pair) for pair in found]
        lines.append(plots.Line(label, list(by_scale), values, errors))
    return lines


def _pooled(rows: Sequence[Row], name: str) -> tuple[float, int]:
    """Average a share over rows that have it, NaN if none does; of how many images."""
    said = [row for row in rows if row["share"][name] is not None]
    count = sum(row["num_images"] for row in said)
    total = sum(row["num_images"] * row["share"][name] for row in said)
    return (total / count if count else math.nan), max(count, 1)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Name each row by its prompts, and by what else is not the same in all rows."""
    own = ("prompt", "guidance_scale", "seed")
    ways = [
        {
            "step": row["model"]["checkpoint_step"],
            **{k: v for k, v in row["model"]["options"].items() if k not in own},
        }
        for row in rows
    ]
    varied = [k for k in ways[0] if len({str(way.get(k)) for way in ways}) > 1]
    return [
        ", ".join(
            [row["prompts"].removeprefix("data:"), *(f"{k} {w[k]}" for k in varied)]
        )
        for row, w in zip(rows, ways, strict=True)
    ]
