"""Measure whether a diffusion prior samples: cosines against embeddings of true images.

    python -m benchmarks.prior_cosine runs/shapes_prior --pair=runs/shapes_clip \
        --regression=runs/shapes_regression

For unit vectors with conditional mean m, the direction of m (regression) has a mean
cosine of |m| with a true embedding, and a perfect sample one of |m|^2. So a perfect
prior scores the square of regression; the gap between the two is printed. A prior that
scores more than the square samples too little.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

import ddpm_jax
from ddpm_jax import data
from ddpm_jax.recipe import Data


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines [N] between rows of two arrays [N, D]."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / lengths


def better(draws: Sequence[np.ndarray], texts: np.ndarray) -> np.ndarray:
    """Take for each row the draw [N, D] with the larger cosine to its text [N, D]."""
    scores = np.stack([cosine(one, texts) for one in draws])
    return np.stack(draws)[scores.argmax(axis=0), np.arange(len(texts))]


def measure(
    prior: str, pair: str, regression: str, count: int, seed: int
) -> list[tuple[str, float, float]]:
    """Compare predictions with the embeddings of true images of a test split.

    Args:
        prior: run of a prior.
        pair: run of its dual encoder.
        regression: run of its baseline without noise, "" for none.
        count: images.
        seed: of the draws, the seed after it of the second draw.

    Returns:
        Rows (what, mean cosine, standard error).
    """
    model, encoder = ddpm_jax.load(prior), ddpm_jax.load(pair)
    of: Data = model.spec.data
    source = data.subset(*_first(of.open("test"), count))
    images, _ = data.in_memory(source)
    captions = list(source.texts or ())
    true, texts = encoder.encode_images(images), encoder.encode_texts(captions)
    num = len(captions)
    draws = [model.sample(num, prompt=captions, seed=seed + i) for i in (0, 1)]
    one_step = {"sampler": "ddim", "num_steps": 1}
    found = {
        "prior, one draw": draws[0],
        "prior, the better match of two": better(draws, texts),
        "prior, one step": model.sample(num, prompt=captions, seed=seed, **one_step),
        "text embedding": texts,
    }
    if regression:
        baseline = ddpm_jax.load(regression)
        found["regression"] = baseline.sample(num, prompt=captions, seed=seed)
    cosines = {what: cosine(rows, true) for what, rows in found.items()}
    return [
        (what, float(c.mean()), float(c.std() / np.sqrt(num)))
        for what, c in cosines.items()
    ]


def _first(source: data.Dataset, count: int) -> tuple[data.Dataset, np.ndarray]:
    return source, np.arange(min(count, len(source)))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and the gap of the law."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prior", help="run of a prior")
    parser.add_argument("--pair", required=True, help="run of its dual encoder")
    parser.add_argument("--regression", default="", help="run of its baseline")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    rows = measure(
        asked.prior, asked.pair, asked.regression, asked.num_images, asked.seed
    )
    print("| embedding | mean cosine with a true image's | standard error |")
    print("| --- | ---: | ---: |")
    for what, mean, error in rows:
        print(f"| {what} | {mean:.4f} | {error:.4f} |")
    by_name = {what: mean for what, mean, _ in rows}
    expected = by_name.get("regression", by_name["prior, one step"]) ** 2
    gap = by_name["prior, one draw"] - expected
    print(f"A perfect prior has {expected:.4f}, regression's square: gap {gap:+.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
