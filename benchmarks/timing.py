"""Taking times: medians with their spread, turns, ratios pair by pair."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles, least and greatest, and how many there were."""
    if not len(values):
        raise ValueError("no values to summarize")
    low, median, high = np.percentile(values, [25, 50, 75])
    return {
        "median": float(median),
        "quartile_1": float(low),
        "quartile_3": float(high),
        "least": float(np.min(values)),
        "greatest": float(np.max(values)),
        "count": len(values),
    }


def ratios(
    numerators: Sequence[float], denominators: Sequence[float]
) -> dict[str, float]:
    """Summarise the ratios of values that were taken in turns, pair by pair.

    A drift of the machine is in both of a pair and drops out, which it would not from
    a ratio of two medians.

    Raises:
        ValueError: they are not pairs.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} values against {len(denominators)}")
    return spread(np.asarray(numerators) / np.asarray(denominators))


def seconds(function: Callable[[], Any]) -> float:
    """Time one call, and wait for the arrays that it returns."""
    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started


def take_turns(
    functions: dict[str, Callable[[], float]], num_turns: int
) -> dict[str, list[float]]:
    """Call functions that return a time in turns, A B A B, and list what each gave."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(num_turns):
        for name, function in functions.items():
            taken[name].append(function())
    return taken


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Keep compiled programs in a new folder, and forget those of this process."""
    before = jax.config.jax_compilation_cache_dir
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            compilation_cache.reset_cache()


def compile_twice(
    jitted: Any, *args: Any, cached: bool = False
) -> tuple[Any, dict[str, float]]:
    """Compile a jitted function from nothing, then as a second start would find it.

    Args:
        jitted: from `jax.jit`.
        args: its arguments, or their shapes.
        cached: take it from the persistent cache as it is, and time that alone.

    Returns:
        The compiled function, and seconds: "trace" and "compile" of the first, and
        "second_start", trace included, with the first in the persistent cache. What
        compiled in under a second is not kept there, as JAX has it.
    """
    if cached:
        started = time.perf_counter()
        compiled = jitted.lower(*args).compile()
        return compiled, {"second_start": time.perf_counter() - started}
    with empty_cache():
        jax.clear_caches()
        started = time.perf_counter()
        lowered = jitted.lower(*args)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
        jax.clear_caches()
        again = time.perf_counter()
        jitted.lower(*args).compile()
        second = time.perf_counter() - again
    return compiled, {
        "trace": traced - started,
        "compile": done - traced,
        "second_start": second,
    }


@contextlib.contextmanager
def profiled(folder: str | None) -> Iterator[None]:
    """Write a trace of what runs inside, for TensorBoard or Perfetto; None for not."""
    if folder is None:
        yield
        return
    with jax.profiler.trace(folder):
        yield
    print(f"profile: {folder} (tensorboard --logdir={folder})")
