"""Draw what a decoder (unCLIP) makes of prompts, its image embeddings side by side.

    python -m benchmarks.unclip_page --run=runs/shapes_unclip \
        --priors=runs/shapes_prior,runs/shapes_regression,text --out=page.png

A row of the page is a prompt, a column a prior: 16 draws each, from the same noise in
all columns, so that only the embeddings differ. Where prompts leave much unsaid, those
of a prior that samples differ among each other. How much they do is printed: the root
mean square distance of two draws of one prompt, of 255, and its standard error over the
prompts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import ddpm_jax
from ddpm_jax.commands.prior import NEAREST, TEXT
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files, images

_COLUMNS = 8  # draws that stand side by side
_SCALE, _DPI = 2, 100  # pixels for each of an image's, and of the page to the inch
_HEAD, _LINE = 34, 22  # pixels of the heads, and of a prompt
_NAMES = {TEXT: "text embedding", NEAREST: "nearest caption", "": "text alone"}


def default_prompts(texts: Sequence[str], count: int) -> list[str]:
    """Take captions from all over a split, each once, in its order."""
    listed = list(dict.fromkeys(texts))
    chosen = np.linspace(0, len(listed) - 1, min(count, len(listed))).round()
    return [listed[int(i)] for i in chosen]


def spread(draws: np.ndarray) -> np.ndarray:
    """Return how far two draws of a prompt are apart, on average over all pairs.

    Args:
        draws: uint8 [P, K, H, W, C], K of each of P prompts.

    Returns:
        Root mean square distances of 255, [P].
    """
    flat = draws.reshape(*draws.shape[:2], -1).astype(np.float64)
    # The mean square distance of two different draws is twice their variance.
    return np.sqrt(2 * flat.var(axis=1, ddof=1).mean(axis=-1))


def draw(
    model: Any, prompts: Sequence[str], prior: str, count: int, seed: int
) -> np.ndarray:
    """Sample images of prompts by the embeddings of a prior.

    Args:
        model: a decoder, as `ddpm_jax.load` returns it.
        prompts: P of them.
        prior: run of a prior, text, nearest, or "" for none.
        count: K, of each prompt.
        seed: of the noise, and of the prior's.

    Returns:
        uint8 [P, K, H, W, C].

    Raises:
        UserError: the model is no decoder, or the prior does not fit it.
    """
    repeated = [prompt for prompt in prompts for _ in range(count)]
    made = model.sample(len(repeated), prompt=repeated, prior=prior, seed=seed)
    drawn = np.asarray(images.to_uint8(made))
    return drawn.reshape(len(prompts), count, *drawn.shape[1:])


def page(
    drawn: Sequence[tuple[str, np.ndarray]], prompts: Sequence[str], out: Path
) -> None:
    """Write the page as PNG.

    Args:
        drawn: the head of each column, and its draws, uint8 [P, K, H, W, C].
        prompts: P of them.
        out: where to.
    """
    sheets = [
        (head, [images.grid(k, columns=_COLUMNS, upscale=_SCALE) for k in draws])
        for head, draws in drawn
    ]
    height, width = sheets[0][1][0].shape[:2]
    gap = _LINE
    whole = len(sheets) * (width + gap) + gap
    tall = _HEAD + len(prompts) * (height + _LINE) + gap
    figure = Figure(figsize=(whole / _DPI, tall / _DPI), dpi=_DPI, facecolor="white")
    for column, (head, rows) in enumerate(sheets):
        left = gap + column * (width + gap)
        figure.text(left / whole, 1 - 6 / tall, head, va="top", weight="bold", size=11)
        for row, sheet in enumerate(rows):
            top = _HEAD + row * (height + _LINE)
            if not column:
                figure.text(left / whole, 1 - top / tall, prompts[row], va="top")
            shown = sheet if sheet.shape[-1] == 3 else np.repeat(sheet, 3, axis=-1)
            # Pixel for pixel, from the lower left corner.
            below = tall - top - _LINE - height
            figure.figimage(shown, left, below, origin="upper")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=_DPI, pil_kwargs={"optimize": True})


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and print how far the draws of each column are apart."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", required=True, help="of a decoder")
    parser.add_argument(
        "--priors",
        required=True,
        help="runs of priors, text, nearest, or none for the text alone; several with "
        "commas",
    )
    parser.add_argument(
        "--prompts",
        default="",
        help="several with semicolons; unset: of the split test",
    )
    parser.add_argument("--num-prompts", type=int, default=8, help="of the split test")
    parser.add_argument("--num-images", type=int, default=16, help="of each prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("unclip_page.png"))
    asked = parser.parse_args(argv)
    try:
        _run(asked)
    except UserError as error:
        print(f"error: {files.printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _run(asked: argparse.Namespace) -> None:
    model = ddpm_jax.load(asked.run)
    prompts = [p.strip() for p in asked.prompts.split(";") if p.strip()]
    if not prompts:
        texts = model.spec.data.open("test").texts
        prompts = default_prompts(texts or (), asked.num_prompts)
    named = [name.strip() for name in asked.priors.split(",") if name.strip()]
    if not prompts or not named or asked.num_images < 2:
        raise UserError(
            f"{len(named)} priors, {len(prompts)} prompts and --num-images="
            f"{asked.num_images}; give a prior or more, a prompt or more, and two "
            "images or more of each."
        )
    drawn = []
    for name in named:
        prior = "" if name == "none" else name
        head = _NAMES.get(prior) or Path(prior).name
        draws = draw(model, prompts, prior, asked.num_images, asked.seed)
        drawn.append((head, draws))
    page(drawn, prompts, asked.out)
    print("| image embedding | RMS distance of two draws | standard error |")
    print("| --- | ---: | ---: |")
    for head, draws in drawn:
        found = spread(draws)
        error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
        print(f"| {head} | {found.mean():.1f} | {error:.1f} |")
    print(f"{len(prompts)} prompts, {asked.num_images} draws of each: {asked.out}")


if __name__ == "__main__":
    sys.exit(main())
