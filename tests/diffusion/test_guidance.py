"""Guidance against its formulas in float64, and against Bayes' rule on a mixture.

The conditional model of most tests is exact: the data are three Gaussians, each a
class, and the null class is all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion.denoisers import from_network, rescaled
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.guidance import (
    autoguidance,
    classifier_free,
    classifier_guidance,
    dynamic_threshold,
    optimized_scale,
    projected,
    zero_init,
)
from ddpm_jax.diffusion.karras import heun
from ddpm_jax.diffusion.process import EPS, X0, Prediction, V, add_noise
from ddpm_jax.diffusion.samplers import ddim
from ddpm_jax.diffusion.schedules import (
    Level,
    from_betas,
    linear_betas,
    straight,
)

SCHEDULE = from_betas(linear_betas(100, 1e-3, 0.2))
WEIGHTS = np.array([0.2, 0.3, 0.5])
MEANS = np.array([[0.6, -0.2, 0.1], [-0.5, 0.5, 0.0], [0.0, -0.3, -0.7]])
VARIANCES = np.array([0.05, 0.1, 0.02])
NULL = 3
FREE = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
TOLD = [
    oracles.gaussian(m, np.full(3, v)) for m, v in zip(MEANS, VARIANCES, strict=True)
]
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
LABELS = jnp.arange(6, dtype=jnp.int32) % 3


def classes(x_t, level, cond):
    """The exact denoiser of each row's class, or of all."""
    said = [denoise(x_t, level) for denoise in (*TOLD, FREE)]
    row = jnp.arange(len(x_t))
    return jax.tree.map(lambda *leaf: jnp.stack(leaf)[cond["label"], row], *said)


def narrow_in_wide(x_t, level, cond):
    """The exact denoiser of a class N(0, 0.1 I) in data N(0, 0.6 I)."""
    both = [oracles.gaussian(np.zeros(3), np.full(3, v)) for v in (0.1, 0.6)]
    said = [denoise(x_t, level) for denoise in both]
    is_null = (cond["label"] == NULL).astype(jnp.int32)
    row = jnp.arange(len(x_t))
    return jax.tree.map(lambda *leaf: jnp.stack(leaf)[is_null, row], *said)


def null(cond):
    return {**cond, "label": jnp.full_like(cond["label"], NULL)}


def log_prob(x_t, level, cond):
    """The exact log p(y | x_t), up to a constant that no gradient sees."""
    alpha, sigma = oracles.column(level.alpha), oracles.column(level.sigma)
    spread = alpha**2 * VARIANCES + sigma**2  # [., 3]
    distance = jnp.sum((x_t[:, None] - alpha[..., None] * MEANS) ** 2, -1)
    scores = jnp.log(WEIGHTS) - 0.5 * distance / spread - 1.5 * jnp.log(spread)
    chosen = jax.nn.log_softmax(scores)
    return jnp.take_along_axis(chosen, cond["label"][:, None], 1)[:, 0]


def agree(prediction, x_t, level, atol=1e-5):
    np.testing.assert_allclose(
        add_noise(prediction.x0, prediction.eps, level), x_t, atol=atol
    )


@jax.jit
def guided(x_t, level, cond, scale=1.0, low=0.0, high=np.inf, rescale=0.0):
    wrapped = classifier_free(classes, scale, null, low=low, high=high, rescale=rescale)
    return wrapped(x_t, level, cond)


@jax.jit
def by_classifier(x_t, level, cond, scale):
    return classifier_guidance(FREE, log_prob, scale)(x_t, level, cond)


unguided = jax.jit(classes)
COND = {"label": LABELS}
LEVELS = {
    "one": SCHEDULE.at(jnp.array(40)),
    "each": SCHEDULE.at(jnp.array([1, 5, 20, 40, 80, 99])),
}


# --- Classifier-free ------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_scale_one_is_conditional_and_zero_unconditional(level):
    for scale, expected in ((1.0, COND), (0.0, null(COND))):
        found = guided(X, level, COND, scale)
        told = unguided(X, level, expected)
        np.testing.assert_allclose(found.x0, told.x0, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.eps, told.eps, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_guided_noise_is_ho_and_salimans_with_w_one_less(level):
    """Ho and Salimans 2022, eq. (6): (1 + w) eps(x, c) - w eps(x), in float64."""
    told, free = (
        np.asarray(unguided(X, level, cond).eps, np.float64)
        for cond in (COND, null(COND))
    )
    for w in (0.5, 3.0):
        found = guided(X, level, COND, 1.0 + w)
        np.testing.assert_allclose(found.eps, (1 + w) * told - w * free, atol=2e-6)
        agree(found, X, level)
    scales = np.array([0, 1, 2, 3, 4, 5], np.float32)  # one for each row
    each = scales[:, None] * told + (1 - scales[:, None]) * free
    np.testing.assert_allclose(guided(X, level, COND, scales).eps, each, atol=2e-6)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_the_network_is_asked_once_about_both(level):
    """2B rows, each pair with one x_t, one level and one of every other condition."""
    seen = []

    def denoise(x_t, level, cond):
        seen.append((x_t, level, cond))
        return Prediction(x_t, x_t, fraction=cond["label"][:, None] * 1.0)

    cond = {"label": LABELS, "x0": jnp.asarray(2 * X)}
    found = classifier_free(denoise, 3.0, null)(X, level, cond)
    ((x_t, told, given),) = seen
    assert x_t.shape == (12, 3)
    rows = np.asarray(given["label"]) != NULL
    assert rows.sum() == 6
    for side in (rows, ~rows):
        np.testing.assert_array_equal(x_t[side], X)
        np.testing.assert_array_equal(given["x0"][side], 2 * X)
        for leaf, whole in zip(told, level, strict=True):
            np.testing.assert_array_equal(leaf[side] if leaf.ndim else leaf, whole)
    np.testing.assert_array_equal(given["label"][rows], LABELS)
    np.testing.assert_array_equal(found.fraction[:, 0], LABELS)


@pytest.mark.parametrize("kind", [EPS, X0, V], ids=lambda kind: kind.name)
def test_all_parameterizations_are_guided_alike(kind):
    level = LEVELS["each"]

    def network(params, x_t, t, cond):
        # Which level a row has is told by t, as to a real network.
        at = SCHEDULE.at(t.astype(jnp.int32))
        said = classes(x_t, at, cond)
        return kind.target(said.x0, said.eps, at)

    denoise = from_network(network, None, kind)
    found = jax.jit(classifier_free(denoise, 2.5, null, rescale=0.3))(X, level, COND)
    expected = guided(X, level, COND, 2.5, rescale=0.3)
    np.testing.assert_allclose(found.x0, expected.x0, atol=2e-4)
    np.testing.assert_allclose(found.eps, expected.eps, atol=2e-5)


def test_guidance_is_that_of_the_implicit_classifier():
    """eps(x, c) - eps(x) = -sigma grad log p(c | x): both guidances are one."""
    level = LEVELS["each"]
    for scale in (1.0, 2.5):
        free = guided(X, level, COND, scale)
        climbed = by_classifier(X, level, COND, scale)
        np.testing.assert_allclose(free.eps, climbed.eps, atol=2e-5)
        np.testing.assert_allclose(free.x0, climbed.x0, atol=2e-4)


def test_outside_its_interval_guidance_has_scale_one():
    """The interval is open below and closed above: Kynkaanniemi et al. 2024."""
    r = np.array([0.1, 0.5, 0.5001, 2.0, 2.001, 50.0], np.float32)
    level = Level(jnp.zeros(6), jnp.ones(6), jnp.asarray(r))
    found = guided(X, level, COND, 4.0, low=0.5, high=2.0)
    always = guided(X, level, COND, 4.0)
    told = unguided(X, level, COND)
    inside = np.array([2, 3])
    np.testing.assert_allclose(found.x0[inside], always.x0[inside], rtol=1e-6)
    outside = np.array([0, 1, 4, 5])
    np.testing.assert_allclose(found.x0[outside], told.x0[outside], rtol=1e-6)
    assert np.abs(np.asarray(always.x0 - told.x0)).max(1)[1:].min() > 1e-3


def test_pure_noise_is_guided_without_division():
    level = Level(*map(jnp.float32, (99, 0, 1)))
    found = guided(X, level, COND, 3.0, rescale=0.5)
    free = WEIGHTS @ MEANS
    expected = 3 * MEANS[np.asarray(LABELS)] - 2 * free
    plain = guided(X, level, COND, 3.0)
    np.testing.assert_allclose(plain.x0, expected, atol=1e-5)
    np.testing.assert_allclose(found.eps, X, atol=1e-6)
    assert np.isfinite(found.x0).all()


def test_rescaling_restores_the_spread_of_the_conditional():
    """Lin et al. 2024, section 3.4, in float64: phi of the way back."""
    level = LEVELS["each"]
    told = np.asarray(unguided(X, level, COND).x0, np.float64)
    plain = guided(X, level, COND, 6.0)
    x0 = np.asarray(plain.x0, np.float64)
    ratio = (told.std(1) / x0.std(1))[:, None]
    for phi in (0.0, 0.7, 1.0):
        found = guided(X, level, COND, 6.0, rescale=phi)
        expected = phi * ratio * x0 + (1 - phi) * x0
        np.testing.assert_allclose(found.x0, expected, rtol=1e-5, atol=1e-6)
        agree(found, X, level)
    np.testing.assert_allclose(np.std(found.x0, 1), told.std(1), rtol=1e-5)
    assert np.abs(ratio - 1).max() > 0.5


def test_an_image_of_one_value_has_no_spread_to_restore():
    def flat(x_t, level, cond):
        x0 = jnp.zeros_like(x_t)
        return Prediction(x0, x_t / level.sigma)

    found = classifier_free(flat, 3.0, null, rescale=1.0)(X, LEVELS["one"], COND)
    np.testing.assert_array_equal(found.x0, np.zeros_like(X))


# --- Projected guidance ---------------------------------------------------------------


@jax.jit
def projecting(x_t, level, cond, scale, parallel=0.0, max_norm=np.inf, low=0.0):
    wrapped = projected(
        classes, scale, null, parallel=parallel, max_norm=max_norm, low=low
    )
    return wrapped(x_t, level, cond)


def doubles(level, cond=COND):
    """The conditional and the unconditional x_0, float64."""
    both = unguided(X, level, cond).x0, unguided(X, level, null(cond)).x0
    return [np.asarray(x0, np.float64) for x0 in both]


def inner(a, b):
    return np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64), 1)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_projected_guidance_with_all_of_the_parallel_part_is_classifier_free(level):
    for scale in (1.0, 0.0, 4.0):
        found = projecting(X, level, COND, scale, parallel=1.0)
        free = guided(X, level, COND, scale)
        np.testing.assert_allclose(found.x0, free.x0, atol=2e-5)
        np.testing.assert_allclose(found.eps, free.eps, atol=2e-5)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_what_projected_guidance_adds_is_orthogonal_to_the_prediction(level):
    """Sadat et al. 2024, section 4, in float64, by Pythagoras and by inner products."""
    told, free = doubles(level)
    found = projecting(X, level, COND, 5.0)
    push = np.asarray(found.x0, np.float64) - told
    np.testing.assert_allclose(inner(push, told), 0, atol=5e-6)
    lengths = inner(told, told) + 16 * (
        inner(told - free, told - free)
        - inner(told - free, told) ** 2 / inner(told, told)
    )
    np.testing.assert_allclose(inner(found.x0, found.x0), lengths, rtol=1e-5)
    assert np.linalg.norm(push, axis=1).min() > 1e-3
    agree(found, X, level)
    # Half of the parallel part: that half, and nothing else, comes on top.
    half = projecting(X, level, COND, 5.0, parallel=0.5)
    np.testing.assert_allclose(
        inner(half.x0 - found.x0, told), 2.0 * inner(told - free, told), atol=5e-6
    )
    agree(half, X, level)


def test_the_difference_is_shortened_to_its_largest_norm():
    level = LEVELS["each"]
    told, free = doubles(level)
    norms = np.linalg.norm(told - free, axis=1)
    bound = float(np.median(norms))
    found = projecting(X, level, COND, 3.0, parallel=1.0, max_norm=bound)
    push = np.asarray(found.x0, np.float64) - told
    expected = np.minimum(norms, bound)
    assert (expected < norms).sum() == 3
    np.testing.assert_allclose(np.linalg.norm(push, axis=1), 2 * expected, rtol=2e-4)
    np.testing.assert_allclose(
        push / np.linalg.norm(push, axis=1, keepdims=True),
        (told - free) / norms[:, None],
        atol=2e-3,
    )
    agree(found, X, level)


def test_of_centered_gaussians_only_the_parallel_part_guides():
    """N(0, v) in N(0, u): x_0 is along x_t either way, so that guidance of scale w and
    a share p of its parallel part is classifier-free guidance of scale 1 + p (w - 1).
    """
    level = LEVELS["each"]
    for share in (0.0, 0.3, 1.0):
        found = projected(narrow_in_wide, 4.0, null, parallel=share)(X, level, COND)
        free = classifier_free(narrow_in_wide, 1 + 3 * share, null)(X, level, COND)
        np.testing.assert_allclose(found.x0, free.x0, atol=1e-5)
        np.testing.assert_allclose(found.eps, free.eps, atol=1e-5)


def test_outside_its_interval_projected_guidance_is_conditional():
    r = np.asarray(LEVELS["each"].sigma / LEVELS["each"].alpha)
    found = projecting(X, LEVELS["each"], COND, 4.0, low=float(r[2]))
    told, always = (
        unguided(X, LEVELS["each"], COND),
        projecting(X, LEVELS["each"], COND, 4.0),
    )
    np.testing.assert_allclose(found.x0[:3], told.x0[:3], rtol=1e-6)
    np.testing.assert_allclose(found.x0[3:], always.x0[3:], rtol=1e-6)
    assert np.abs(np.asarray(always.x0 - told.x0)).max(1).min() > 1e-3


def test_the_null_class_is_projected_nowhere_and_has_a_gradient():
    def total(x, max_norm):
        wrapped = projected(classes, 4.0, null, max_norm=max_norm)
        return jnp.sum(wrapped(x, LEVELS["each"], null(COND)).x0)

    for bound in (jnp.inf, 0.1):
        value, gradient = jax.value_and_grad(total)(X, bound)
        plain = unguided(X, LEVELS["each"], null(COND)).x0
        np.testing.assert_allclose(value, np.sum(plain), rtol=1e-5)
        assert np.isfinite(gradient).all()


# --- CFG-Zero*: the optimized scale, and steps that stand still -----------------------


@jax.jit
def optimized(x_t, level, cond, scale, high=np.inf):
    return optimized_scale(classes, scale, null, high=high)(x_t, level, cond)


def velocities(level):
    """Of the straight path, conditional and unconditional, float64."""
    both = unguided(X, level, COND), unguided(X, level, null(COND))
    return [
        np.asarray(one.eps, np.float64) - np.asarray(one.x0, np.float64) for one in both
    ]


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_the_optimized_scale_is_that_of_least_squares(level):
    """Fan et al. 2025, section 4: each row's s by NumPy, and what is guided with it."""
    told, free = velocities(level)
    s = np.array(
        [np.linalg.lstsq(f[:, None], t)[0][0] for t, f in zip(told, free, strict=True)]
    )
    assert np.abs(s - 1).min() > 1e-4 and np.abs(s - 1).max() > 0.05
    for scale in (1.0, 3.0):
        found = optimized(X, level, COND, scale)
        v = np.asarray(found.eps - found.x0)
        expected = scale * told + (1 - scale) * s[:, None] * free
        np.testing.assert_allclose(v, expected, atol=5e-5)
        agree(found, X, level)
        # What is amplified is orthogonal to v(null): along it, no scale moves v.
        np.testing.assert_allclose(inner(v, free), inner(told, free), atol=2e-4)


def test_orthogonal_or_equal_velocities_have_the_scale_of_classifier_free():
    """With v(c) - v(null) orthogonal to v(null), or zero, s is 1."""
    level = LEVELS["one"]
    free = np.random.default_rng(5).normal(size=(6, 3))
    off = np.cross(free, X)  # orthogonal to each row of both
    total = level.alpha + level.sigma

    def denoise(x_t, level, cond):
        is_null = (cond["label"] == NULL)[:, None]
        of_rows = jnp.repeat(jnp.float32(free), 2, axis=0)
        push = jnp.repeat(jnp.float32(off), 2, axis=0)
        v = of_rows + jnp.where(is_null, 0.0, push)
        return Prediction(
            (x_t - level.sigma * v) / total, (x_t + level.alpha * v) / total
        )

    for cond in (COND, null(COND)):
        found = optimized_scale(denoise, 4.0, null)(X, level, cond)
        plain = classifier_free(denoise, 4.0, null)(X, level, cond)
        np.testing.assert_allclose(found.x0, plain.x0, atol=2e-5)
        np.testing.assert_allclose(found.eps, plain.eps, atol=2e-5)


def test_centered_gaussians_are_not_guided_at_all():
    """N(0, v) in N(0, u): both velocities are along x, and s v(null) is v(c)."""
    for scale in (0.0, 3.0, 8.0):
        found = optimized_scale(narrow_in_wide, scale, null)(X, LEVELS["each"], COND)
        told = narrow_in_wide(X, LEVELS["each"], COND)
        np.testing.assert_allclose(found.x0, told.x0, atol=1e-5)
        np.testing.assert_allclose(found.eps, told.eps, atol=1e-5)


def test_the_scale_is_optimal_on_the_straight_whatever_the_schedule():
    """Guided there and brought to other levels, or guided at these: the same."""
    level = Level(jnp.float32(0), jnp.float32(0.4), jnp.float32(0.6))
    first = optimized_scale(rescaled(classes, SCHEDULE), 3.0, null)
    second = rescaled(lambda *args: optimized(*args, 3.0), SCHEDULE)
    one, other = (wrapped(X, level, COND) for wrapped in (first, second))
    np.testing.assert_allclose(one.x0, other.x0, atol=2e-5)
    np.testing.assert_allclose(one.eps, other.eps, atol=2e-5)


def test_above_its_interval_the_optimized_scale_is_conditional():
    level = LEVELS["each"]
    r = np.asarray(level.sigma / level.alpha)
    found = optimized(X, level, COND, 4.0, float(r[3] * 1.01))
    always, told = optimized(X, level, COND, 4.0), unguided(X, level, COND)
    np.testing.assert_allclose(found.x0[:4], always.x0[:4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.x0[4:], told.x0[4:], rtol=1e-4, atol=1e-5)


def test_zero_init_leaves_out_the_first_steps():
    """On the straight path: x as it was, then the chain from there, bit for bit."""
    keys = image_keys(jax.random.key(0), jnp.arange(6))
    levels = grid(straight(100), 10)
    middle = jnp.sqrt(
        levels.sigma[2] / levels.alpha[2] * levels.sigma[3] / levels.alpha[3]
    )

    def draw(denoise, x, levels):
        return generate(
            keys, ddim(0.0), denoise, x, levels, record=lambda info: info.x_s,
            num_records=len(levels.alpha) - 1,
        )  # fmt: skip

    x, chain = draw(zero_init(FREE, middle), X, levels)
    np.testing.assert_allclose(chain[2], X, atol=1e-6)
    shorter = jax.tree.map(lambda leaf: leaf[3:], levels)
    expected, _ = draw(FREE, X, shorter)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert np.abs(np.asarray(x - draw(FREE, X, levels)[0])).max() > 0.05


def test_standing_still_is_a_prediction_of_x_at_any_level():
    level = LEVELS["each"]
    found = zero_init(FREE, 0.0)(X, level)
    np.testing.assert_array_equal(found.x0, found.eps)
    agree(found, X, level)
    noise = Level(*map(jnp.float32, (99, 0, 1)))
    np.testing.assert_array_equal(zero_init(FREE, 1e6)(X, noise).eps, X)


# --- Autoguidance ---------------------------------------------------------------------


def test_autoguidance_of_scale_one_is_the_model_and_zero_the_worse_one():
    level = LEVELS["each"]
    worse = oracles.mixture(WEIGHTS, MEANS, 3 * VARIANCES)
    for scale, expected in ((1.0, FREE), (0.0, worse)):
        found = jax.jit(autoguidance(FREE, worse, scale))(X, level, None)
        plain = jax.jit(expected)(X, level)
        np.testing.assert_allclose(found.x0, plain.x0, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.eps, plain.eps, rtol=1e-6, atol=1e-7)


def test_a_chain_with_autoguidance_extrapolates_the_logarithm_of_the_variance():
    """Of models of N(0, v) and N(0, u), scale w samples N(0, v (v/u)^(w-1)).

    dx/dsigma = x (w sigma/(v + sigma^2) + (1 - w) sigma/(u + sigma^2)) with alpha = 1,
    so that x is multiplied, from sigma to 0, by the square root of
    (v/(v + sigma^2))^w (u/(u + sigma^2))^(1-w).
    """
    v, u, most = 0.3, 0.5, 40.0
    model, worse = (oracles.gaussian(np.zeros(3), np.full(3, s)) for s in (v, u))
    sigma = jnp.append(jnp.geomspace(most, 1e-3, 400), 0.0)
    levels = Level(jnp.zeros(401), jnp.ones(401), sigma)
    keys = image_keys(jax.random.key(0), jnp.arange(6))
    for w in (1.0, 2.0, 3.5):
        found, _ = generate(
            keys, heun(), autoguidance(model, worse, w), most * X, levels
        )
        square = (v / (v + most**2)) ** w * (u / (u + most**2)) ** (1 - w)
        np.testing.assert_allclose(found, square**0.5 * most * X, rtol=1e-3)
        np.testing.assert_allclose(
            found, (v * (v / u) ** (w - 1)) ** 0.5 * X, rtol=2e-3
        )


def test_a_model_that_errs_half_as_much_as_its_worse_version_is_set_right():
    """With means m + 2 d and m + d, scale 2 has the mean m: the errors cancel."""
    m, d = np.array([0.3, -0.2, 0.1]), np.array([0.2, 0.1, -0.4])
    right, model, worse = (
        oracles.gaussian(m + k * d, np.full(3, 0.2)) for k in (0, 1, 2)
    )
    found = autoguidance(model, worse, 2.0)(X, LEVELS["each"], None)
    expected = right(X, LEVELS["each"])
    np.testing.assert_allclose(found.x0, expected.x0, atol=1e-5)
    np.testing.assert_allclose(found.eps, expected.eps, atol=1e-5)


def test_autoguidance_conditions_both_and_keeps_the_models_variance():
    level = LEVELS["each"]
    r = np.asarray(level.sigma / level.alpha)

    def of(shift):
        def denoise(x_t, level, cond):
            found = classes(x_t + shift, level, cond)
            return found._replace(fraction=jnp.full_like(x_t, shift))

        return denoise

    to, away = (of(shift)(X, level, COND) for shift in (0.25, 0.75))
    wrapped = autoguidance(of(0.25), of(0.75), 3.0, low=float(r[2]))
    found = wrapped(X, level, COND)
    np.testing.assert_array_equal(found.fraction, to.fraction)
    np.testing.assert_allclose(found.x0[3:], (3 * to.x0 - 2 * away.x0)[3:], atol=2e-5)
    np.testing.assert_allclose(found.x0[:3], to.x0[:3], rtol=1e-6)


# --- Classifier guidance --------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_the_exact_classifier_makes_the_model_conditional(level):
    found, told = by_classifier(X, level, COND, 1.0), unguided(X, level, COND)
    np.testing.assert_allclose(found.eps, told.eps, atol=2e-5)
    np.testing.assert_allclose(found.x0, told.x0, atol=2e-4)
    agree(found, X, level)


def test_a_guided_chain_is_the_conditional_chain():
    """A hundred stochastic steps with the exact classifier and with the exact model."""
    keys = image_keys(jax.random.key(0), jnp.arange(6))

    def draw(denoise):
        x_init, levels = initial_noise(keys, (3,)), grid(SCHEDULE, 100)
        return generate(keys, ddim(1.0), denoise, x_init, levels, cond=COND)[0]

    one, other = draw(classifier_guidance(FREE, log_prob, 1.0)), draw(classes)
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.abs(np.asarray(one - draw(lambda *args: FREE(*args)))).max() > 0.3


def test_one_program_serves_every_scale_interval_and_label():
    traces = []

    @jax.jit
    def draw(keys, scale, high, rescale, eta, labels):
        traces.append(None)
        return generate(
            keys,
            ddim(eta),
            classifier_free(classes, scale, null, high=high, rescale=rescale),
            initial_noise(keys, (3,)),
            grid(SCHEDULE, 5),
            cond={"label": labels},
        )[0]

    keys = image_keys(jax.random.key(0), jnp.arange(6))
    plain = draw(keys, 1.0, 9.0, 0.0, 0.0, LABELS)
    seen = [plain] + [
        draw(keys, *options)
        for options in (
            (3.0, 9.0, 0.0, 0.0, LABELS),
            (3.0, 1.0, 0.0, 0.0, LABELS),
            (3.0, 9.0, 0.7, 0.0, LABELS),
            (1.0, 9.0, 0.0, 1.0, LABELS),
            (1.0, 9.0, 0.0, 0.0, LABELS[::-1]),
        )
    ]
    assert len(traces) == 1
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert np.abs(np.asarray(one - other)).max() > 1e-3

    expected, _ = generate(
        keys,
        ddim(0.0),
        classes,
        initial_noise(keys, (3,)),
        grid(SCHEDULE, 5),
        cond=COND,
    )
    np.testing.assert_allclose(plain, expected, atol=1e-5)


# --- Dynamic thresholding -------------------------------------------------------------


@pytest.mark.parametrize("percentile", [0.9, 0.995, 1.0])
def test_dynamic_threshold_is_the_percentile_of_each_image(percentile):
    rng = np.random.default_rng(3)
    x0 = rng.normal(size=(4, 8, 8, 3)) * np.array([0.1, 0.5, 1, 3])[:, None, None, None]
    level = SCHEDULE.at(jnp.array([10, 30, 50, 99]))
    eps = rng.normal(size=x0.shape)
    x_t = add_noise(jnp.float32(x0), jnp.float32(eps), level)

    def saturated(x_t, level, cond):
        return Prediction(jnp.float32(x0), jnp.float32(eps))

    found = dynamic_threshold(saturated, percentile)(x_t, level, None)
    s = np.maximum(np.quantile(np.abs(x0).reshape(4, -1), percentile, axis=1), 1)
    assert s[0] == 1 and s[3] > 3
    s = s[:, None, None, None]
    np.testing.assert_allclose(found.x0, np.clip(x0, -s, s) / s, atol=1e-6)
    agree(found, x_t, level)
    assert np.abs(found.x0).max() <= 1
