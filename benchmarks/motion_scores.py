"""Measure the motion in clips that a model samples, beside real clips.

    python -m benchmarks.motion_scores runs/motion --frames-run=runs/motion-frames

For the captions of the test split: how steady digits move, whether they stay the same,
go where the caption says, and how far single frames are from real ones (the Fréchet
distance in 20 principal components of real frames). The first rows are the real clips
of these captions, and clips whose frames were sampled by themselves, by the model that
the run began with: what a model without time would do.

Then real clips are made longer, to each of `--lengths` by each of `--methods`. The
brightness of the last frame over that of the last one given shows drift.

All is read off the pixels, by the rule that made the data (ddpm_jax.data.motion).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import ddpm_jax
from benchmarks import machine
from ddpm_jax import data
from ddpm_jax.data import motion
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.frechet import frechet_distance
from ddpm_jax.model import DiffusionModel

_COMPONENTS = 20
_HEAD = (
    "| clips | number | velocity error, px | pace, std | same digit | digit | "
    "direction | speed | frames' FD | brightness | seconds |"
)


class Known(NamedTuple):
    """What clips are compared with.

    Attributes:
        digits: pictures of the training split [K, h, w], 0 to 1.
        labels: their names, [K].
        frames: real frames of other clips, flat float64 [M, H W], 0 to 1.
    """

    digits: np.ndarray
    labels: np.ndarray
    frames: np.ndarray


class Scores(NamedTuple):
    """What is printed of N clips.

    Attributes:
        error: root mean square of how far steps between bounces are from the mean of
            their run, pixels a frame.
        pace: standard deviation of the speed at the end over that at the start.
        same: share of clips whose first and last frame show the same digit.
        digit: share whose first frame shows the digit of the caption.
        direction: share that goes at the start where the caption says.
        speed: share as fast as the caption says.
        distance: Fréchet distance of the frames to real ones.
        brightness: of all last frames over that of the frames `start`, less 1.
    """

    error: float
    pace: float
    same: float
    digit: float
    direction: float
    speed: float
    distance: float
    brightness: float


def known_of(name: str, test: np.ndarray, most: int = 4096) -> Known:
    """Gather what clips are compared with.

    Args:
        name: of the data, such as motion:digits.
        test: clips that are scored, [N, F, H, W], 0 to 1; others are taken.
        most: frames that are kept.
    """
    stills = data.load(name.split(":")[1], split="train")
    digits, labels = data.in_memory(stills)
    train = data.load(name, split="train").source.items[: most // test.shape[1]]
    frames = train[..., 0].reshape(-1, *test.shape[2:]) / 255
    assert labels is not None  # both sets of digits have them
    return Known(
        digits[..., 0] / 255, np.asarray(labels), frames.reshape(-1, frames[0].size)
    )


def scores_of(
    clips: np.ndarray, captions: Sequence[str], known: Known, start: int = 0
) -> Scores:
    """Score clips by what their pixels show.

    Args:
        clips: [N, F, H, W], 0 black to 1 white.
        captions: of each.
        known: what they are compared with.
        start: the frame whose brightness is 1.
    """
    read = motion.read_motion(clips)
    said = [motion.parse(caption) for caption in captions]
    first, last = (
        motion.nearest_digits(clips[:, i], known.digits, known.labels) for i in (0, -1)
    )
    digits = np.asarray([int(label) for label, _, _ in said])
    bright = clips.mean(axis=(0, 2, 3))
    return Scores(
        error=float(np.sqrt(np.nanmean(read.error**2))),
        pace=float(np.nanstd(read.pace_change)),
        same=float(np.mean(first == last)),
        digit=float(np.mean(first == digits)),
        direction=float(np.mean(read.direction == [d for _, d, _ in said])),
        speed=float(np.mean(read.speed == [s for _, _, s in said])),
        distance=_distance(clips.reshape(-1, known.frames.shape[1]), known.frames),
        brightness=float(bright[-1] / bright[start] - 1),
    )


def _distance(frames: np.ndarray, real: np.ndarray) -> float:
    """Return the Fréchet distance in the first principal components of real frames."""
    mean = real.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(real, rowvar=False))
    main = axes[:, -_COMPONENTS:]
    a, b = ((rows - mean) @ main for rows in (frames, real))
    return frechet_distance(
        a.mean(axis=0), np.cov(a, rowvar=False), b.mean(axis=0), np.cov(b, rowvar=False)
    )


def _grey(clips: np.ndarray) -> np.ndarray:
    """Map clips [..., 1] in [-1, 1] to [...] in [0, 1]."""
    return (np.asarray(clips, np.float64)[..., 0] + 1) / 2


def _row(what: str, number: int, found: Scores, seconds: float | None) -> str:
    shares = (found.same, found.digit, found.direction, found.speed)
    return (
        f"| {what} | {number} | {found.error:.3f} | {found.pace:.3f} | "
        f"{' | '.join(f'{share:.1%}' for share in shares)} | {found.distance:.3f} | "
        f"{found.brightness:+.1%} | {'' if seconds is None else f'{seconds:.0f}'} |"
    )


def _model_of_motion(run: str) -> DiffusionModel:
    model = ddpm_jax.load(run)
    if not isinstance(model, DiffusionModel) or not model.info.name.startswith(
        "motion:"
    ):
        raise UserError(
            f"{run} is no diffusion model of motion:NAME; give one, as "
            "configs/motion.py trains."
        )
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each set of clips."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="of clips")
    parser.add_argument("--frames-run", default="", help="of single frames")
    parser.add_argument("--num-clips", type=int, default=256)
    parser.add_argument("--num-extended", type=int, default=32)
    parser.add_argument("--lengths", default="20,64", help="'' for none")
    parser.add_argument("--methods", default="guidance,replace")
    parser.add_argument("--steps-of-extend", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    try:
        _print_all(asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    about = machine.describe("")
    print(f"{about['hardware']}; {about['versions']}", file=sys.stderr)
    return 0


def _print_all(asked: argparse.Namespace) -> None:
    model = _model_of_motion(asked.run)
    source = model.spec.data.source
    test = data.load(source, split="test")
    captions = list(test.texts or ())[: asked.num_clips]
    clips = test.source.items[: asked.num_clips]
    known = known_of(source, clips[..., 0])
    print(_HEAD)
    print("| --- |" + " ---: |" * (_HEAD.count("|") - 2))
    number = len(captions)
    print(_row("real", number, scores_of(clips[..., 0] / 255, captions, known), None))
    if asked.frames_run:
        frames = _model_of_motion(asked.frames_run)
        length = clips.shape[1]
        started = time.perf_counter()
        told = [caption for caption in captions for _ in range(length)]
        alone = _grey(frames.sample(len(told), prompt=told, seed=asked.seed))
        alone = alone.reshape(clips.shape[:-1])
        seconds = time.perf_counter() - started
        found = scores_of(alone, captions, known)
        print(_row("frames by themselves", number, found, seconds), flush=True)
    started = time.perf_counter()
    made = _grey(model.sample(number, prompt=captions, seed=asked.seed))
    seconds = time.perf_counter() - started
    print(
        _row("sampled", number, scores_of(made, captions, known), seconds), flush=True
    )
    for length in map(int, filter(None, asked.lengths.split(","))):
        for method in asked.methods.split(","):
            few = slice(asked.num_extended)
            started = time.perf_counter()
            longer = model.extend(
                clips[few],
                length,
                method=method,
                num_steps=asked.steps_of_extend,
                seed=asked.seed,
            )
            seconds = time.perf_counter() - started
            found = scores_of(
                _grey(longer[:, 0]), captions[few], known, start=clips.shape[1] - 1
            )
            what = f"made {length} frames long by {method}"
            print(_row(what, len(longer), found, seconds), flush=True)


if __name__ == "__main__":
    sys.exit(main())
