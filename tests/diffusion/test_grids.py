"""Every grid there is for small T, and grids by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import grids, schedules
from ddpm_jax.errors import UserError

TEN = schedules.from_betas(schedules.linear_betas(10))
SPACINGS = [
    grids.linear_steps,
    grids.quadratic_steps,
    grids.leading_steps,
    grids.trailing_steps,
]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_levels", [2, 13])
def test_every_grid_falls_strictly_to_the_clean_end(spacing, num_levels):
    schedule = schedules.from_betas(schedules.linear_betas(num_levels, 1e-3, 0.2))
    for num_steps in range(1, num_levels + 1):
        level = grids.grid(schedule, num_steps, spacing)
        t = np.asarray(level.t)
        assert len(t) == num_steps + 1
        assert np.all(np.diff(t) < 0), (num_steps, t)
        assert t[0] <= num_levels - 1
        if spacing is not grids.leading_steps:
            assert t[0] == num_levels - 1, "the noisiest level is left out"
        assert np.all(np.diff(level.alpha) > 0) and np.all(np.diff(level.sigma) < 0)
        assert (t[-1], level.alpha[-1], level.sigma[-1]) == (-1, 1, 0)
    np.testing.assert_array_equal(t, [*range(num_levels)[::-1], -1])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_times_of_a_thousand_levels_are_distinct(spacing):
    for num_steps in range(1, 1001):
        times = spacing(1000, num_steps)
        assert len(times) == num_steps and np.all(np.diff(times) > 0)
        assert times[0] >= 0 and times[-1] <= 999


def test_grids_by_hand():
    assert grids.linear_steps(10, 4).tolist() == [0, 3, 6, 9]
    assert grids.quadratic_steps(10, 4).tolist() == [0, 1, 4, 9]
    assert grids.leading_steps(10, 4).tolist() == [0, 2, 5, 7]
    assert grids.trailing_steps(10, 5).tolist() == [1, 3, 5, 7, 9]
    # 9 (i/7)^2 rounds to 0 0 1 2 3 5 7 9: neighbours that meet are pushed apart.
    assert grids.quadratic_steps(10, 8).tolist() == [0, 1, 2, 3, 4, 5, 7, 9]
    # Lin et al. 2024, table 2, counts 1..T: trailing ends at 1000, leading at 901.
    assert grids.trailing_steps(1000, 10).tolist() == list(range(99, 1000, 100))
    assert grids.leading_steps(1000, 10).tolist() == list(range(0, 1000, 100))


def test_one_step_starts_from_the_noisiest_level():
    assert grids.linear_steps(10, 1).tolist() == [9]
    assert grids.quadratic_steps(10, 1).tolist() == [9]
    assert grids.trailing_steps(10, 1).tolist() == [9]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [-3, 0, 11])
def test_impossible_numbers_of_steps_are_refused(spacing, num_steps):
    schedule = schedules.from_betas(schedules.linear_betas(10))
    with pytest.raises(UserError, match=f"num_steps={num_steps} .* use 1 to 10"):
        grids.grid(schedule, num_steps, spacing)


# --- Steps by section -----------------------------------------------------------------


def test_sections_by_hand():
    """Thirteen levels in three sections: 0-4, 5-8, 9-12, the noisiest last."""
    assert grids.section_steps([2, 3, 1])(13, 6).tolist() == [0, 4, 5, 7, 8, 9]
    # Strides of 9/4, rounded half to even: 0, 2.25, 4.5, 6.75, 9.
    assert grids.section_steps([5])(10, 5).tolist() == [0, 2, 4, 7, 9]
    assert grids.section_steps([1, 2])(6, 3).tolist() == [0, 3, 5]
    level = grids.grid(TEN, 3, grids.section_steps([1, 2]))
    assert level.t.tolist() == [9, 5, 0, -1]


@pytest.mark.parametrize("counts", [[10, 10, 20], [250], [15, 1, 7, 100], [333] * 3])
@pytest.mark.parametrize("num_levels", [1000, 1003, 4000])
def test_sections_are_those_of_the_published_code(counts, num_levels):
    """Nichol and Dhariwal's rule: the stride (size - 1) / (count - 1) of a section is
    added up, and every place rounded."""
    expected, start = [], 0
    for section, count in enumerate(counts):
        size = num_levels // len(counts) + (section < num_levels % len(counts))
        place = 0.0
        for _ in range(count):
            expected.append(start + round(place))
            place += (size - 1) / (count - 1) if count > 1 else 1
        start += size
    times = grids.section_steps(counts)(num_levels, sum(counts))
    assert times.tolist() == expected
    assert np.all(np.diff(times) > 0) and times[-1] < num_levels


def test_sections_of_all_levels_are_the_full_chain():
    for counts in ([13], [7, 6], [5, 4, 4], [1] * 13):
        times = grids.section_steps(counts)(13, 13)
        assert times.tolist() == list(range(13))
    for count in range(1, 1001):
        times = grids.section_steps([count])(1000, count)
        assert len(np.unique(times)) == count


@pytest.mark.parametrize(
    ("counts", "num_steps", "said"),
    [
        ([3, 6], 9, "sections 3,6 ask for 6 steps of a section of 5 levels"),
        ([5, 2], 8, "sections 5,2 make 7 steps, not num_steps=8"),
        ([5, 0], 5, "use counts of 1 or more"),
        ([], 1, "use counts of 1 or more"),
    ],
)
def test_impossible_sections_are_refused(counts, num_steps, said):
    with pytest.raises(UserError, match=said) as refusal:
        grids.grid(TEN, num_steps, grids.section_steps(counts))
    assert "\n" not in str(refusal.value)


# --- Grids between the entries of a table ---------------------------------------------

CONTINUOUS = {"karras": grids.karras_grid, "logsnr": grids.logsnr_grid}
LINEAR = schedules.from_betas(schedules.linear_betas(1000))


@pytest.mark.parametrize("num_steps", [2, 7, 18])
def test_karras_grid_is_equation_5(num_steps):
    bars = oracles.alpha_bars(schedules.linear_betas(1000))
    r_max, r_min = (np.sqrt((1 - bars[i]) / bars[i]) for i in (1000, 1))
    i = np.arange(num_steps)
    start, end = r_max ** (1 / 7), r_min ** (1 / 7)
    r = (start + i / (num_steps - 1) * (end - start)) ** 7
    level = grids.karras_grid(LINEAR, num_steps)
    np.testing.assert_allclose(level.alpha[:-1], 1 / np.sqrt(1 + r**2), rtol=5e-7)
    np.testing.assert_allclose(level.sigma[:-1], r / np.sqrt(1 + r**2), rtol=5e-7)
    even = grids.karras_grid(LINEAR, num_steps, rho=1.0)
    r = r_max + i / (num_steps - 1) * (r_min - r_max)
    np.testing.assert_allclose(even.sigma / even.alpha, [*r, 0], rtol=2e-6)


def test_logsnr_grid_is_even():
    level = grids.logsnr_grid(LINEAR, 11)
    # The ends of the linear table, from 50-digit decimals: see test_schedules.
    expected = np.linspace(-10.11767318, 9.21024037, 11)
    np.testing.assert_allclose(level.logsnr[:-1], expected, atol=3e-6)


@pytest.mark.parametrize("make", CONTINUOUS.values(), ids=CONTINUOUS)
@pytest.mark.parametrize("name", ["linear", "scaled", "cosine_logsnr"])
def test_continuous_grids_fall_strictly_to_the_clean_end(make, name):
    schedule = {
        "linear": LINEAR,
        "scaled": schedules.scale_time(LINEAR, 0.25),
        "cosine_logsnr": schedules.cosine_logsnr(num_levels=500),
    }[name]
    first, last = schedule.at(jnp.array([schedule.num_levels - 1, 0])).t
    for num_steps in (1, 2, 300):
        level = make(schedule, num_steps)
        t = np.asarray(level.t, np.float64)
        assert len(t) == num_steps + 1 and np.all(np.diff(t) < 0)
        assert np.all(np.diff(level.sigma / level.alpha) < 0)
        assert (level.alpha[-1], level.sigma[-1]) == (1, 0)
        assert t[0] == first and t[-1] == schedule.at(jnp.array(-1)).t
        assert num_steps == 1 or t[-2] == last
        expected = schedule.inverse(level.logsnr[:-1]) * (
            0.25 if name == "scaled" else 1
        )
        np.testing.assert_allclose(t[:-1], expected, atol=0.03)


@pytest.mark.parametrize("make", CONTINUOUS.values(), ids=CONTINUOUS)
def test_continuous_grids_can_be_laid_while_compiling(make):
    plain = make(LINEAR, 9)
    compiled = jax.jit(lambda: make(LINEAR, 9))()
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", CONTINUOUS.values(), ids=CONTINUOUS)
def test_what_no_continuous_grid_can_be_laid_on_is_refused(make):
    with pytest.raises(UserError, match="num_steps=0; use 1 or more"):
        make(LINEAR, 0)
    pure = schedules.from_betas(schedules.jsd_betas(10))
    with pytest.raises(UserError, match=r"ends in pure noise.* such as trailing"):
        make(pure, 5)


def test_continuous_schedules_lay_grids_too():
    level = grids.grid(schedules.linear_logsnr(num_levels=100), 4)
    assert level.t.tolist() == [99, 74, 49, 24, -1]
    np.testing.assert_allclose(level.logsnr[:-1], [-10, -5, 0, 5], atol=1e-5)
    assert (level.alpha[-1], level.sigma[-1]) == (1, 0)


def test_a_start_short_of_the_noisiest_level_needs_unit_variance():
    """On the straight path x at t = 800 of 1000 has 0.68 of the variance of N(0, I)."""
    straight = schedules.straight(1000)
    with pytest.raises(UserError, match=r"starts at t=800, .* is 0.681 .* trailing"):
        grids.grid(straight, 5, grids.leading_steps)
    assert float(grids.grid(straight, 5).sigma[0]) == 1
    for schedule in (schedules.cosine_logsnr(), schedules.linear_logsnr()):
        levels = grids.grid(schedule, 5, grids.leading_steps)
        assert float(levels.t[0]) == 800
