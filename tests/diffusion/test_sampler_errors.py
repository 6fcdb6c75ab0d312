"""Every sampler on every grid of every chain, at 5 to 50 steps: exact, and sound.

The data are N(0, v) and the denoiser is the best one, so that a step multiplies x by a
number and adds noise of a known variance. What comes out is held to those products,
taken in float64; and no method is further from the truth than the one of first order.
The cells and the measuring are those of the program that writes docs/sampler-errors.md,
whose numbers are held to what is found here.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sampler_errors as script
from ddpm_jax.diffusion import karras, ode
from ddpm_jax.diffusion.generate import image_keys
from ddpm_jax.diffusion.samplers import State
from ddpm_jax.diffusion.schedules import Level
from ddpm_jax.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sampler-errors.md").read_text()

VARIANCES = np.array([0.01, 0.25, 1.0, 25.0])
EVERY = script.cells()
CELLS = [cell for cell in EVERY if cell.levels is not None]
DRAWS = 512
DETERMINISTIC = [name for name in script.SAMPLERS if name not in script.RANDOM]
# Of samplers that draw noise, whose runs are long: chains of each kind, few steps.
_KINDS = (
    *("linear", "cosine", "cosine, zero_terminal_snr", "linear_logsnr"),
    "straight, alpha_min 0.001",
)
SOME = [cell for cell in CELLS if cell.chain in _KINDS and cell.num_steps in (5, 20)]


def levels_of(cell):
    return (np.asarray(leaf, np.float64) for leaf in cell.levels[1:])


def gain(alpha, sigma):
    """x_0 predicted of x at a level, per x: float64 [V]."""
    return alpha * VARIANCES / (alpha**2 * VARIANCES + sigma**2)


def flow(cell, heun=False):
    """What `ddim(0)` or `heun` multiplies x by, over the true std: float64 [V].

    DDIM, Song et al. 2021, eq. (12), in x; Heun in y = x / alpha as Karras et al. have
    it, but by its predictions of x_0 on a line in lambda where r falls to under 1/4.
    """
    alpha, sigma = levels_of(cell)
    total = np.ones(len(VARIANCES))
    for a, b, c, d in zip(alpha, sigma, alpha[1:], sigma[1:], strict=False):
        x0 = gain(a, b)
        eps = b / (a**2 * VARIANCES + b**2)
        factor = c * x0 + d * eps
        if heun and d > 0:
            again = factor * d / (c**2 * VARIANCES + d**2)
            if b * c <= 4 * d * a:
                factor = c * (1 / a + (d / c - b / a) * 0.5 * (eps + again))
            else:
                left = a * d / (b * c)  # e^-h
                h = -np.log(left) if left > 0 else np.inf
                factor += c * (1 - (1 - left) / h) * (gain(c, d) * factor - x0)
        total = total * factor
    return total / np.sqrt(VARIANCES)


def law(cell, name):
    """The std of what a sampler with noise ends with, over the true one: [V].

    Ho et al. 2020, eq. (7): the posterior between two levels, with x_0 predicted; DDIM
    with eta 0.5 as in Song et al. 2021, eq. (12) and (16). The large variance of Ho et
    al. is that of x scaled to keep its variance, which x is not on the straight path.
    """
    alpha, sigma = levels_of(cell)
    spread = np.ones(len(VARIANCES))
    for a, b, c, d in zip(alpha, sigma, alpha[1:], sigma[1:], strict=False):
        new = 1 - (a * d / (c * b)) ** 2  # of x_t's noise, what came since s
        x0, eps = gain(a, b), b / (a**2 * VARIANCES + b**2)
        share = 0.25 if name.endswith("0.5") else 1.0
        added = share * d**2 * new
        factor = c * x0 + d * np.sqrt(1 - share * new) * eps
        if name.endswith("large") and d > 0:
            added = b**2 * new * (c**2 + d**2) / (a**2 + b**2)
        spread = factor**2 * spread + added
    return np.sqrt(spread / VARIANCES)


@pytest.fixture(scope="module")
def found():
    return {
        name: script.ratios(sampler, *of_sampler(name))
        for name, sampler in script.SAMPLERS.items()
    }


def of_sampler(name):
    """Cells, variances and rows."""
    return (SOME, VARIANCES, DRAWS) if name in script.RANDOM else (CELLS, VARIANCES, 2)


# A cell's product of 50 factors in float32: each a few roundings, and in the
# coordinates of Karras et al. a sum that loses a factor of 4.
ROUNDING = 50 * 8 * 2.0**-23


@pytest.mark.parametrize("name", ["ddim, eta 0", "euler", "heun"])
def test_methods_of_one_step_are_their_float64_products(found, name):
    expected = np.stack([flow(cell, name == "heun") for cell in CELLS])
    np.testing.assert_allclose(found[name], expected, rtol=10 * ROUNDING)


@pytest.mark.parametrize("name", script.RANDOM[:3])
def test_chains_with_noise_have_their_float64_law(found, name):
    expected = np.stack([law(cell, name) for cell in SOME])
    # 176 numbers: one in 10,000 such tests has one beyond 5 standard errors.
    assert np.max(np.abs(found[name] / expected - 1)) < 5 / np.sqrt(2 * DRAWS)


# What a method of higher order may lose to that of first order on its own grid, in the
# logarithm of the std. A line through two predictions drawn out over a step of log 4,
# the longest that more is drawn over, is off by 0.14 for the worst v and by less for
# most; an unsound step multiplies what it gets wrong by r_t / r_s, tens to thousands.
ROOM = 0.1


@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if n != "ddim, eta 0"])
def test_no_flow_is_further_from_the_truth_than_first_order(found, name):
    first = np.abs(np.log(np.stack([flow(cell) for cell in CELLS])))
    excess = np.abs(np.log(np.abs(found[name]))) - first
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    assert np.all(excess < ROOM), (CELLS[worst[0]][:3], found[name][worst[0]])


@pytest.mark.parametrize("name", ["ddim, eta 0.5", "dpmpp_2m_sde"])
def test_no_noise_leads_further_away_than_that_of_algorithm_2(found, name):
    chance = 5 / np.sqrt(2 * DRAWS)
    first = [
        np.maximum(np.abs(np.log(flow(c))), np.abs(np.log(law(c, "ancestral, small"))))
        for c in SOME
    ]
    assert np.all(np.abs(np.log(found[name])) < np.stack(first) + ROOM + chance)


def test_first_order_only_loses_contrast_and_less_with_more_steps():
    """Small variance and DDIM fall short; the large one adds no more than N(0, 1) has:
    its variance is the right one for that (Ho et al. 2020, section 3.2). The chain
    starts from N(0, 1), where a straight path that keeps some signal has a little less.
    """
    for cell in CELLS:
        most = 1.0005 / min(1.0, float(cell.levels.sigma[0]))
        assert np.all(flow(cell) <= most)
        assert np.all(law(cell, "ancestral, small") <= most)
        large = law(cell, "ancestral, large") * np.sqrt(VARIANCES)
        assert np.all(large[:3] < 1.07) and large[3] < 5
    by_grid = {}
    for cell in CELLS:
        by_grid.setdefault(cell[:2], []).append(flow(cell)[2])
    assert all(np.all(np.diff(losses) > 0) for losses in by_grid.values())


def refused():
    return {cell[:2] for cell in EVERY if cell.levels is None}


def test_only_grids_without_a_start_are_refused():
    ends_in_noise = (
        *("jsd", "linear, zero_terminal_snr", "cosine, zero_terminal_snr"),
        "straight",
    )
    expected = {(c, g) for c in ends_in_noise for g in ("karras", "logsnr")}
    # `leading` starts short of the end, where a straight path has a scale of its own.
    straight = {(c, "leading") for c in script.CHAINS if c.startswith("straight")}
    assert len(straight) == 2
    assert refused() == expected | straight
    for chain in ends_in_noise:
        with pytest.raises(UserError, match="use another, such as unipc"):
            ode.adaptive(script.CHAINS[chain]())


# --- The step of Heun's rule ----------------------------------------------------------


def test_where_the_mean_of_two_slopes_passes_the_error_of_one():
    """The numbers of `karras.heun`: the largest |log| of a step from r = q to r = 1."""
    v = np.logspace(-4, 10, 200001)

    def worst(q):
        true = np.sqrt((v + 1) / (v + q**2))
        one = (v + q) / (v + q**2)
        mean = 1 + (1 - q) / 2 * (q / (v + q**2) + one / (v + 1))
        h = np.log(q)
        x0, again = v / (v + q**2), v / (v + 1) * one
        line = one + (1 - (1 - 1 / q) / h) * (again - x0)
        return [np.log(step / true) for step in (one, mean, line)]

    at_4 = [np.max(np.abs(log)) for log in worst(4.0)]
    at_5 = [np.max(np.abs(log)) for log in worst(5.0)]
    np.testing.assert_allclose(at_4[:2], [0.2231, 0.2187], atol=1e-4)
    np.testing.assert_allclose(at_5[:2], [0.2939, 0.3304], atol=1e-4)
    one, mean, line = worst(1e4)
    np.testing.assert_allclose(-one.min(), np.log(np.cosh(np.log(1e4) / 2)), rtol=1e-6)
    np.testing.assert_allclose(np.exp(mean.max()), 0.19 * 1e4, rtol=0.02)
    assert line.max() < np.log(1.09) and np.abs(line).max() < np.abs(one).max()


def test_pure_noise_is_a_start_like_others():
    """By hand, from alpha 0 to (0.6, 0.8): x_0 is predicted as 0 and x is all noise,
    so ahead lies 0.8 x, and the prediction there is added whole (h is infinite)."""
    variances = jnp.asarray([[0.1], [1.0], [9.0]])
    keys = image_keys(jax.random.key(0), jnp.arange(3))
    s = Level(jnp.float32(500), jnp.float32(0.6), jnp.float32(0.8))
    x = jnp.asarray([[0.3], [-1.2], [0.7]])
    schedule = script.CHAINS["jsd"]()

    @jax.jit
    def drawn(x, alpha):
        t = Level(jnp.float32(999), alpha, jnp.sqrt(1 - alpha**2))

        def end(x, sampler):
            return sampler.step(keys, script.exact(variances), State(x), t, s)[0].x

        churned = karras.heun(karras.Churn(schedule, 10.0, 10))
        slope = jax.grad(lambda x: end(x, karras.heun()).sum())(x)
        return end(x, karras.heun()), end(x, churned), end(x, karras.euler()), slope

    gain = 0.6 * variances / (0.36 * variances + 0.64)
    factor = 0.8 + 0.6 * gain * 0.8
    heun, churned, euler, slope = drawn(x, jnp.float32(0))
    np.testing.assert_allclose(heun, factor * x, rtol=1e-6)
    np.testing.assert_array_equal(churned, heun)  # nothing is noisier than noise
    np.testing.assert_allclose(euler, 0.8 * x, rtol=1e-6)
    np.testing.assert_allclose(slope, factor, rtol=1e-6)  # no infinity on the way
    # The limit is one in 1 / h: h = 69 where alpha is 1e-30.
    near, _, euler, _ = drawn(x, jnp.float32(1e-30))
    np.testing.assert_allclose(near, heun, rtol=1 / 69)
    np.testing.assert_allclose(euler, 0.8 * x, rtol=1e-6)


# --- The page -------------------------------------------------------------------------


def test_the_page_shows_what_is_found(found):
    """Numbers without chance to half of what two decimals leave; others to theirs."""
    shown, chain = {}, None
    for line in PAGE.splitlines():
        chain = line[3:] if line.startswith("## ") else chain
        if chain in script.CHAINS and line.startswith("| `"):
            name, *columns = (cell.strip() for cell in line.strip("|").split("|"))
            for spacing, text in zip(script.SPACINGS, columns, strict=True):
                shown[name.replace("`", ""), chain, spacing] = text
    assert len(shown) == len(script.SAMPLERS) * len(script.CHAINS) * 6
    for (name, *where), text in shown.items():
        cells, _, rows = of_sampler(name)
        mine = [
            (script.STEPS.index(cell.num_steps), value)
            for cell, value in zip(cells, found[name][:, 2], strict=True)
            if [cell.chain, cell.spacing] == where
        ]
        assert (text == "refused") == (tuple(where) in refused())
        read = text.split()
        room = 0.0051 if rows == 2 else 8 / np.sqrt(2 * rows)
        for index, value in mine:
            assert abs(float(read[index]) - value) < room, (name, where)
