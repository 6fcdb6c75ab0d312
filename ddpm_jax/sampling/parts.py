"""A sampling plan in parts: a few steps at a time, with a preview of the chain.

A part is a loop whose ends are arguments, over levels padded to one length. So one
compiled program serves every seed, condition, number of steps and strength. The parts
make the steps of `plan.run_plan`, to the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.diffusion.generate import generate_part, image_keys
from ddpm_jax.diffusion.samplers import Info, State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import gathered, replicated, rows
from ddpm_jax.sampling.plan import Chain, Given, Plan, Stage, Trajectory

_PATIENCE = 0.5  # seconds that a part of the chain should take, at most


class Frame(NamedTuple):
    """What is kept of a step: uint8 [B, ...] each."""

    x_t: jax.Array  # the chain after it
    x0: jax.Array  # the prediction


class StageParts(NamedTuple):
    """A stage in parts. All begin with (params, key, indices [B], rows, levels).

    Attributes:
        begin: -> (State, x_init uint8, condition preview uint8 or None).
        advance: and (state, start, stop) -> (State, Frame).
        finish: and (state) -> (x float, its items uint8, finite [B]).
    """

    begin: Callable[..., tuple]
    advance: Callable[..., tuple]
    finish: Callable[..., tuple]


def compile_parts(stage: Stage, mesh: Mesh) -> StageParts:
    """Make the programs of a stage; they are compiled when they are first called.

    Args:
        stage: of a plan. Its levels are not used.
        mesh: rows are sharded over it.
    """
    everywhere, by_row = replicated(mesh), rows(mesh)

    def spread(state: State) -> State:
        """Keep what is like x spread like x, so that parts fit each other."""
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(
                leaf, by_row if leaf.shape == state.x.shape else everywhere
            ),
            state,
        )

    def chain_of(
        params: Any, key: Any, indices: Any, given: Any, levels: Level
    ) -> Chain:
        return stage.begin(params, image_keys(key, indices), given, levels)

    def begin(*task: Any) -> tuple:
        chain = chain_of(*task)
        preview = chain.condition_preview
        return (
            spread(chain.sampler.init(chain.x_init)),
            stage.store(chain.decode(chain.x_init)),
            None if preview is None else stage.store(preview),
        )

    def record(info: Info) -> tuple[jax.Array, jax.Array]:
        return info.x_s, info.prediction.x0

    def advance(*given: Any) -> tuple:
        *task, state, first, last = given
        chain = chain_of(*task)
        state, last_step = generate_part(
            chain.keys,
            chain.sampler,
            chain.denoise,
            state,
            task[-1],
            (first, last),
            cond=chain.cond,
            record=record,
        )
        # Once a part, not once a step: it may be a decoder that is run.
        return spread(state), Frame(*(stage.store(chain.decode(x)) for x in last_step))

    def finish(*given: Any) -> tuple:
        *task, state = given
        items = chain_of(*task).decode_result(state.x)
        finite = jnp.isfinite(items).all(axis=range(1, items.ndim))
        return state.x, stage.store(items), finite

    task = (everywhere, everywhere, by_row, by_row, everywhere)
    return StageParts(
        jax.jit(begin, in_shardings=task),
        jax.jit(advance, in_shardings=(*task, None, everywhere, everywhere)),
        jax.jit(finish, in_shardings=(*task, None), out_shardings=by_row),
    )


def padded_length(levels: Level, num_levels: int) -> int:
    """Choose a length, a power of two, that most chains of a schedule can have."""
    return 1 << max(len(levels.alpha) - 1, num_levels).bit_length()


def padded(levels: Level, num_levels: int) -> Level:
    """Repeat the last level up to `padded_length`: leaves [N + 1] become [M]."""
    missing = padded_length(levels, num_levels) - len(levels.alpha)
    return jax.tree.map(lambda leaf: jnp.pad(leaf, (0, missing), mode="edge"), levels)


def frame_steps(num_steps: int, num_frames: int) -> list[int]:
    """Count the steps after which a frame is kept: those of `generate`'s records."""
    kept = min(num_frames - 1, num_steps)
    return [-(-(k + 1) * num_steps // kept) for k in range(kept)]


class Point(NamedTuple):
    """How far a plan has come.

    Attributes:
        stage: the stage that is running, from 0.
        num_stages: of the plan.
        step: steps made of this stage.
        num_steps: steps of this stage.
        trajectory: of this stage, as far as it goes: K frames x_t and K - 1 of x0, each
            uint8 [B, ...].
        condition_preview: uint8 [B, ...]; None before the end.
        items: uint8 [B, ...], the result; None before the end.
    """

    stage: int
    num_stages: int
    step: int
    num_steps: int
    trajectory: Trajectory = Trajectory((), ())
    condition_preview: np.ndarray | None = None
    items: np.ndarray | None = None


def run_in_parts(
    plan: Plan,
    programs: Sequence[StageParts],
    params: Any,
    key: jax.Array,
    indices: np.ndarray,
    given: Given,
    *,
    num_rows: int,
    num_frames: int,
    num_levels: int,
) -> Iterator[Point]:
    """Run a plan for one batch, a part at a time.

    Args:
        plan: stages, in order.
        programs: from `compile_parts`, for each stage.
        params: of the model or models.
        key: of all rows.
        indices: int [B], the number of each row's key.
        given: rows by name, leaves [B, ...].
        num_rows: of the batch that are wanted; those after them fill it up.
        num_frames: K >= 2, as of `plan.Record`.
        num_levels: T of the schedule, which the levels are padded by.

    Yields:
        A point before each stage, after each of its parts, and at the end.

    Raises:
        UserError: an item is not finite.
    """

    def wanted(array: jax.Array) -> np.ndarray:
        return gathered(array)[:num_rows]

    for number, (stage, program) in enumerate(zip(plan, programs, strict=True)):
        num_steps = len(stage.levels.alpha) - 1
        levels = padded(stage.levels, num_levels)
        task = (params, key, indices, given, levels)
        now = Point(number, len(plan), 0, num_steps)
        yield now
        state, x_init, preview = program.begin(*task)
        trajectory = Trajectory((wanted(x_init),), ())
        ends = frame_steps(num_steps, num_frames)
        for step, frame, after in _parts(program, task, state, ends):
            state = after
            if step in ends:
                trajectory = Trajectory(
                    (*trajectory.x_t, wanted(frame.x_t)),
                    (*trajectory.x0, wanted(frame.x0)),
                )
            now = now._replace(step=step, trajectory=trajectory)
            yield now
        x, items, finite = program.finish(*task, state)
        if not wanted(finite).all():
            raise UserError(
                "an image is not finite; use less guidance or weight, another sampler, "
                "or float32."
            )
        given = {**given, stage.makes: x}
    yield now._replace(
        condition_preview=None if preview is None else wanted(preview),
        items=wanted(items),
    )


def _parts(
    program: StageParts, task: tuple, state: State, ends: list[int]
) -> Iterator[tuple[int, Frame, State]]:
    """Make all steps, a part at a time: to the next frame, if that is not too far."""
    done, most = 0, 1
    for end in ends:
        while done < end:
            began, count = time.perf_counter(), min(most, end - done)
            state, frame = program.advance(*task, state, done, done + count)
            jax.block_until_ready(frame)
            if done > 0:  # the first part waited for the compiler
                seconds = (time.perf_counter() - began) / count
                most = max(1, int(_PATIENCE / seconds))
            done += count
            yield done, frame, state
