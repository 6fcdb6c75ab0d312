"""Whether a model draws what it was asked for, read off the pixels.

For models that were trained on captioned shapes, whose pictures can be read without a
network: data/shapes. Prompts come from two splits, captions that training never showed,
of pairs of colour and shape that it did show and of pairs that it did not. No colour of
theirs is at the end of its range, so that values of 0 and 255 are what guidance adds.

workdir/attributes/
    SET/                the images: samples.npz, grid.png
        attributes.json the share of them that agree, by attribute
    attributes.json     all rows
    over-guidance.png

What is there already is not computed again.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import build, data, files, plots
from ddpm_jax.commands.about import usable_step
from ddpm_jax.commands.image_sets import drawn_set
from ddpm_jax.commands.model import find_model, make_folder
from ddpm_jax.data import shapes
from ddpm_jax.devices import on_every_host, wait_for_all_hosts
from ddpm_jax.errors import UserError
from ddpm_jax.training.loop import catch_interrupts

ATTRIBUTES = tuple(field.name for field in dataclasses.fields(shapes.Agreement))
_SPLITS = ("data:test", "data:held_out")
_ROW = "attributes.json"


def attributes(cfg: ConfigDict, workdir: Path) -> int:
    """Draw for prompts, read the pictures, and print how many are as asked for.

    Args:
        cfg: `sample.prompt` or, left out, two splits of the data; `evaluate` says how
            many images, which guidance scales, and how many seeds.
        workdir: of the model.

    Returns:
        0 if all is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: the options do not fit the model, or a prompt names no shapes.
    """
    build.check_evaluate(cfg)
    if not cfg.model.text:
        raise UserError(
            "--mode=attributes asks for shapes by their names, and this model was "
            "trained without text; train one on shapes, as configs/shapes.py does."
        )
    if cfg.sample.prompt_to:
        raise UserError(
            f"config.sample.prompt_to={cfg.sample.prompt_to!r} asks for what lies "
            "between two captions, which has no attributes; leave it out."
        )
    step = cfg.sample.step
    step = usable_step(workdir) if step is None else step
    asked = [cfg.sample.prompt] if cfg.sample.prompt else list(_SPLITS)
    chosen = []
    for prompt in asked:
        for variant in build.variants(cfg, [step]):
            variant.sample.prompt = prompt
            # Refuses what is no caption, before all work.
            chosen.append((variant, _scenes(variant, workdir)))
    with catch_interrupts() as interrupted:
        print(_HEAD)
        for variant, scenes in chosen:
            row = _row(variant, workdir, scenes, interrupted)
            if row is None:
                print("Interrupted; saved. The same command goes on from here.")
                return 128 + interrupted()
            print(_spell(row), flush=True)
    wait_for_all_hosts("the rows")
    _summarise(workdir)
    return 0


def _scenes(cfg: ConfigDict, workdir: Path) -> list[shapes.Scene]:
    texts = build.prompts(cfg, find_model(cfg, workdir).info)
    assert texts is not None  # a model that is told a text
    return [shapes.parse(text) for text in texts]


def _row(
    cfg: ConfigDict,
    workdir: Path,
    asked: Sequence[shapes.Scene],
    interrupted: Callable[[], int],
) -> dict[str, Any] | None:
    """Return the row of a drawing for these scenes, None if it was interrupted."""
    one = drawn_set(cfg, workdir, interrupted)
    folder = make_folder(workdir / "attributes" / one.name)
    path = folder / _ROW
    if on_every_host(path.exists()):
        return json.loads(path.read_text())
    source = one.load(folder)
    if source is None:
        return None
    pixels, _ = data.in_memory(source)
    seen = shapes.read(pixels)
    found = [shapes.agreement(a, b) for a, b in zip(asked, seen, strict=True)]
    agree = {name: [getattr(one, name) for one in found] for name in ATTRIBUTES}
    row = {
        "set": one.name,
        "prompts": cfg.sample.prompt,
        "guidance_scale": cfg.sample.guidance_scale,
        "seed": build.sample_seed(cfg),
        "num_images": len(found),
        "unclear": float(np.mean([_unclear(scene) for scene in seen])),
        "saturated": float(np.mean((pixels == 0) | (pixels == 255))),
        "share": {name: float(np.mean(values)) for name, values in agree.items()},
        "model": one.model,
    }
    files.write_json(path, row)
    return row


def _unclear(scene: shapes.Scene) -> bool:
    """Say whether something of a picture could not be read."""
    return any(shapes.UNKNOWN in thing for thing in scene if thing)


_COLUMNS = ("guidance", "seed", "images", "scene +-", *ATTRIBUTES[:-1], "saturated")
_HEAD = f"{'prompts':<16}" + "".join(f"{name:>10}" for name in _COLUMNS) + "   in %"


def _spell(row: dict[str, Any]) -> str:
    share, count = row["share"], row["num_images"]
    whole = f"{100 * share['scene']:.1f} {100 * _error(share['scene'], count):.1f}"
    numbers = [
        f"{row['guidance_scale']:g}",
        f"{row['seed']}",
        f"{count:,}",
        whole,
        *(f"{100 * share[name]:.1f}" for name in ATTRIBUTES[:-1]),
        f"{100 * row['saturated']:.2f}",
    ]
    return f"{row['prompts'][:15]:<16}" + "".join(f"{text:>10}" for text in numbers)


def _error(share: float, count: int) -> float:
    """Estimate the standard error of a share of `count` independent pictures."""
    return math.sqrt(share * (1 - share) / count)


def _summarise(workdir: Path) -> None:
    """Write all rows that the workdir has, and what guidance does."""
    folder = workdir / "attributes"
    rows = [json.loads(path.read_text()) for path in folder.glob(f"*/{_ROW}")]
    rows.sort(key=lambda row: (row["prompts"], row["guidance_scale"], row["seed"]))
    files.write_json(folder / _ROW, rows)
    print(f"Files: {folder}/")
    if len({row["guidance_scale"] for row in rows}) > 1:
        panels = [
            plots.Panel(f"{name} as asked for, %", _lines(rows, name), None)
            for name in ("scene", "colour", "shape", "place", "size", "count")
        ]
        plots.plot_scores(folder / "over-guidance.png", "guidance scale", panels)


def _lines(rows: Sequence[dict[str, Any]], name: str) -> list[plots.Line]:
    """Draw a share over the guidance scale, a line for each other way of drawing."""
    together: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row, label in zip(rows, _labels(rows), strict=True):
        scales = together.setdefault(label, {})
        scales.setdefault(row["guidance_scale"], []).append(row)
    lines = []
    for label, by_scale in together.items():
        counts = [sum(row["num_images"] for row in here) for here in by_scale.values()]
        shares = [
            sum(row["num_images"] * row["share"][name] for row in here) / count
            for here, count in zip(by_scale.values(), counts, strict=True)
        ]
        errors = [100 * _error(*pair) for pair in zip(shares, counts, strict=True)]
        values = [100 * share for share in shares]
        lines.append(plots.Line(label, list(by_scale), values, errors))
    return lines


def _labels(rows: Sequence[dict[str, Any]]) -> list[str]:
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
