"""A first look at the data: what is there, what is broken, what a model will see."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import build, data, files, images
from ddpm_jax.commands.model import make_folder
from ddpm_jax.data.dataset import Records
from ddpm_jax.errors import UserError

_SHEET = 48  # pictures on a contact sheet, at most
_COLUMNS = 8
_LISTED = 6  # sizes, classes or broken files that a report spells out

_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "CMYK": "CMYK",
}


def look(cfg: ConfigDict, workdir: Path) -> int:
    """Print what `config.data` holds; write it, a contact sheet and a list of faults.

    Raises:
        UserError: the data cannot be opened, for another reason than broken files.
    """
    chosen = cfg.copy_and_resolve_references()
    chosen.data.flip = False  # nothing is mirrored here
    is_folder = cfg.data.source.startswith("folder:")
    if is_folder:
        chosen.data.skip_broken = True
    source = build.dataset(chosen)
    make_folder(workdir)
    lines = _about_files(source, workdir) if is_folder else []
    lines += _about_examples(source, cfg)
    sheet = write_sheet(source, workdir)
    text = "\n".join([*lines, f"sheet     {sheet}"])
    files.write_text(workdir / "look.txt", text + "\n")
    print(text)
    return 0


def first_look(cfg: ConfigDict, source: data.Dataset, workdir: Path) -> list[str]:
    """Look at a folder before training; return a few lines that say what is there.

    Raises:
        UserError: files are broken, and `config.data.skip_broken` does not allow it.
    """
    if source.listing is None:
        return []
    found = data.survey(source.listing)
    if found.broken and not cfg.data.skip_broken:
        place = make_folder(workdir) / "broken.txt"
        data.write_broken(place, found)
        raise UserError(data.describe_broken(found, source.name, place))
    return _about_files(source, workdir)


def _about_files(source: data.Dataset, workdir: Path) -> list[str]:
    listing = source.listing
    assert listing is not None  # of folders alone
    found = data.survey(listing)
    total = sum(listing.sizes) / 1e6
    sizes = [(f"{h}x{w}", count) for (h, w), count in found.count_sizes()]
    modes = [(_MODES.get(m, m), count) for m, count in found.count_modes()]
    lines = [
        f"pictures  {len(listing):,} files, {total:,.1f} MB, in {listing.root}",
        f"sizes     {_counts(sizes)} (height x width)",
    ]
    if len(sizes) > _LISTED:
        lines.append(f"          {_spread(found)}")
    lines += [f"kinds     {_counts(modes)}", f"broken    {_broken(found, workdir)}"]
    return lines


def _about_examples(source: data.Dataset, cfg: ConfigDict) -> list[str]:
    shape = "x".join(map(str, source.image_shape))
    how = f", {cfg.data.resize}" if cfg.data.image_size else ""
    lines = [f"prepared  {len(source):,} images of {shape}{how}. {source.note}".strip()]
    if source.label_names is None:
        lines.append("classes   none")
    else:
        counts = np.bincount(_labels(source), minlength=len(source.label_names))
        named = list(zip(source.label_names, counts.tolist(), strict=True))
        lines.append(f"classes   {len(named)}: {_counts(named)}")
    if source.texts is not None:
        lines.append(f"captions  {len(source.texts):,}, the first: {source.texts[0]!r}")
    return lines


def _labels(source: data.Dataset) -> Sequence[int]:
    if isinstance(source.source, Records) and source.source.label is not None:
        return [source.source.label(index) for index in range(len(source))]
    labels = data.in_memory(source)[1]
    return [] if labels is None else labels.tolist()


def _counts(named: Sequence[tuple[str, int]]) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in named[:_LISTED])
    rest = named[_LISTED:]
    more = sum(count for _, count in rest)
    return shown + (f", and {len(rest):,} others {more:,}" if rest else "")


def _spread(found: data.Survey) -> str:
    shorter = found.sizes[found.whole].min(axis=1)
    low, middle, high = np.quantile(shorter, [0, 0.5, 1]).astype(int)
    return f"shorter sides {low} to {high} pixels, half of them {middle} or less"


def _broken(found: data.Survey, workdir: Path) -> str:
    if not found.broken:
        return "none"
    place = make_folder(workdir) / "broken.txt"
    data.write_broken(place, found)
    shown = list(found.broken.items())[:_LISTED]
    said = ", ".join(f"{found.listing.files[i]} ({why})" for i, why in shown)
    dots = ", ..." if len(found.broken) > len(shown) else ""
    return f"{len(found.broken):,}: {said}{dots}; all in {place}"


def write_sheet(source: data.Dataset, workdir: Path) -> Path:
    """Draw images from all over a data set, as a model will see them: look.png."""
    count = min(len(source), _SHEET)
    places = np.linspace(0, len(source) - 1, count).round().astype(int)
    shown = np.stack([source.source[int(place)]["image"] for place in places])
    path = workdir / "look.png"
    images.save_png(path, images.grid(shown, columns=min(_COLUMNS, count)))
    return path
