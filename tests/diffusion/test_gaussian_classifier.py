"""The closed-form classifier against SciPy's normal densities and Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import multivariate_normal

from ddpm_jax.diffusion.gaussian_classifier import gaussian_classifier
from ddpm_jax.diffusion.guidance import classifier_guidance
from ddpm_jax.diffusion.schedules import Level, from_betas, linear_betas
from ddpm_jax.errors import UserError

NUM, DIMS, CLASSES = 60, 6, 3
RNG = np.random.default_rng(0)
LABELS = np.arange(NUM) % CLASSES
CENTRES = RNG.normal(size=(CLASSES, DIMS))
IMAGES = (
    CENTRES[LABELS] + RNG.normal(size=(NUM, DIMS)) @ RNG.normal(size=(DIMS, DIMS)) / 3
).astype(np.float32)
SCHEDULE = from_betas(linear_betas(1000))


def fitted(images, labels):
    """Means of the classes, and the covariance within them: float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    means = np.stack([flat[labels == label].mean(0) for label in range(CLASSES)])
    off = flat - means[labels]
    return means, off.T @ off / len(flat)


def posterior(x, means, covariance, alpha, sigma, prior):
    """log p(y | x_t) of every class: float64 [B, K]."""
    noised = alpha**2 * covariance + sigma**2 * np.eye(len(covariance))
    scores = np.log(prior) + np.stack(
        [multivariate_normal(alpha * mean, noised).logpdf(x) for mean in means], axis=1
    )
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def noised_points(level, num=7):
    x = IMAGES[:num].astype(np.float64)
    return (
        float(level.alpha) * x
        + float(level.sigma) * np.random.default_rng(1).normal(size=x.shape)
    ).astype(np.float32)


@pytest.mark.parametrize("t", [0, 100, 400, 999])
@pytest.mark.parametrize("prior", [None, [0.2, 0.3, 0.5]])
def test_log_probability_is_that_of_bayes_rule(t, prior):
    means, covariance = fitted(IMAGES, LABELS)
    level = SCHEDULE.at(jnp.array(t))
    x = noised_points(level)
    expected = posterior(
        x,
        means,
        covariance,
        float(level.alpha),
        float(level.sigma),
        prior or [1 / 3] * 3,
    )
    log_prob = gaussian_classifier(IMAGES, LABELS, CLASSES, prior=prior)
    for label in range(CLASSES):
        found = jax.jit(log_prob)(x, level, {"label": jnp.full(7, label)})
        np.testing.assert_allclose(found, expected[:, label], rtol=2e-4, atol=2e-5)
    assert expected.min() < -1  # the classes can be told apart


def test_each_row_has_its_own_level_and_label():
    log_prob = gaussian_classifier(IMAGES, LABELS, CLASSES)
    t, labels = jnp.array([0, 100, 999]), jnp.array([2, 0, 1])
    levels = SCHEDULE.at(t)
    x = jnp.asarray(IMAGES[:3])
    log_prob = jax.jit(log_prob)
    together = log_prob(x, levels, {"label": labels})
    alone = [
        log_prob(x[i : i + 1], SCHEDULE.at(t[i]), {"label": labels[i : i + 1]})[0]
        for i in range(3)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_images_of_any_shape_are_points():
    flat = gaussian_classifier(IMAGES, LABELS, CLASSES)
    shaped = gaussian_classifier(IMAGES.reshape(NUM, 2, 3, 1), LABELS, CLASSES)
    level, cond = SCHEDULE.at(jnp.array(50)), {"label": jnp.array([0, 1, 2, 0, 0])}
    x = noised_points(level, 5)
    np.testing.assert_array_equal(
        jax.jit(flat)(x, level, cond),
        jax.jit(shaped)(x.reshape(5, 2, 3, 1), level, cond),
    )


@pytest.mark.parametrize(("num", "rank"), [(60, 2), (5, 1)])
def test_a_low_rank_shares_out_the_variance_that_is_left(num, rank):
    """The largest directions are kept, the others get their mean variance; five images
    of three classes show two directions of six."""
    images, labels = IMAGES[:num], LABELS[:num]
    means, covariance = fitted(images, labels)
    values, basis = np.linalg.eigh(covariance)
    left = DIMS - rank
    flattened = np.append(np.full(left, values[:left].mean()), values[left:])
    level = SCHEDULE.at(jnp.array(100))
    x = noised_points(level)
    expected = posterior(
        x,
        means,
        basis @ np.diag(flattened) @ basis.T,
        float(level.alpha),
        float(level.sigma),
        [1 / 3] * 3,
    )
    log_prob = gaussian_classifier(images, labels, CLASSES, rank=rank)
    found = jax.jit(log_prob)(x, level, {"label": jnp.ones(7, jnp.int32)})
    np.testing.assert_allclose(found, expected[:, 1], rtol=1e-3, atol=1e-5)
    whole = gaussian_classifier(images, labels, CLASSES)
    other = jax.jit(whole)(x, level, {"label": jnp.ones(7, jnp.int32)})
    assert np.abs(np.asarray(other - found)).max() > 1e-3


def test_guidance_turns_the_unconditional_mixture_into_the_conditional():
    """Data with class covariance exactly v I: d v^(1/2) along each axis, both ways."""
    dims, v = 4, 0.09
    axes = np.sqrt(dims * v) * np.concatenate([np.eye(dims), -np.eye(dims)])
    centres = np.array([[0.5, 0, 0, 0], [-0.3, 0.4, 0, 0.1], [0, -0.5, 0.5, 0]])
    images = np.concatenate([axes + centre for centre in centres])
    labels = np.repeat(np.arange(3), len(axes))
    log_prob = gaussian_classifier(images, labels, 3)
    free = oracles.mixture([1 / 3] * 3, centres, [v] * 3)
    x = np.random.default_rng(2).normal(size=(9, dims)).astype(np.float32)
    label = jnp.arange(9) % 3
    guided = jax.jit(classifier_guidance(free, log_prob, 1.0))
    told_of = [jax.jit(oracles.gaussian(mean, np.full(dims, v))) for mean in centres]
    for t in (20, 300, 700):
        level = SCHEDULE.at(jnp.array(t))
        found = guided(x, level, {"label": label})
        for name in range(3):
            told = told_of[name](x, level)
            rows = np.asarray(label) == name
            np.testing.assert_allclose(found.x0[rows], told.x0[rows], atol=2e-5)
            np.testing.assert_allclose(found.eps[rows], told.eps[rows], atol=2e-5)


def test_the_null_class_says_nothing_and_pure_noise_is_no_division_by_zero():
    log_prob = gaussian_classifier(IMAGES, LABELS, CLASSES)
    free = oracles.gaussian(np.zeros(DIMS), np.ones(DIMS))
    guided = jax.jit(classifier_guidance(free, log_prob, 3.0))
    log_prob = jax.jit(log_prob)
    level, x = SCHEDULE.at(jnp.array(100)), jnp.asarray(IMAGES[:3])
    labels = jnp.array([CLASSES, 0, CLASSES])
    assert log_prob(x, level, {"label": labels})[::2].tolist() == [0, 0]
    found, plain = guided(x, level, {"label": labels}), free(x, level)
    np.testing.assert_allclose(found.x0[::2], plain.x0[::2], rtol=1e-6)
    assert np.abs(np.asarray(found.x0[1] - plain.x0[1])).max() > 0.1
    noise = Level(*map(jnp.float32, (999, 0, 1)))
    np.testing.assert_allclose(
        log_prob(x, noise, {"label": jnp.zeros(3, jnp.int32)}), np.log(1 / 3), rtol=1e-6
    )
    at_noise = guided(x, noise, {"label": jnp.zeros(3, jnp.int32)})
    np.testing.assert_allclose(at_noise.eps, free(x, noise).eps, rtol=1e-6)
    np.testing.assert_allclose(at_noise.x0, free(x, noise).x0, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "prior", "message"),
    [
        (LABELS % 2, None, "class 2 of 3 has no image"),
        (LABELS + 1, None, "labels run from 1 to 3"),
        (LABELS, [1, 2], "give 3 positive numbers"),
        (LABELS, [1, 0, 1], "give 3 positive numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(labels, prior, message):
    with pytest.raises(UserError, match=message):
        gaussian_classifier(IMAGES, labels, CLASSES, prior=prior)
