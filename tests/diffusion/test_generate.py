"""The driver: the order of steps, what is recorded, memory, keys and batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import grids, schedules
from ddpm_jax.diffusion.denoisers import clip_x0
from ddpm_jax.diffusion.editing import project
from ddpm_jax.diffusion.generate import (
    generate,
    generate_part,
    image_keys,
    initial_noise,
)
from ddpm_jax.diffusion.guidance import (
    classifier_free,
    classifier_guidance,
    dynamic_threshold,
)
from ddpm_jax.diffusion.karras import heun
from ddpm_jax.diffusion.multistep import dpmpp_2m, pndm
from ddpm_jax.diffusion.operators import mask_operator
from ddpm_jax.diffusion.process import Prediction, large_variance
from ddpm_jax.diffusion.samplers import Info, Sampler, State, ancestral, ddim
from ddpm_jax.errors import UserError

SCHEDULE = schedules.from_betas(schedules.linear_betas(10, 0.01, 0.3))
KEYS = image_keys(jax.random.key(0), jnp.arange(4))
TWO_MODES = oracles.mixture([0.4, 0.6], [[-0.7] * 6, [0.5] * 6], [0.02, 0.03])


def nothing(x_t, level, cond):
    """A denoiser that is never asked anything of interest."""
    return Prediction(x_t, x_t)


def ledger_step(keys, denoise, state, t, s):
    """Write the pair (t, s + 1) as the next decimal digit of x [B, 2]."""
    x = state.x * 10 + jnp.stack([t.t, s.t + 1.0])
    return State(x), Info(state.x, x, denoise(state.x, t), t, s)


LEDGER = Sampler(init=State, step=ledger_step)


STOCHASTIC = ancestral(large_variance)


@functools.cache
def compiled(sampler, record, num_records):
    """Ten steps from noise to image: keys [B] -> (x [B, 6], records)."""
    levels = grids.grid(SCHEDULE, 10)

    def run(keys):
        x_init = initial_noise(keys, (6,))
        return generate(
            keys,
            sampler,
            TWO_MODES,
            x_init,
            levels,
            record=record,
            num_records=num_records,
        )

    return jax.jit(run)


def small_batch(indices, sampler=STOCHASTIC, record=None, num_records=0):
    """Draw the images `indices` of seed 5."""
    run = compiled(sampler, record, num_records)
    return run(image_keys(jax.random.key(5), jnp.asarray(indices)))


# --- Order and records ----------------------------------------------------------------


def test_steps_run_from_noise_to_image_over_neighbouring_levels():
    """The times 7, 4, 2, 0, -1 give the pairs (7, 4), (4, 2), (2, 0), (0, -1)."""
    levels = SCHEDULE.at(jnp.array([7, 4, 2, 0, -1]))
    x, records = generate(KEYS[:1], LEDGER, nothing, jnp.zeros((1, 2)), levels)
    assert x.tolist() == [[7420, 5310]]
    assert records is None


@pytest.mark.parametrize(
    ("num_records", "kept"),
    [
        (1, [0]),
        (3, [6, 3, 0]),  # runs of 4, 3 and 3 steps end at t = 6, 3, 0
        (5, [8, 6, 4, 2, 0]),
        (10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_records_are_of_the_last_step_of_each_run(num_records, kept):
    """Ten steps from t = 9 to t = 0; by hand."""
    x, records = generate(
        KEYS[:1],
        LEDGER,
        nothing,
        jnp.zeros((1, 2)),
        grids.grid(SCHEDULE, 10),
        record=lambda info: {"t": info.t.t, "s": info.s.t, "x": info.x_s},
        num_records=num_records,
    )
    assert records["t"].tolist() == kept
    assert records["s"].tolist() == [t - 1 for t in kept]
    np.testing.assert_array_equal(records["x"][-1], x)
    digits = "9876543210"[: 10 - kept[0]]
    assert records["x"][0, 0, 0] == np.float32(int(digits))


@pytest.mark.parametrize("ends", [(4,), (1, 2, 3, 4), (3, 4)])
def test_parts_make_the_steps_of_the_whole_whatever_follows_in_the_levels(ends):
    """The ledger of the test above, written in parts, and the pair each part shows."""
    levels = SCHEDULE.at(jnp.array([7, 4, 2, 0, -1, -1, -1]))
    state, shown, done = LEDGER.init(jnp.zeros((1, 2))), [], 0
    for end in ends:
        state, pair = generate_part(
            KEYS[:1],
            LEDGER,
            nothing,
            state,
            levels,
            (done, end),
            record=lambda info: (info.t.t, info.s.t),
        )
        shown.append(tuple(map(int, pair)))
        done = end
    assert state.x.tolist() == [[7420, 5310]]
    pairs = [(7, 4), (4, 2), (2, 0), (0, -1)]
    assert shown == [pairs[end - 1] for end in ends]


def test_recording_does_not_change_the_images():
    plain, none = small_batch([0, 1])
    x, records = small_batch(
        [0, 1],
        record=lambda info: (info.x_t, info.prediction.x0, info.x_s),
        num_records=10,
    )
    assert none is None
    np.testing.assert_allclose(x, plain, atol=1e-6)
    np.testing.assert_array_equal(records[2][-1], x)
    np.testing.assert_array_equal(records[0][1:], records[2][:-1])  # x_s is next x_t
    np.testing.assert_allclose(records[1][-1], x, atol=1e-6)  # no noise at the end


@pytest.mark.parametrize("num_records", [0, 11])
def test_impossible_numbers_of_records_are_refused(num_records):
    with pytest.raises(UserError, match=f"num_records={num_records} .* use 1 to 10"):
        small_batch([0], record=lambda info: info.x_s, num_records=num_records)


def test_memory_grows_with_the_records_and_not_with_the_steps():
    """Bytes of the compiled program, one record being 48 KiB."""
    schedule = schedules.from_betas(schedules.linear_betas(1000))
    record_bytes = 4 * 3072 * 4

    def peak(num_steps, num_records):
        def run(keys, x):
            return generate(
                keys,
                ancestral(),
                lambda x, level, cond: Prediction(0.5 * x, x),
                x,
                grids.grid(schedule, num_steps),
                record=lambda info: info.prediction.x0,
                num_records=num_records,
            )

        memory = jax.jit(run).lower(KEYS, jnp.zeros((4, 3072))).compile()
        analysis = memory.memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    few, many, more = peak(50, 16), peak(1000, 16), peak(50, 36)
    assert abs(many - few) < record_bytes  # 950 more steps: not one image more
    assert more - few >= 20 * record_bytes  # 20 more records: the scale can tell


# --- Keys and batches -----------------------------------------------------------------


@pytest.mark.parametrize("sampler", [STOCHASTIC, ddim(0.7)], ids=["large", "eta=0.7"])
def test_an_image_does_not_depend_on_its_batch(sampler):
    whole, _ = small_batch([0, 1, 2, 3], sampler=sampler)
    halves = [small_batch(part, sampler=sampler)[0] for part in ([0, 1], [2, 3])]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-6)
    alone, _ = small_batch([2], sampler=sampler)
    np.testing.assert_allclose(alone[0], whole[2], atol=1e-6)
    shuffled, _ = small_batch([3, 0, 2, 1], sampler=sampler)
    np.testing.assert_allclose(shuffled, whole[jnp.array([3, 0, 2, 1])], atol=1e-6)


def test_images_steps_and_seeds_all_have_noise_of_their_own():
    """A sampler that only draws: every value it ever saw is different."""

    def draw_step(keys, denoise, state, t, s):
        x = jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys)
        return State(x), Info(state.x, x, denoise(state.x, t), t, s)

    drawn = []
    for seed in (0, 1):
        keys = image_keys(jax.random.key(seed), jnp.arange(4))
        start = initial_noise(keys, (6,))
        _, records = generate(
            keys,
            Sampler(State, draw_step),
            nothing,
            start,
            grids.grid(SCHEDULE, 10),
            record=lambda info: info.x_s,
            num_records=10,
        )
        drawn += [start.ravel(), records.ravel()]
    drawn = np.concatenate(drawn)
    assert len(np.unique(drawn)) == len(drawn) == 2 * (24 + 240)


def test_initial_noise_is_standard_normal():
    keys = image_keys(jax.random.key(1), jnp.arange(1000))
    noise = np.asarray(initial_noise(keys, (5, 4)), np.float64)
    num = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(num)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / num)
    between = np.corrcoef(noise[:500].ravel(), noise[500:].ravel())[0, 1]
    assert abs(between) < 4 / np.sqrt(num / 2)


def test_the_same_seed_gives_the_same_images_again():
    np.testing.assert_array_equal(small_batch([0, 1])[0], small_batch([0, 1])[0])


# --- Compilation and conditions -------------------------------------------------------


def test_one_program_serves_every_eta():
    """eta is an argument; 0.7 gives what the constant 0.7 gives."""
    traces = []
    levels = grids.grid(SCHEDULE, 10)

    @jax.jit
    def run(keys, eta):
        traces.append(eta)
        x_init = initial_noise(keys, (6,))
        return generate(keys, ddim(eta), TWO_MODES, x_init, levels)[0]

    keys = image_keys(jax.random.key(5), jnp.arange(2))
    results = [run(keys, eta) for eta in (0.0, 0.7, 1.0)]
    assert len(traces) == 1
    assert not np.allclose(results[0], results[1])
    fixed, _ = small_batch([0, 1], ddim(0.7))
    np.testing.assert_allclose(results[1], fixed, atol=1e-6)


def test_conditions_reach_the_denoiser_row_by_row():
    """A denoiser that says x_0 = cond: what DDIM ends with is cond."""

    def told(x_t, level, cond):
        x0 = jnp.broadcast_to(cond["value"][:, None], x_t.shape)
        return Prediction(x0, x_t)

    cond = {"value": jnp.array([0.1, -0.2, 0.3, 0.4])}
    levels = grids.grid(SCHEDULE, 3)
    x, _ = generate(KEYS, ddim(0.0), told, jnp.zeros((4, 2)), levels, cond=cond)
    np.testing.assert_allclose(x, cond["value"][:, None].repeat(2, 1), atol=1e-7)


def test_what_a_sampler_adds_is_laid_over_the_conditions():
    """`also` wins over cond, cond stays where `also` is silent; and no cond at all."""
    seen = []

    def told(x_t, level, cond):
        seen.append(cond)
        return Prediction(x_t, x_t)

    def step(keys, denoise, state, t, s):
        prediction = denoise(state.x, t, {"hint": state.x, "scale": 3})
        denoise(state.x, t)
        return State(state.x), Info(state.x, state.x, prediction, t, s)

    levels = grids.grid(SCHEDULE, 1)
    both = {"label": jnp.arange(4), "scale": 2}
    for cond in (both, None):
        generate(KEYS, Sampler(State, step), told, jnp.zeros((4, 2)), levels, cond=cond)
    added, plain, alone, none = seen
    assert set(added) == {"label", "hint", "scale"} and added["scale"] == 3
    assert added["label"] is both["label"]
    assert plain is both and set(both) == {"label", "scale"}
    assert set(alone) == {"hint", "scale"} and none is None


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (2, 1, 2, 2, 1)])
def test_data_of_any_rank(shape):
    """Images and videos [B, F, H, W, C]: the same numbers as [B, D], reshaped."""
    num, dims = shape[0], int(np.prod(shape[1:]))
    denoise = oracles.gaussian(np.zeros(dims), np.full(dims, 0.2))
    levels = grids.grid(SCHEDULE, 4)
    start = jnp.linspace(-1, 1, num * dims).reshape(num, dims)
    flat, _ = generate(KEYS[:num], ddim(0.0), denoise, start, levels)
    shaped, _ = generate(KEYS[:num], ddim(0.0), denoise, start.reshape(shape), levels)
    np.testing.assert_allclose(shaped, flat.reshape(shape), atol=1e-6)


# --- What does not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [ancestral(), ddim(0.0), dpmpp_2m(), heun(), pndm()]
)
def test_noise_in_bfloat16_starts_a_chain_in_float32(sampler):
    """Rounded noise, and no other difference: float32 of it gives the same images."""
    levels, keys = grids.grid(SCHEDULE, 3), image_keys(jax.random.key(2), jnp.arange(2))
    rounded = initial_noise(keys, (6,)).astype(jnp.bfloat16)

    @jax.jit
    def run(x_init):
        return generate(keys, sampler, TWO_MODES, x_init, levels)[0]

    found = run(rounded)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, run(rounded.astype(jnp.float32)))


def test_a_network_that_answers_in_bfloat16_leaves_the_chain_in_float32():
    def rounding(x_t, level, cond):
        exact = TWO_MODES(x_t, level, cond)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), exact)

    keys = image_keys(jax.random.key(2), jnp.arange(2))
    x = initial_noise(keys, (6,))
    found, _ = generate(keys, dpmpp_2m(), rounding, x, grids.grid(SCHEDULE, 3))
    assert found.dtype == jnp.float32


WRAPPERS = {
    "none": lambda denoise: denoise,
    "clip": clip_x0,
    "threshold": dynamic_threshold,
    "guidance": lambda denoise: classifier_free(denoise, 2.0, lambda cond: cond),
    "classifier": lambda denoise: classifier_guidance(
        denoise, lambda x, level, cond: x.sum(1), 1.0
    ),
    "projection": lambda denoise: project(denoise, mask_operator(jnp.ones(6)), 0.0),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_denoiser_that_returns_no_prediction_is_named(wrapper):
    """Instead of an attribute that an array does not have."""
    denoise = WRAPPERS[wrapper](lambda x_t, level, cond: 0.5 * x_t)
    keys = image_keys(jax.random.key(2), jnp.arange(2))
    x, levels = initial_noise(keys, (6,)), grids.grid(SCHEDULE, 3)
    with pytest.raises(UserError, match=r"returned .*, not a Prediction of x0 and eps"):
        generate(keys, ddim(0.0), denoise, x, levels)


def test_predictions_of_another_shape_and_noise_of_bytes_are_refused():
    keys = image_keys(jax.random.key(2), jnp.arange(2))
    x, levels = initial_noise(keys, (6,)), grids.grid(SCHEDULE, 3)

    def twice(x_t, level, cond):
        return Prediction(jnp.tile(x_t, 2), jnp.tile(x_t, 2))

    with pytest.raises(UserError, match=r"x0 of shape \[2, 12\] for x_t of \[2, 6\]"):
        generate(keys, ddim(0.0), twice, x, levels)
    with pytest.raises(UserError, match="starts from uint8, and x is floating point"):
        generate(keys, ddim(0.0), TWO_MODES, x.astype(jnp.uint8), levels)
