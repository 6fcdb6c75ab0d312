"""Sampling plans: chains in stages, described and not yet run.

A plan is a sequence of stages. Each is one chain from noisy to clean, or back; the
results of those before it are among its rows. Sampling is a plan of one stage, a
cascade one of as many as it has models, an edit one of one to three.

    plan = (Stage("x", levels, begin, to_uint8),)
    program = compile_plan(plan, mesh, Record(frames=16, rows=8))
    for made in run_batches(program, params, key, rows, num_rows=100, batch_size=64):
        ...

`run_plan` is pure, and `compile_plan` makes one program of it. `parts` runs the same
plan a few steps at a time, to the same bits, for a page with a preview.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.codecs import Codec, Params
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.samplers import Info, Sampler
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.runtime.batching import Checked, map_batches
from ddpm_jax.runtime.devices import gather_params, replicated, rows

Given = Mapping[str, Any]
"""Rows [B, ...] by name: what is known before a stage, results of earlier ones
included."""


class Chain(NamedTuple):
    """A chain that is ready to start; made anew in each trace, since it holds arrays.

    Attributes:
        keys: typed keys [B], one for each row.
        x_init: [B, ...], at the first of the stage's levels.
        sampler: the method.
        denoise: the model, with its guidance and thresholding.
        cond: what the model is conditioned on.
        decode: from points of the chain to the items [B, ...] that they stand for.
        decode_result: likewise from where the chain ends.
        condition_preview: items [B, ...], a preview of what the model is conditioned
            on; None without.
    """

    keys: jax.Array
    x_init: jax.Array
    sampler: Sampler
    denoise: Denoiser
    cond: Cond
    decode: Callable[[jax.Array], jax.Array]
    decode_result: Callable[[jax.Array], jax.Array]
    condition_preview: jax.Array | None = None


class Stage(NamedTuple):
    """One chain of a plan.

    Attributes:
        makes: the name of its result among the rows of later stages.
        levels: leaves [N + 1], in the order they are visited.
        begin: (params, keys [B], rows, levels) -> Chain. Pure; the levels are those
            above, given again so that a compiled program may serve others.
        store: from decoded items to what is kept of them, such as uint8 of images.
    """

    makes: str
    levels: Level
    begin: Callable[[Any, jax.Array, Given, Level], Chain]
    store: Callable[[jax.Array], jax.Array]


Plan = tuple[Stage, ...]

_A_ROW = "a row"  # what of the results of a plan that is one program

ImageCondition = Callable[[jax.Array, Given], tuple[dict[str, Any], jax.Array]]
"""(keys [B], rows) -> the condition made of "image" and "mask" of the rows, and a
preview of it as images [B, H, W, C]."""


class Model(NamedTuple):
    """What the chains of a plan are made with; it is bound where they are traced.

    Attributes:
        codec: of the model.
        levels: leaves [N + 1], of sampling.
        sampler: () -> Sampler.
        denoiser: `codecs.Params` -> Denoiser, guidance and thresholding included.
        condition: (`codecs.Params`, rows) -> what it is conditioned on.
        image_condition: of an image-conditional model; None of others.
        clip: whether x0 is clipped to the range of pixels.
    """

    codec: Codec
    levels: Level
    sampler: Callable[[], Sampler]
    denoiser: Callable[[Params], Denoiser]
    condition: Callable[[Params, Given], Cond]
    image_condition: ImageCondition | None = None
    clip: bool = False


def sample_plan(model: Model) -> Plan:
    """Describe sampling from noise: one stage.

    Args:
        model: what is sampled from. Its parameters are `codecs.Params`.
    """

    def begin(params: Params, keys: jax.Array, given: Given, levels: Level) -> Chain:
        del levels
        decode = partial(model.codec.decode, params.codec)
        return Chain(
            keys,
            initial_noise(keys, model.codec.shape),
            model.sampler(),
            model.denoiser(params),
            model.condition(params, given),
            decode,
            decode,
        )

    return (Stage("x", model.levels, begin, model.codec.store),)


class Trajectory(NamedTuple):
    """A chain from its start to its end, K frames of F rows: leaves [K, F, ...].

    Attributes:
        x_t: the chain itself.
        x0: the predictions of x0, one for each step that made a frame of x_t; None if
            they are not kept.
    """

    x_t: Any
    x0: Any


class Record(NamedTuple):
    """What is kept of a trajectory.

    Attributes:
        frames: K, at most; fewer if the chain is shorter.
        rows: F, at most: the first of a batch; None for all of them.
        with_start: whether the first frame is where the chain starts.
        with_x0: whether the predictions of x0 are kept.
    """

    frames: int
    rows: int | None = None
    with_start: bool = True
    with_x0: bool = True

    def num_steps(self, num_steps: int) -> int:
        """Count the steps that make a frame, of a chain of N."""
        return min(self.frames - self.with_start, num_steps)


class Sampled(NamedTuple):
    """What a stage made.

    Attributes:
        x: [B, ...], where the chain ended, floating point.
        items: [B, ...], decoded from it, floating point.
        condition_preview: as of its `Chain`, floating point.
        trajectory: decoded, floating point; None if it is not recorded.
    """

    x: jax.Array
    items: jax.Array
    condition_preview: jax.Array | None
    trajectory: Trajectory | None


def run_stage(
    stage: Stage, params: Any, keys: jax.Array, given: Given, record: Record | None
) -> Sampled:
    """Run the chain of a stage. Pure; jit it whole.

    Args:
        stage: of a plan.
        params: of the model or models.
        keys: typed keys [B].
        given: rows by name.
        record: what is kept of the trajectory; None for nothing.
    """
    chain = stage.begin(params, keys, given, stage.levels)
    num_steps = stage.levels.alpha.shape[0] - 1

    def kept(x: jax.Array) -> jax.Array:
        return x if record is None or record.rows is None else x[: record.rows]

    def points(info: Info) -> Trajectory:
        with_x0 = record is not None and record.with_x0
        return Trajectory(kept(info.x_s), kept(info.prediction.x0) if with_x0 else None)

    x, recorded = generate(
        chain.keys,
        chain.sampler,
        chain.denoise,
        chain.x_init,
        stage.levels,
        cond=chain.cond,
        record=points if record else None,
        num_records=record.num_steps(num_steps) if record else 0,
    )
    if record is not None:
        if record.with_start:
            start = kept(chain.x_init)[None]
            recorded = recorded._replace(x_t=jnp.concatenate([start, recorded.x_t]))
        # A frame at a time: it may be a decoder that is run.
        recorded = jax.tree.map(lambda part: jax.lax.map(chain.decode, part), recorded)
    return Sampled(x, chain.decode_result(x), chain.condition_preview, recorded)


def run_plan(
    plan: Plan, params: Any, keys: jax.Array, given: Given, record: Record | None = None
) -> Sampled:
    """Run all stages of a plan, one after the other. Pure; jit it whole.

    Args:
        plan: stages, in order.
        params: of the model or models.
        keys: typed keys [B], one for each row.
        given: rows by name.
        record: what is kept of the last stage's trajectory; None for nothing.

    Returns:
        What the last stage made.
    """
    for stage in plan[:-1]:
        x = run_stage(stage, params, keys, given, None).x
        given = {**given, stage.makes: x}
    return run_stage(plan[-1], params, keys, given, record)


# --- Compiled -------------------------------------------------------------------------


class Made(NamedTuple):
    """What a stage made of a batch, as it is stored: images in uint8.

    Attributes:
        items: [B, ...].
        condition_preview: [B, ...] or None.
        trajectory: leaves [K, F, ...], or None; inside of a program [F, K, ...].
    """

    items: Any
    condition_preview: Any
    trajectory: Trajectory | None


class Program(NamedTuple):
    """A plan, ready to compile for batches of one size.

    Attributes:
        run: (params, key, (indices int [B], rows)) -> `Checked` tuple of `Made`, of one
            stage or of all; row i of the batch has the key fold_in(key, indices[i]).
        mesh: the devices, over which rows are spread.
    """

    run: Callable[[Any, jax.Array, tuple[Any, Given]], Checked]
    mesh: Mesh


def compile_plan(
    plan: Plan, mesh: Mesh, record: Record | None, *, by_stage: bool = False
) -> Program:
    """Make a program of a plan; it is compiled when it is first called.

    Args:
        plan: stages, in order.
        mesh: from `devices.data_mesh`.
        record: what is kept of the last stage's trajectory; None for nothing.
        by_stage: make a program for each stage, and give back what all of them made;
            otherwise there is one, and it gives back what the last made.
    """
    everywhere, by_row = replicated(mesh), rows(mesh)
    trajectories = by_row if record is None or record.rows is None else everywhere
    made_of: Any = Made(by_row, by_row, trajectories)  # type: ignore[arg-type]
    given_at = (None, everywhere, by_row)  # parameters as they lie

    def compiled(stages: Plan) -> Callable[..., tuple]:
        is_last = stages[-1] is plan[-1]

        def run(params: Any, key: Any, given: Any) -> tuple[Any, tuple]:
            indices, named = given
            params, keys = gather_params(mesh, params), image_keys(key, indices)
            kept = record if is_last else None
            sampled = run_plan(stages, params, keys, named, kept)
            return None if is_last else sampled.x, _made(stages[-1], sampled)

        return jax.jit(
            run, in_shardings=given_at, out_shardings=(by_row, (made_of, by_row))
        )

    parts: dict[str, Plan] = {_A_ROW: plan}
    if by_stage:
        parts = {f"stage {i}": (stage,) for i, stage in enumerate(plan, 1)}
    programs = {name: compiled(stages) for name, stages in parts.items()}

    def run(params: Any, key: jax.Array, given: tuple[Any, Given]) -> Checked:
        (indices, named), all_made, finite = given, [], {}
        for name, stages in parts.items():
            x, (made, finite[name]) = programs[name](params, key, (indices, named))
            named = {**named, stages[-1].makes: x}
            all_made.append(made)
        return Checked(tuple(all_made), finite)

    return Program(run, mesh)


def _made(stage: Stage, sampled: Sampled) -> tuple[Made, jax.Array]:
    """Store the results, rows first, and return which rows were finite before."""
    items, preview = sampled.items, sampled.condition_preview
    finite = jnp.isfinite(items).all(axis=range(1, items.ndim))
    trajectory = jax.tree.map(stage.store, sampled.trajectory)
    preview = None if preview is None else stage.store(preview)
    return Made(stage.store(items), preview, _swapped(trajectory)), finite


def _swapped(trajectory: Trajectory | None) -> Any:
    """Exchange the axes of frames and rows."""
    return jax.tree.map(lambda part: part.swapaxes(0, 1), trajectory)


def run_batches(
    program: Program,
    params: Any,
    key: jax.Array,
    given: Given,
    *,
    num_rows: int,
    batch_size: int,
    advice: str,
    indices: np.ndarray | None = None,
    first: int = 0,
    stop: Callable[[], Any] = lambda: False,
    on_batch: Callable[[int], Any] = lambda count: None,
) -> Iterator[tuple[Made, ...]]:
    """Run a plan for any number of rows, batch after batch.

    Row i depends on (key, indices[i]) and its own conditions alone.

    Args:
        program: from `compile_plan`.
        params: of the model or models, on the devices.
        key: of all rows.
        given: rows by name, leaves [N, ...].
        num_rows: N.
        batch_size: B, rounded up to what the devices divide.
        advice: what to do where an item is not finite.
        indices: int [N], the number of each row's key; None: its own.
        first: as of `map_batches`.
        stop: as of `map_batches`.
        on_batch: as of `map_batches`.

    Yields:
        What the stages made of a batch, one or all of them as the program has it.

    Raises:
        UserError: an item is not finite, which as bytes would pass for black.
    """
    if indices is None:
        indices = np.arange(num_rows, dtype=np.int32)

    def not_finite(what: str, first: int, last: int) -> str:
        of = "" if what == _A_ROW else f" of {what}"
        return f"an item among {first} to {last}{of} is not finite; {advice}"

    for stages in map_batches(
        lambda rows: program.run(params, key, rows),
        (indices, given),
        num_rows,
        batch_size,
        mesh=program.mesh,
        first=first,
        stop=stop,
        on_batch=on_batch,
        not_finite=not_finite,
    ):
        yield tuple(
            made._replace(trajectory=_swapped(made.trajectory)) for made in stages
        )
