"""A first look at the data: what is there, what is broken, what a model will see."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpm_jax import data
from ddpm_jax.codecs import display_of
from ddpm_jax.commands.model import make_folder
from ddpm_jax.data.dataset import Records
from ddpm_jax.data.layout import WIDE_BITS
from ddpm_jax.data.listing import Listing
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data
from ddpm_jax.runtime import files, images

BROKEN, LEFT_OUT = "broken.txt", "left-out.txt"  # lists in a run's folder
_SHEET = 48  # pictures on a contact sheet, at most
_PLOTTED = 2000  # items in a plot, at most
_COLUMNS = 8
_LISTED = 6  # sizes, classes or broken files that a report spells out

_MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
    "I;16B": "16-bit grey",
    "P": "palette",
    "PA": "palette with transparency",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "CMYK": "CMYK",
}


def look(of: Data, folder: Path) -> int:
    """Print what a data set holds; write it, a contact sheet and a list of faults.

    Args:
        of: the data.
        folder: where what is found is written.

    Raises:
        UserError: the data cannot be opened, for another reason than broken files.
    """
    is_folder = of.source.startswith("folder:")
    # Nothing is mirrored here, and broken files are what is looked for.
    chosen = dataclasses.replace(
        of, flip=False, skip_broken=of.skip_broken or is_folder
    )
    source = chosen.open()
    make_folder(folder)
    lines = _about_files(of.sample_bits, source, folder) if is_folder else []
    how = f", {of.resize}" if of.image_size else ""
    lines += _about_examples(source, how)
    sheet = write_sheet(source, folder)
    text = "\n".join([*lines, f"sheet     {sheet}"])
    files.write_text(folder / "look.txt", text + "\n")
    print(text)
    return 0


def open_to_train(of: Data, workdir: Path, *, look: bool = False) -> data.Dataset:
    """Open the data that are to be trained on.

    Args:
        of: the data.
        workdir: where lists of broken files, and of those left out, are written.
        look: print what a folder of pictures holds; see `first_look`.

    Raises:
        UserError: they cannot be opened; broken files are listed in broken.txt.
    """
    try:
        source = of.open()
    except data.BrokenFilesError as error:
        place = _list_broken(error.found, workdir)
        raise UserError(data.describe_broken(error.found, error.name, place)) from error
    for line in first_look(of, source, workdir) if look else []:
        print(line, flush=True)
    return source


def _list_broken(found: data.Survey, workdir: Path) -> Path:
    place = make_folder(workdir) / BROKEN
    data.write_broken(place, found)
    return place


def first_look(of: Data, source: data.Dataset, workdir: Path) -> list[str]:
    """Look at a folder before training; return a few lines that say what is there.

    Raises:
        UserError: files are broken, and `config.data.skip_broken` does not allow it.
    """
    if source.listing is None:
        return []
    found = data.survey(source.listing)
    if found.broken and not of.skip_broken:
        place = _list_broken(found, workdir)
        raise UserError(data.describe_broken(found, source.name, place))
    return _about_files(of.sample_bits, source, workdir)


def _about_files(sample_bits: int, source: data.Dataset, workdir: Path) -> list[str]:
    listing = source.listing
    assert listing is not None  # of folders alone
    found = data.survey(listing)
    total = sum(listing.sizes) / 1e6
    sizes = [(f"{h}x{w}", count) for (h, w), count in found.count_sizes()]
    modes = [(_MODES.get(m, m), count) for m, count in found.count_modes()]
    lines = [
        f"pictures  {len(listing):,} files, {total:,.1f} MB, in "
        f"{files.printable(listing.root)}",
        f"sizes     {_counts(sizes)} (height x width)",
    ]
    if len(sizes) > _LISTED:
        lines.append(f"          {_spread(found)}")
    lines.append(f"kinds     {_counts(modes)}")
    lines += _about_wide(found, sample_bits)
    if found.animated:
        named = _names(listing, found.animated)
        lines.append(
            f"animated  {len(found.animated):,}, the first frame is used: {named}"
        )
    lines.append(f"broken    {_broken(found, workdir)}")
    if listing.left_out:
        lines.append(f"left out  {_left_out(listing, workdir)}")
    return lines


def _about_wide(found: data.Survey, sample_bits: int) -> list[str]:
    """Say how bright the 16-bit files will be: many hold samples of fewer bits."""
    count, white = int((found.peaks >= 0).sum()), 2**sample_bits - 1
    if not count:
        if sample_bits != WIDE_BITS:
            raise UserError(
                f"config.data.sample_bits={sample_bits} is for 16-bit gray files, and "
                f"{files.printable(found.listing.root)} has none; leave it out."
            )
        return []
    peak = int(found.peaks.max())
    if peak > white:
        raise UserError(
            f"config.data.sample_bits={sample_bits} ends at {white:,}, and the largest "
            f"sample in {files.printable(found.listing.root)} is {peak:,}; use "
            f"{peak.bit_length()}."
        )
    line = f"16-bit    {count:,}, the largest sample {peak:,} of {white:,}"
    needed = max(9, peak.bit_length())
    if needed < sample_bits:
        line += (
            f", so that no pixel is brighter than {round(255 * peak / white)} of 255; "
            f"--config.data.sample_bits={needed} makes {2**needed - 1:,} white"
        )
    return [line]


def _left_out(listing: Listing, workdir: Path) -> str:
    place = make_folder(workdir) / LEFT_OUT
    lines = [f"{files.printable(name)}\t{why}\n" for name, why in listing.left_out]
    files.write_text(place, "".join(lines))
    count = len(listing.left_out)
    return f"{count:,}: {listing.describe_left_out()}; all in {place}"


def _names(listing: Listing, indices: Sequence[int], shown: int = 3) -> str:
    named = ", ".join(files.printable(listing.files[i]) for i in indices[:shown])
    return named + (", ..." if len(indices) > shown else "")


def _about_examples(source: data.Dataset, how: str) -> list[str]:
    shape = "x".join(map(str, source.shape))
    what = describe_items(source)
    lines = [f"prepared  {len(source):,} {what} of {shape}{how}. {source.note}".strip()]
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
    place = _list_broken(found, workdir)
    shown = list(found.broken.items())[:_LISTED]
    names = [files.printable(found.listing.files[i]) for i, _ in shown]
    said = ", ".join(
        f"{name} ({why})" for name, (_, why) in zip(names, shown, strict=True)
    )
    dots = ", ..." if len(found.broken) > len(shown) else ""
    return f"{len(found.broken):,}: {said}{dots}; all in {place}"


def describe_items(source: data.Dataset) -> str:
    """Name what a data set holds: images, or items of another type."""
    if data.is_image(source.shape, str(source.dtype)):
        return "images"
    return f"{source.dtype} arrays"


def write_sheet(source: data.Dataset, workdir: Path) -> Path:
    """Show items from all over a data set, as a model will see them: look.png."""
    most = _SHEET if len(source.shape) > 1 else _PLOTTED
    count = min(len(source), most)
    places = np.linspace(0, len(source) - 1, count).round().astype(int)
    shown = np.stack([source.source[int(place)]["image"] for place in places])
    path = workdir / "look.png"
    sheet = display_of(source.shape).sheet(shown, min(_COLUMNS, count))
    images.save_png(path, sheet)
    return path
