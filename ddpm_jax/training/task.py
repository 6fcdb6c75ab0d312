"""Tasks: what is trained, as a few pure functions; `fit` uses nothing else of it.

A diffusion model, an autoencoder with its discriminator, a classifier, a contrastive
pair: each is one file in `tasks/`, and none has a loop, a format or a signal handler of
its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.training.state import TrainState

Batch = dict[str, Any]
"""Name -> array, or tree of arrays, each with rows of the batch [B, ...]."""

Metrics = dict[str, jax.Array]
"""Name -> array of one step. "loss" is there, [], and whatever `summarize` wants."""

Objective = Callable[
    [Any, jax.Array, Batch, Any], tuple[jax.Array, tuple[Metrics, Any]]
]
"""(params, key, batch, carry) -> (loss [], (metrics, carry))."""

Step = Callable[[TrainState, jax.Array, Batch], tuple[TrainState, Metrics]]
"""(state, key of the run, batch) -> (state, metrics). Pure: the step folds its own
number into the key, so that nothing random need be saved."""

Summary = dict[str, float]
"""Name -> number over several steps, nan where there is none."""


def means(metrics: Sequence[Mapping[str, np.ndarray]]) -> Summary:
    """Average each metric that is one number, over the steps that have it.

    Args:
        metrics: of each step, fetched; arrays [...].
    """
    values: dict[str, list[float]] = {}
    for one in metrics:
        for name, value in one.items():
            if np.ndim(value) == 0:
                values.setdefault(name, []).append(float(value))
    return {name: float(np.mean(each)) for name, each in values.items()}


class Task(NamedTuple):
    """What is trained.

    Attributes:
        draw: () -> the initial parameters, a tree of arrays on one device.
        start: parameters -> the state before the first step. Compiled, so that a large
            state need never lie on one device.
        step: one step; `fit` compiles it, spreads it over the devices, and donates the
            state.
        later: (number, step) in rising order: from that step on, counted from 0, this
            one takes its place. An adversary that joins late is one.
        summarize: metrics of several steps -> what is reported of them.
        shown: numbers of a summary that are printed while training, in this order.
        preview: state -> images by name, uint8 [H, W, C]; None for none.
        finish: last state -> plain data that are kept beside the last checkpoint.
        unused: options of `fit.Fit` that the step does not look at; they are refused
            where one is set.
    """

    draw: Callable[[], Any]
    start: Callable[[Any], TrainState]
    step: Step
    later: tuple[tuple[int, Step], ...] = ()
    summarize: Callable[[Sequence[Mapping[str, np.ndarray]]], Summary] = means
    shown: tuple[str, ...] = ("loss",)
    preview: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None
    finish: Callable[[TrainState], Mapping[str, Any]] = lambda state: {}
    unused: tuple[str, ...] = ()
