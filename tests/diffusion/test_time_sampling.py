"""Drawing training levels: each fair, together less scattered, importance unbiased.

[N] is Nichol and Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules, time_sampling
from ddpm_jax.diffusion.time_sampling import ANTITHETIC, STRATIFIED, UNIFORM

FUNCTIONS = [
    time_sampling.uniform_times,
    time_sampling.stratified_times,
    time_sampling.antithetic_times,
]
SKEWED = np.array([100.0, 20.0, 5.0, 1.0, 0.2, 0.05, 0.01, 0.0])  # mean loss of t


def history(losses):
    """A history that is full of one loss for each level."""
    losses = jnp.asarray(losses, jnp.float32)
    return time_sampling.History(
        jnp.tile(losses[:, None], (1, 10)), jnp.full(len(losses), 10, jnp.int32)
    )


# --- Without memory -------------------------------------------------------------------


def test_stratified_times_fall_one_into_each_stratum():
    for seed in range(20):
        u = np.asarray(
            time_sampling.stratified_times(jax.random.key(seed), 8), np.float64
        )
        assert np.all((u >= 0) & (u < 1))
        sorted_u = np.sort(u)
        np.testing.assert_allclose(np.diff(sorted_u), 1 / 8, atol=1e-6)
        assert np.all(np.floor(sorted_u * 8) == np.arange(8))


def test_antithetic_times_come_in_pairs_that_never_touch_the_ends():
    u = np.asarray(time_sampling.antithetic_times(jax.random.key(0), 7))
    np.testing.assert_array_equal(u[4:], 1 - u[:3])
    # The bits that make the smallest and the largest u.
    ends = np.float32([0, 1 - 2.0**-23]) + np.float32(2.0**-24)
    assert np.all((ends > 0) & (ends < 1) & (1 - ends > 0) & (1 - ends < 1))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_time_alone_is_uniform(function):
    """First and last row of 4 over 4000 keys: mean 1/2, variance 1/12, flat bins."""
    keys = jax.random.split(jax.random.key(0), 4000)
    u = np.asarray(jax.vmap(lambda key: function(key, 4))(keys), np.float64)
    for row in (u[:, 0], u[:, 3]):
        assert abs(row.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
        counts = np.histogram(row, 10, (0, 1))[0]
        assert np.all(np.abs(counts - 400) < 4.5 * np.sqrt(400 * 0.9))


@pytest.mark.parametrize(
    ("function", "linear", "square"),
    [
        (time_sampling.uniform_times, 1 / 96, 1 / 90),
        (time_sampling.stratified_times, 1 / 768, None),
        (time_sampling.antithetic_times, 0.0, 1 / 720),
    ],
)
def test_the_mean_of_a_batch_scatters_as_it_should(function, linear, square):
    """Variance of the mean of n = 8. Of u: 1/(12 n) if they are free, 1/(12 n^2) if
    evenly spread, 0 in pairs. Of u^2: (1/5 - 1/9) / n if they are free; the mean of a
    pair is 1/4 + (u - 1/2)^2 with variance 1/180, and there are n/2."""
    keys = jax.random.split(jax.random.key(1), 4000)
    u = np.asarray(jax.vmap(lambda key: function(key, 8))(keys), np.float64)
    np.testing.assert_allclose(np.var(u.mean(1)), linear, rtol=0.1, atol=1e-15)
    if square is not None:
        np.testing.assert_allclose(np.var((u**2).mean(1)), square, rtol=0.1)


@pytest.mark.parametrize("sampler", [UNIFORM, STRATIFIED, ANTITHETIC])
def test_a_sampler_without_memory_weighs_all_alike(sampler):
    memory = sampler.init()
    assert memory == ()
    u, weight = sampler.draw(jax.random.key(2), 5, memory)
    assert u.shape == (5,)
    np.testing.assert_array_equal(weight, 1)
    assert sampler.update(memory, jnp.zeros(5, jnp.int32), jnp.ones(5)) == ()


# --- By the second moment of the losses -----------------------------------------------


def shares(losses, count):
    """[N] eq. (18) and the rules of its code, in float64."""
    if (count < losses.shape[1]).any():
        return np.full(len(losses), 1 / len(losses))
    root = np.sqrt(np.mean(losses.astype(np.float64) ** 2, axis=1))
    return 0.999 * root / root.sum() + 0.001 / len(losses)


def test_the_history_is_that_of_the_loop_of_nichol_and_dhariwal():
    """40 batches of 32 over 6 levels, so that a level comes more than 10 times in some
    batches and not at all in others, against lists from which the oldest falls out."""
    rng = np.random.default_rng(3)
    sampler = time_sampling.importance(6)
    update = jax.jit(sampler.update)
    memory, lists, most = sampler.init(), [[] for _ in range(6)], 0
    for batch in range(40):
        chance = rng.dirichlet(np.full(6, 0.5))
        index = rng.choice(6, 32, p=chance)
        losses = rng.gamma(2.0, 1.0 + index, 32).astype(np.float32)
        memory = update(memory, jnp.asarray(index), jnp.asarray(losses))
        for t, loss in zip(index, losses, strict=True):
            lists[t] = [*lists[t], loss][-10:]
        most = max(most, np.bincount(index).max())
        count = np.array([len(kept) for kept in lists])
        np.testing.assert_array_equal(np.minimum(memory.count, 10), count)
        padded = np.array([kept + [0.0] * (10 - len(kept)) for kept in lists])
        np.testing.assert_array_equal(np.sort(memory.losses), np.sort(padded))
        expected = shares(padded, count)
        np.testing.assert_allclose(
            time_sampling.importance_shares(memory),
            expected,
            rtol=2e-6,
            err_msg=str(batch),
        )
    assert most > 10 and (count == 10).all() and expected.max() > 2 * expected.min()


def test_levels_are_uniform_until_the_last_of_them_has_ten_losses():
    memory = history(SKEWED)
    for count in (0, 9):
        lacking = memory._replace(count=memory.count.at[5].set(count))
        np.testing.assert_allclose(
            time_sampling.importance_shares(lacking), 1 / 8, rtol=1e-6
        )
    share = np.asarray(time_sampling.importance_shares(memory), np.float64)
    expected = 0.999 * SKEWED / SKEWED.sum() + 0.001 / 8
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    nothing = time_sampling.importance_shares(history(np.zeros(8)))
    np.testing.assert_allclose(nothing, 1 / 8, rtol=1e-6)


def test_levels_are_drawn_by_their_shares_and_weighed_by_what_makes_up_for_it():
    sampler, num = time_sampling.importance(8), 200_000
    draw = jax.jit(sampler.draw, static_argnums=1)
    schedule = schedules.from_betas(np.full(8, 0.1))
    u, weight = draw(jax.random.key(4), num, history(SKEWED))
    index = np.asarray(schedule.draw(u))
    share = 0.999 * SKEWED / SKEWED.sum() + 0.001 / 8
    counts = np.bincount(index, minlength=8)
    error = np.sqrt(num * share * (1 - share))
    assert np.all(np.abs(counts - num * share) < 4 * error), counts
    np.testing.assert_allclose(weight, 1 / (8 * share[index]), rtol=1e-5)
    assert weight.max() < 1000

    # Losses that scatter about means other than those remembered: any will do.
    rng = np.random.default_rng(5)
    mean = SKEWED + np.linspace(0.1, 2.0, 8)
    weighted = np.asarray(weight, np.float64) * rng.gamma(3.0, mean[index] / 3)
    standard_error = weighted.std() / np.sqrt(num)
    assert abs(weighted.mean() - mean.mean()) < 4 * standard_error
    # Without the weight it would not be the mean over levels.
    assert abs(rng.gamma(3.0, mean[index] / 3).mean() - mean.mean()) > 10


def test_importance_scatters_less_where_few_levels_dominate():
    """Weight times a loss as remembered is nearly constant: its variance is
    sum_t p_t (L_t / (T p_t) - mean)^2, a 17,000th of that of uniform levels."""
    num = 200_000
    draw = jax.jit(time_sampling.importance(8).draw, static_argnums=1)
    u, weight = draw(jax.random.key(6), num, history(SKEWED))
    weighted = np.asarray(weight, np.float64) * SKEWED[np.asarray(u * 8).astype(int)]
    share = 0.999 * SKEWED / SKEWED.sum() + 0.001 / 8
    off = SKEWED / (8 * share) - SKEWED.mean()
    expected = share @ off**2
    standard_error = np.sqrt((share @ off**4 - expected**2) / num)
    assert abs(np.var(weighted) - expected) < 4 * standard_error
    assert expected < np.var(SKEWED) / 10_000


def test_a_level_of_a_long_table_is_hit_in_its_middle():
    """u must come back as the level it was made of, for every T in use."""
    for num_levels in (1000, 4999):
        schedule = schedules.from_betas(np.full(num_levels, 1e-3))
        index = jnp.arange(num_levels)
        np.testing.assert_array_equal(schedule.draw((index + 0.5) / num_levels), index)


# --- Laws of their own ----------------------------------------------------------------

STRAIGHT = schedules.straight(500)
TABLE = schedules.from_betas(schedules.cosine_betas(500))
ON_PATH = [STRAIGHT, schedules.cosine_logsnr(12.0, -12.0, 500), TABLE]


def of_normal(z):
    """The normal distribution function: float64, elementwise."""
    return 0.5 * (1 + np.vectorize(math.erf)(np.asarray(z, np.float64) / math.sqrt(2)))


def drawn(sampler, schedule, seed, num=4000):
    u, weight = jax.jit(sampler.draw, static_argnums=1)(jax.random.key(seed), num, ())
    np.testing.assert_array_equal(weight, 1)  # they re-weight the loss
    assert np.all((np.asarray(u) >= 0) & (np.asarray(u) < 1))
    return np.asarray(schedule.draw(u))


def furthest(values, below):
    """Largest distance of the empirical law to a distribution function."""
    values, count = np.unique(np.asarray(values, np.float64), return_counts=True)
    middle = (np.cumsum(count) - count / 2) / count.sum()
    return np.abs(below(values) - middle).max()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("schedule", ON_PATH, ids=["straight", "cosine", "table"])
def test_each_law_is_the_one_of_its_paper(schedule, seed):
    """Quantiles are stratified, so that 4,000 draws follow the law to 1 / 4,000, and
    to a level's width in a table of 500."""
    is_table = schedule is TABLE
    room = 1 / 4000 + (1 / 500 if is_table else 1e-5)

    def share(t):  # of the chain; of a table's level its middle
        return (t + (0.5 if is_table else 1.0)) / 500

    def logit(x):
        return np.log(x / (1 - x))

    t = drawn(time_sampling.logit_normal(schedule, mean=0.5, std=0.8), schedule, seed)
    law = furthest(share(t), lambda x: of_normal((logit(x) - 0.5) / 0.8))
    assert law < 3 * room
    t = drawn(time_sampling.shifted(schedule, shift=3.0), schedule, seed)
    # Esser et al. 2024, eq. (23), solved for u.
    assert furthest(share(t), lambda x: x / (3 - 2 * x)) < 3 * room
    t = drawn(time_sampling.lognormal(schedule), schedule, seed)
    log_r = -0.5 * np.asarray(schedule.at(jnp.asarray(t)).logsnr)
    assert furthest(log_r, lambda x: of_normal((x + 1.2) / 1.2)) < 3 * room


def test_times_beyond_the_chain_are_its_ends():
    """A wide law on a short chain: first and last level, never the clean end."""
    schedule = schedules.linear_logsnr(1.0, -1.0, 40)
    t = drawn(time_sampling.lognormal(schedule, mean=0.0, std=5.0), schedule, 0)
    log_r = -0.5 * np.asarray(schedule.at(jnp.asarray(t)).logsnr)
    np.testing.assert_allclose([log_r.min(), log_r.max()], [-0.5, 0.5], atol=1e-5)
    assert t.min() > -1 and t.max() == 39
    table = schedules.from_betas(schedules.linear_betas(40, 0.1, 0.2))
    t = drawn(time_sampling.lognormal(table, mean=0.0, std=5.0), table, 0)
    assert (t.min(), t.max()) == (0, 39)


def test_a_shift_of_the_times_is_that_of_the_path():
    """Shifted times on the even path have the levels of even times on the shifted."""
    path = schedules.straight(500, shift=2.5)
    key = jax.random.key(3)
    even = path.at(path.draw(STRATIFIED.draw(key, 50, ())[0]))
    u, _ = time_sampling.shifted(STRAIGHT, shift=2.5).draw(key, 50, ())
    moved = STRAIGHT.at(STRAIGHT.draw(u))
    # The law is that of quantiles u, and the path runs through them backwards.
    np.testing.assert_allclose(np.sort(moved.sigma), np.sort(even.sigma), atol=2.5 / 50)
    assert abs(float(moved.sigma.mean() - even.sigma.mean())) < 0.01


def test_a_shift_of_one_is_even():
    key = jax.random.key(4)
    u, _ = time_sampling.shifted(STRAIGHT, shift=1.0).draw(key, 16, ())
    even = time_sampling.stratified_times(key, 16)
    np.testing.assert_allclose(np.sort(1 - u), np.sort(even), atol=1e-6)
