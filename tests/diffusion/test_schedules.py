"""Schedules against numbers from elsewhere.

Unless a test says otherwise, its numbers were computed from the formulas of the papers
with 50-digit decimals, outside this library.
"""

import math

import flows
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError

T = 1000
TABLES = {
    "linear": schedules.linear_betas(T),
    "quadratic": schedules.quadratic_betas(T),
    "constant": schedules.constant_betas(T),
    "jsd": schedules.jsd_betas(T),
    "warmup": schedules.warmup_betas(T, fraction=0.1),
    "cosine": schedules.cosine_betas(T),
    "sigmoid": schedules.sigmoid_betas(T),
}
CONTINUOUS = {
    "linear": schedules.linear_logsnr(),
    "cosine": schedules.cosine_logsnr(),
}


# --- Tables ---------------------------------------------------------------------------


def test_linear_table_of_a_thousand_steps():
    schedule = schedules.from_betas(schedules.linear_betas(1000))
    level = schedule.at(jnp.array([0, 499, 999]))
    np.testing.assert_allclose(
        level.alpha[1:] ** 2, [0.0785872429, 4.03582977e-5], rtol=2e-6
    )
    np.testing.assert_allclose(
        level.logsnr, [9.21024037, -2.46169872, -10.11767318], rtol=1e-6
    )
    # sqrt(beta_1); 1 - alpha_bar in float32 would be off in the fourth digit.
    np.testing.assert_allclose(level.sigma[0], 0.01, rtol=2e-7)


def test_cosine_table_of_a_thousand_steps():
    betas = schedules.cosine_betas(1000)
    np.testing.assert_allclose(betas[0], 4.12842248e-5, rtol=1e-8)
    assert betas.max() == betas[-1] == 0.999
    np.testing.assert_allclose(betas[-2], 0.7499993929, rtol=1e-9)
    level = schedules.from_betas(betas).at(jnp.array([0, 499, 999]))
    np.testing.assert_allclose(
        level.alpha[1:] ** 2, [0.493843590, 2.42876691e-9], rtol=2e-6
    )
    np.testing.assert_allclose(
        level.logsnr, [10.09498881, -0.02462688, -19.83588215], rtol=1e-6, atol=2e-7
    )


def test_small_tables_by_hand():
    np.testing.assert_allclose(schedules.linear_betas(3, 0.1, 0.3), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(
        schedules.quadratic_betas(3, 0.01, 0.09), [0.01, 0.04, 0.09]
    )
    np.testing.assert_array_equal(schedules.constant_betas(3, 0.25), [0.25] * 3)
    np.testing.assert_allclose(schedules.jsd_betas(4), [1 / 4, 1 / 3, 1 / 2, 1])
    np.testing.assert_allclose(
        schedules.warmup_betas(10, 0.1, 0.5, fraction=0.5),
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    )
    assert schedules.warmup_betas(10, fraction=0.0).tolist() == [0.02] * 10


def test_sigmoid_table_by_hand():
    """With u = 1/4, 1/2, 3/4 the sigmoid is taken at -1.5, 0 and 1.5."""

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    span = sigmoid(3) - sigmoid(-3)
    curve = [(sigmoid(3) - sigmoid(x)) / span for x in (-1.5, 0.0, 1.5)]
    assert curve[1] == pytest.approx(0.5, abs=1e-15)
    expected = [1 - curve[0], 1 - 0.5 / curve[0], 1 - curve[2] / 0.5, 0.999]
    np.testing.assert_allclose(schedules.sigmoid_betas(4), expected, rtol=1e-12)


def test_alpha_bar_of_jsd_is_a_straight_line_to_pure_noise():
    schedule = schedules.from_betas(schedules.jsd_betas(200))
    level = schedule.at(jnp.arange(-1, 200))
    line = 1 - np.arange(201) / 200
    np.testing.assert_allclose(level.alpha**2, line, atol=1e-7)
    assert level.alpha[-1] == 0 and level.sigma[-1] == 1


@pytest.mark.parametrize("name", TABLES)
def test_levels_are_the_textbook_products(name):
    """alpha_bar by np.cumprod, not by logarithms."""
    level = schedules.from_betas(TABLES[name]).at(jnp.arange(-1, T))
    alpha_bar = oracles.alpha_bars(TABLES[name])
    np.testing.assert_allclose(level.alpha, np.sqrt(alpha_bar), rtol=3e-7)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - alpha_bar), rtol=3e-7)
    assert (level.alpha[0], level.sigma[0]) == (1, 0)  # t = -1 is the clean end
    np.testing.assert_array_equal(level.t, np.arange(-1, T))


@pytest.mark.parametrize("name", TABLES)
def test_table_inverts(name):
    schedule = schedules.from_betas(TABLES[name])
    t = np.arange(T if TABLES[name][-1] < 1 else T - 1)
    back = schedule.inverse(schedule.at(jnp.asarray(t)).logsnr)
    np.testing.assert_allclose(back, t, atol=2e-3)


def test_inverse_interpolates_between_the_entries():
    schedule = schedules.from_betas(schedules.linear_betas(T))
    logsnr = schedule.at(jnp.array([400, 401])).logsnr
    halfway = schedule.inverse(jnp.mean(logsnr))
    np.testing.assert_allclose(halfway, 400.5, atol=2e-3)


def test_network_may_be_told_scaled_times():
    schedule = schedules.scale_time(
        schedules.from_betas(schedules.cosine_betas(4000)), 0.25
    )
    level = schedule.at(jnp.array([0, 10, 3999]))
    np.testing.assert_array_equal(level.t, [0, 2.5, 999.75])
    plain = schedules.from_betas(schedules.cosine_betas(4000)).at(jnp.array(10))
    assert level.alpha[1] == plain.alpha


@pytest.mark.parametrize(
    ("betas", "said"),
    [
        ([0.1, 0.0, 0.2], "step 2 of 3 is 0"),
        ([0.1, -0.1, 0.2], "step 2 of 3 is -0.1"),
        ([0.1, 1.0, 0.2], "step 2 of 3 is 1"),
        ([0.1, 0.2, 1.1], "step 3 of 3 is 1.1"),
        ([0.1, np.nan, 0.2], "step 2 of 3 is nan"),
        ([0.1], "at least two steps"),
        ([[0.1, 0.2]], "one axis"),
    ],
)
def test_impossible_betas_are_refused(betas, said):
    with pytest.raises(UserError, match=said):
        schedules.from_betas(np.array(betas))


# --- Log-SNR functions ----------------------------------------------------------------


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_levels_preserve_the_variance_and_invert(name):
    schedule = CONTINUOUS[name]
    t = np.linspace(-0.9, 999, 777).astype(np.float32)
    level = jax.jit(schedule.at)(t)
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, atol=3e-7)
    assert np.all(np.diff(level.logsnr) < 0)
    np.testing.assert_allclose(schedule.inverse(level.logsnr), t, atol=3e-2)
    clean = schedule.at(jnp.array([-1, -1.5]))
    assert clean.alpha.tolist() == [1, 1] and clean.sigma.tolist() == [0, 0]


def test_log_snr_is_the_function_given():
    """At u = 1/4, 1/2, 1. Cosine: -2 log tan(a + u (pi/2 - 2 a)), tan a = e^-7.5."""
    t = jnp.array([249.0, 499.0, 999.0])
    linear = schedules.linear_logsnr(8.0, -12.0).at(t)
    np.testing.assert_allclose(linear.logsnr, [3, -2, -12], atol=1e-5)
    cosine = schedules.cosine_logsnr().at(t)
    low = math.atan(math.exp(-7.5))
    quarter = -2 * math.log(math.tan(low + (math.pi / 2 - 2 * low) / 4))
    np.testing.assert_allclose(cosine.logsnr[0], quarter, rtol=1e-5)
    np.testing.assert_allclose(cosine.logsnr[1:], [0, -15], atol=2e-3)
    np.testing.assert_allclose(cosine.alpha[1], math.cos(math.pi / 4), rtol=1e-6)


# --- Levels between the entries -------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_level_of_a_log_snr_meets_the_table(name):
    schedule = schedules.scale_time(schedules.from_betas(TABLES[name]), 0.5)
    table = schedule.at(jnp.arange(T))
    level = schedule.at_logsnr(table.logsnr)
    np.testing.assert_allclose(level.t, table.t, atol=1e-3)
    np.testing.assert_allclose(level.alpha, table.alpha, rtol=2e-6)
    np.testing.assert_allclose(level.sigma, table.sigma, rtol=2e-6)


def test_scales_of_time_multiply():
    """T = 1000 scaled by 1/2 and by 1/4: 799 is told as 799 / 8, from either side."""
    linear = schedules.from_betas(TABLES["linear"])
    twice = schedules.scale_time(schedules.scale_time(linear, 0.5), 0.25)
    assert float(twice.at(jnp.asarray(799)).t) == 99.875
    level = twice.at_logsnr(linear.at(jnp.asarray(799)).logsnr)
    np.testing.assert_allclose(level.t, 99.875, atol=1e-4)
    continuous = schedules.linear_logsnr(6.0, -6.0)
    twice = schedules.scale_time(schedules.scale_time(continuous, 0.5), 0.25)
    np.testing.assert_allclose(twice.at_logsnr(jnp.asarray(0.0)).t, 499 / 8, atol=1e-4)


def test_level_of_a_log_snr_between_and_beyond():
    schedule = schedules.from_betas(TABLES["linear"])
    entries = schedule.at(jnp.array([400, 401])).logsnr
    ends = [jnp.mean(entries), 3.0, -30.0, 30.0, jnp.inf]
    level = schedule.at_logsnr(jnp.array(ends))
    np.testing.assert_allclose(level.t[0], 400.5, atol=2e-3)
    assert level.t[2:].tolist() == [999, 0, -1]
    share = 1 / (1 + math.exp(-3))
    np.testing.assert_allclose(level.alpha[1], math.sqrt(share), rtol=1e-6)
    np.testing.assert_allclose(level.sigma[1], math.sqrt(1 - share), rtol=1e-6)
    assert (level.alpha[-1], level.sigma[-1]) == (1, 0)
    continuous = schedules.linear_logsnr(6.0, -6.0)
    level = continuous.at_logsnr(jnp.array([-9.0, 0.0, 9.0]))
    np.testing.assert_allclose(level.t, [999, 499, -1], atol=1e-3)


# --- Drawing levels -------------------------------------------------------------------


@pytest.mark.parametrize("num_levels", [2, 7, 1000])
def test_every_level_of_a_table_is_drawn_equally_often(num_levels):
    schedule = schedules.from_betas(schedules.constant_betas(num_levels))
    u = (np.arange(8 * num_levels) + 0.5) / (8 * num_levels)
    counts = np.bincount(schedule.draw(jnp.asarray(u, jnp.float32)))
    np.testing.assert_array_equal(counts, np.full(num_levels, 8))
    ends = schedule.draw(jnp.array([0, np.nextafter(np.float32(1), np.float32(0))]))
    assert ends.tolist() == [0, num_levels - 1]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_times_are_drawn_evenly_and_never_clean(name):
    schedule = CONTINUOUS[name]
    u = (np.arange(4000) + 0.5) / 4000
    drawn = np.sort(schedule.draw(jnp.asarray(u, jnp.float32)))
    np.testing.assert_allclose(drawn, u * 1000 - 1, atol=2e-4)
    nearly_one = np.nextafter(np.float32(1), np.float32(0))
    ends = schedule.draw(jnp.array([0, nearly_one]))
    assert ends[0] == 999 and np.all(schedule.at(ends).sigma > 0)


# --- Outside of the levels ------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "t", "message"),
    [
        ("table", 1000, r"t=1000 is outside .* t = -1 \(clean\) to 999"),
        ("table", [3, -2], "t=-2 is outside"),
        ("table", 3.5, "whole t only, and t is float32"),
        ("cosine", 1000.0, "t=1000 is outside"),
        ("cosine", -2.5, "t=-2.5 is outside"),
    ],
)
def test_times_outside_of_a_schedule_are_refused(schedule, t, message):
    """A table would give its last level for them, and a function anything."""
    at = {"table": schedules.from_betas(TABLES["linear"]), **CONTINUOUS}[schedule].at
    with pytest.raises(UserError, match=message):
        at(jnp.asarray(t))


def test_traced_times_outside_of_a_schedule_have_no_level():
    table = schedules.from_betas(TABLES["linear"])
    level = jax.jit(table.at)(jnp.array([-2, -1, 999, 1000]))
    assert np.isnan(level.alpha).tolist() == [True, False, False, True]
    assert np.isnan(level.sigma).tolist() == [True, False, False, True]
    level = jax.jit(CONTINUOUS["cosine"].at)(jnp.array([-1.5, 999.0, 1000.0]))
    assert np.isnan(level.alpha).tolist() == [False, False, True]
    assert level.sigma[0] == 0


# --- Specs ----------------------------------------------------------------------------

SPECS = [
    (schedules.Linear(7, beta_start=0.1, beta_end=0.5), np.linspace(0.1, 0.5, 7)),
    (schedules.Quadratic(5, beta_end=0.25), np.linspace(0.01, 0.5, 5) ** 2),
    (schedules.Constant(4, beta=0.3), [0.3] * 4),
    (schedules.Jsd(4), [1 / 4, 1 / 3, 1 / 2, 1]),
    (
        schedules.Warmup(10, beta_start=0.1, beta_end=0.4, fraction=0.4),
        [0.1, 0.2, 0.3, *[0.4] * 7],
    ),
]


@pytest.mark.parametrize(("spec", "betas"), SPECS, ids=lambda v: type(v).__name__)
def test_a_spec_builds_the_schedule_of_its_betas(spec, betas):
    level = spec.build().at(jnp.arange(spec.num_levels))
    alpha_bar = np.cumprod(1 - np.asarray(betas))
    np.testing.assert_allclose(np.asarray(level.alpha) ** 2, alpha_bar, rtol=2e-6)
    np.testing.assert_array_equal(level.t, np.arange(spec.num_levels))


@pytest.mark.parametrize(
    "spec",
    [
        *(kind(9, 3) for kind in (schedules.Linear, schedules.Jsd, schedules.Cosine)),
        *(schedules.Sigmoid(9, 3, zero_terminal_snr=z) for z in (False, True)),
        *(schedules.Cosine(9, 3, zero_terminal_snr=z) for z in (False, True)),
        schedules.Constant(9, 3, beta=0.999999),  # sqrt(1e-54), which float32 lacks
        schedules.LinearLogSNR(9, 3, 80.0, -80.0),
        schedules.CosineLogSNR(9, 3),
        schedules.Straight(9, 3),
        schedules.Straight(9, 3, shift=3.0, alpha_min=0.01),
    ],
    ids=str,
)
def test_a_spec_knows_whether_it_ends_in_noise_without_a_device(spec):
    level = spec.build().at(jnp.asarray(8))
    assert spec.ends_in_noise == (float(level.alpha) == 0)
    assert float(level.t) == pytest.approx(8 / 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Jsd(1), "num_levels=1 is too small; use 2 or more"),
        (lambda: schedules.Jsd(2_000_000), "num_levels=2000000 is out of range"),
        (lambda: schedules.Jsd(9, 0), "t_range=0 is too small"),
        (
            lambda: schedules.Linear(beta_start=0.0),
            r"beta_start=0.0 is not in \(0, 1\)",
        ),
        (lambda: schedules.Linear(beta_end=1e-5), "beta_start=0.0001 is above beta_en"),
        (lambda: schedules.Warmup(fraction=1.5), r"fraction=1.5 is not in \[0, 1\]"),
        (lambda: schedules.Constant(beta=1.0), r"beta=1.0 is not in \(0, 1\)"),
        (lambda: schedules.LinearLogSNR(9, None, -1.0, 1.0), "are no falling range"),
        (lambda: schedules.CosineLogSNR(logsnr_min=-90.0), "within 80 to -80"),
        (lambda: schedules.Straight(shift=0.0), "shift=0.0 must be positive"),
        (lambda: schedules.Straight(alpha_min=1.0), r"alpha_min=1.0 is not in \[0, 1"),
    ],
)
def test_a_spec_that_no_schedule_has(make, message):
    with pytest.raises(UserError, match=message):
        make()


# --- The straight path ----------------------------------------------------------------


def test_the_straight_path_is_straight():
    """Against the same path of `flows`, written apart, cut at both its ends."""
    for alpha_min in (0.0, 0.02):
        schedule = schedules.straight(50, alpha_min=alpha_min)
        by_hand = flows.straight_path(50, last=1.0 - alpha_min)
        t = jnp.linspace(-1.5, 49.0, 200)
        for mine, theirs in zip(schedule.at(t), by_hand.at(t), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)
        logsnr = jnp.concatenate([jnp.linspace(-9.0, 7.0, 90), jnp.array([jnp.inf])])
        pair = schedule.at_logsnr(logsnr), by_hand.at_logsnr(logsnr)
        for mine, theirs in zip(*pair, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=2e-5)
        u = jnp.linspace(0.0, 0.999, 7)
        np.testing.assert_array_equal(schedule.draw(u), by_hand.draw(u))
        last = schedule.at(49)
        np.testing.assert_allclose(float(last.alpha), alpha_min, rtol=1e-6)


def test_the_shift_is_that_of_stable_diffusion_3():
    """Esser et al. 2024, eq. (23): r is `shift` times that of the even path."""
    even, moved = schedules.straight(100), schedules.straight(100, shift=3.0)
    t = jnp.arange(0, 99)
    u = (np.arange(99) + 1) / 100
    np.testing.assert_allclose(moved.at(t).sigma, 3 * u / (1 + 2 * u), rtol=1e-6)
    ratio = [s.at(t).sigma / s.at(t).alpha for s in (moved, even)]
    np.testing.assert_allclose(ratio[0] / ratio[1], 3, rtol=2e-6)
    cut = schedules.straight(100, shift=3.0, alpha_min=0.01)
    np.testing.assert_allclose(float(cut.at(99).alpha), 0.01, rtol=1e-6)
    for schedule in (moved, cut):
        level = schedule.at(jnp.arange(100.0))
        logsnr = np.asarray(level.logsnr)
        assert np.all(np.diff(logsnr) < 0)
        # A log-SNR near 13 leaves 4 digits of a sigma that is near 0.001.
        np.testing.assert_allclose(schedule.inverse(logsnr), level.t, atol=1e-4)


def test_the_straight_path_refuses_other_times():
    schedule = schedules.straight(10)
    with pytest.raises(UserError, match="outside of the schedule"):
        schedule.at(jnp.float32(10.0))
    assert np.isnan(jax.jit(schedule.at)(jnp.float32(9.5)).alpha)
    assert float(schedule.at(jnp.float32(9.0)).alpha) == 0
