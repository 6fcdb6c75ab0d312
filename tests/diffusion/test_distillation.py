"""Score distillation against closed forms, quadrature, and what is traced of it."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import distillation, guidance, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.process import EPS
from ddpm_jax.diffusion.schedules import Level

MEAN = np.array([0.3, -0.5, 0.1])
VALUES = np.array([0.04, 1.0, 2.5])  # of the covariance, which is diagonal
GAUSSIAN = oracles.gaussian(MEAN, VALUES)
COSINE = schedules.Cosine(200).build()
X = jnp.array([[1.2, 0.4, -0.8]])


def levels(schedule, shares):
    """Levels at given shares of a table."""
    return schedule.at(jnp.asarray([int(s * schedule.num_levels) for s in shares]))


def mirrored(key, num, like):
    """Noise and its mirror image, [2 num, ...]: what is linear in it cancels."""
    eps = jax.random.normal(key, (num, *like.shape[1:]))
    return jnp.concatenate([eps, -eps])


def rows(x, num):
    return jnp.broadcast_to(x, (num, *x.shape[1:]))


# --- Gaussian data --------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_the_expected_gradient_on_gaussian_data(share):
    level = jax.tree.map(lambda leaf: leaf[0], levels(COSINE, [share]))
    eps = mirrored(jax.random.key(0), 8, X)
    found = distillation.gradient_at(GAUSSIAN, rows(X, 16), eps, level)
    a, s = float(level.alpha), float(level.sigma)
    wanted = s**2 * a * s / (a**2 * VALUES + s**2) * (np.asarray(X)[0] - MEAN)
    np.testing.assert_allclose(found.mean(0), wanted, atol=3e-6)
    at_mean = distillation.gradient_at(
        GAUSSIAN, rows(jnp.asarray(MEAN[None], jnp.float32), 16), eps, level
    )
    np.testing.assert_allclose(at_mean.mean(0), 0.0, atol=3e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mean_and_variance_of_its_estimate(seed):
    num = 20_000
    # One level of the table: shares [0.5, 0.5 + a bit) are t = 100.
    found = distillation.score_distillation(
        jax.random.key(seed), GAUSSIAN, COSINE, rows(X, num), times=(0.501, 0.502)
    )
    level = COSINE.at(jnp.asarray(100))
    a, s = float(level.alpha), float(level.sigma)
    noised = a**2 * VALUES + s**2
    mean = s**2 * a * s / noised * (np.asarray(X)[0] - MEAN)
    variance = (s**2 * a**2 * VALUES / noised) ** 2
    found = np.asarray(found, np.float64)
    # Five standard errors; of a variance of Gaussian draws it is sqrt(2 / num).
    assert (np.abs(found.mean(0) - mean) < 5 * (variance / num) ** 0.5).all()
    assert (np.abs(found.var(0) / variance - 1) < 5 * (2 / num) ** 0.5).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_estimate_is_the_sum_over_levels(seed):
    num = 40_000
    found = distillation.score_distillation(
        jax.random.key(seed), GAUSSIAN, COSINE, rows(X, num), times=(0.1, 0.9)
    )
    level = COSINE.at(jnp.arange(20, 180))  # t / T in [0.1, 0.9)
    a, s = (np.asarray(leaf, np.float64)[:, None] for leaf in level[1:])
    wanted = s**3 * a / (a**2 * VALUES + s**2) * (np.asarray(X)[0] - MEAN)
    found = np.asarray(found, np.float64)
    error = np.abs(found.mean(0) - wanted.mean(0))
    assert (error < 5 * found.std(0) / num**0.5).all()
    # The whole range of the schedule would give another number.
    assert (5 * found.std(0) / num**0.5 < 0.1 * np.abs(wanted.mean(0))).all()


def test_descent_ends_at_the_mean():
    @jax.jit
    def descend(x, key):
        def step(x, key):
            gradient = distillation.score_distillation(key, GAUSSIAN, COSINE, x)
            return x - 0.3 * gradient, None

        return jax.lax.scan(step, x, jax.random.split(key, 300))[0]

    for seed in range(3):
        ends = np.asarray(descend(rows(X, 400), jax.random.key(seed)), np.float64)
        error = np.abs(ends.mean(0) - MEAN)
        # Rows are independent: five standard errors, and what is left of the start.
        assert (error < 5 * ends.std(0) / 20 + 0.01).all()


# --- Guidance -------------------------------------------------------------------------


def of_classes(variance):
    """Classes N(cond, variance), of which all together count as N(0, variance)."""

    def denoise(x_t, level, cond):
        noised = level.alpha**2 * variance + level.sigma**2
        off = (x_t - level.alpha * cond) / noised
        return oracles.Prediction(
            cond + level.alpha * variance * off, level.sigma * off
        )

    return denoise


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("variance", [1.0, 0.2])
def test_the_optimum_under_guidance_is_scale_times_the_class(scale, variance):
    center = jnp.array([[0.4, -0.2]])
    guided = guidance.classifier_free(of_classes(variance), scale, jnp.zeros_like)
    eps = mirrored(jax.random.key(1), 4, center)
    for share in (0.1, 0.5, 0.9):
        level = jax.tree.map(lambda leaf: leaf[0], levels(COSINE, [share]))
        cond = rows(center, 8)

        def mean_at(x, level=level, cond=cond):
            found = distillation.gradient_at(guided, rows(x, 8), eps, level, cond)
            return np.asarray(found).mean(0)

        np.testing.assert_allclose(
            mean_at(scale * center), 0.0, atol=2e-6 * (1 + scale)
        )
        # And it is a minimum: beside it the gradient points away from it.
        assert (mean_at(scale * center + 0.1) > 1e-5).all()
        assert (mean_at(scale * center - 0.1) < -1e-5).all()


# --- A mixture on the line ------------------------------------------------------------

MIXTURE = ([0.7, 0.3], [[-0.6], [1.0]], [0.04, 0.09])
SHARES = (0.1, 0.25, 0.45, 0.65, 0.85)


def weighted_kl(x, pairs):
    """Mean over levels of w sigma / alpha KL(N(alpha x, sigma^2) || p_t), as x."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    total = 0.0
    for a, s in pairs:
        z = a * np.asarray(x)[..., None] + s * nodes
        log_q = -0.5 * nodes**2 - np.log(s) - 0.5 * np.log(2 * np.pi)
        log_p = oracles.mixture_log_density(z.reshape(-1, 1), *MIXTURE, a, s)
        total += s**2 * s / a * (log_q - log_p.reshape(z.shape)) @ weights
    return total / len(pairs)


def pairs_of(*shares):
    """(alpha, sigma) of levels, as numbers."""
    level = levels(COSINE, shares)
    return np.stack([level.alpha, level.sigma], -1).astype(np.float64)


def mixture_gradient(x, level):
    """E_eps of the gradient by the same quadrature, mean over levels."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    num = len(level.t)
    eps = jnp.tile(jnp.asarray(nodes, jnp.float32), num)[:, None]
    each = jax.tree.map(lambda leaf: jnp.repeat(leaf, 120), level)
    found = distillation.gradient_at(
        oracles.mixture(*MIXTURE), jnp.full((120 * num, 1), x), eps, each
    )
    return np.asarray(found, np.float64).reshape(num, 120) @ weights


def test_it_is_the_gradient_of_the_weighted_kl():
    level, pairs = levels(COSINE, SHARES), pairs_of(*SHARES)
    for x in (-1.5, -0.6, 0.2, 0.5, 1.3):
        step = 1e-4
        ahead, behind = (weighted_kl(x + sign * step, pairs) for sign in (1, -1))
        found = mixture_gradient(x, level).mean()
        assert found == pytest.approx((ahead - behind) / (2 * step), abs=3e-6), x


def test_its_optimum_is_a_mode_of_noised_data_and_not_the_mean():
    grid = np.linspace(-1.5, 1.5, 601)

    def best(*shares):
        return grid[np.argmin(weighted_kl(grid, pairs_of(*shares)))]

    mean = 0.7 * -0.6 + 0.3 * 1.0
    # Under little noise the heavier component alone, under much the mean of all; over
    # all levels neither, and the gradient changes its sign there.
    assert best(0.05) == pytest.approx(-0.6, abs=0.01)
    assert best(0.95) == pytest.approx(mean, abs=0.01)
    everywhere = best(*SHARES)
    assert -0.5 < everywhere < mean - 0.1
    slopes = [
        mixture_gradient(everywhere + off, levels(COSINE, SHARES)).mean()
        for off in (-0.02, 0.02)
    ]
    assert slopes[0] < 0 < slopes[1]


# --- Levels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [COSINE, schedules.straight(200), schedules.linear_logsnr(num_levels=200)],
    ids=["table", "straight", "logsnr"],
)
def test_times_are_shares_from_the_clean_end(schedule):
    for low, high in ((0.0, 0.1), (0.3, 0.5), (0.9, 1.0)):
        level = distillation.sample_levels(
            jax.random.key(0), 2000, schedule, (low, high)
        )
        t = np.asarray(level.t)
        assert low * 200 - 1 - 1e-3 <= t.min() and t.max() <= high * 200 - 1 + 1e-3
        # Evenly so: the mean of an even draw, within five standard errors and half a
        # level of a table.
        middle = (low + high) / 2 * 200 - 1
        width = (high - low) * 200
        assert abs(t.mean() - middle) < 5 * width / 12**0.5 / 2000**0.5 + 0.5
        assert (np.asarray(level.sigma) > 0).all()


def test_times_may_be_traced():
    @jax.jit
    def draw(high):
        return distillation.sample_levels(
            jax.random.key(0), 100, COSINE, (0.02, high)
        ).t.max()

    assert float(draw(0.5)) < 100 < float(draw(0.9))


# --- What is differentiated -----------------------------------------------------------

KERNEL = jnp.array([[0.3, -0.2], [0.5, 0.7]])


def network(params, x, t, cond):
    del t, cond
    return jnp.tanh(x @ params) @ params.T


def count(jaxpr, name):
    """Count equations of a primitive, also within other equations."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += count(inner, name)
    return total


def test_the_network_runs_forward_once_and_never_backward():
    denoise = from_network(network, KERNEL, EPS)

    def loss(scale):
        x = jnp.sin(scale) * jnp.ones((3, 2))  # stands for a renderer
        gradient = distillation.score_distillation(
            jax.random.key(0), denoise, COSINE, x
        )
        return distillation.with_gradient(x, gradient)

    traced = jax.make_jaxpr(jax.grad(loss))(0.4).jaxpr
    # A backward pass of a matrix product is two more of them.
    assert count(traced, "dot_general") == 2
    assert count(traced, "tanh") == 1


def test_it_reaches_what_made_the_image_by_the_chain_rule():
    denoise = from_network(network, KERNEL, EPS)
    key = jax.random.key(5)

    def render(theta):
        return jnp.stack([theta[0] * theta[1], jnp.sin(theta[1])])[None]

    def loss(theta):
        x = render(theta)
        gradient = distillation.score_distillation(key, denoise, COSINE, x)
        return distillation.with_gradient(x, gradient)

    theta = jnp.array([0.7, 0.4])
    alone = distillation.score_distillation(key, denoise, COSINE, render(theta))
    slopes = jax.jacfwd(render)(theta)  # [1, 2, 2]
    wanted = jnp.einsum("bi,bij->j", alone, slopes)
    np.testing.assert_allclose(jax.grad(loss)(theta), wanted, rtol=1e-5)
    # The parameters of the prior get nothing.
    of_network = jax.grad(
        lambda kernel: distillation.with_gradient(
            X[:, :2],
            distillation.score_distillation(
                key, from_network(network, kernel, EPS), COSINE, X[:, :2]
            ),
        )
    )(KERNEL)
    np.testing.assert_array_equal(of_network, 0.0)


def test_weights_of_levels_by_hand():
    level = Level(jnp.array(3.0), jnp.array(0.6), jnp.array(0.8))
    assert float(distillation.noise_variance(level)) == pytest.approx(0.64)
    assert float(distillation.even(level)) == 1.0
    eps = jnp.ones((1, 3))
    heavy = distillation.gradient_at(GAUSSIAN, X, eps, level, weight=distillation.even)
    light = distillation.gradient_at(GAUSSIAN, X, eps, level)
    np.testing.assert_allclose(light, 0.64 * heavy, rtol=1e-6)
