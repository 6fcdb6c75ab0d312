"""The ideas of unCLIP where all is known: a prior that samples, a code of images.

Embeddings are a mixture of points on a sphere, images Gaussian around a mean that an
embedding decides; the best denoisers of both have closed forms.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy import stats

from ddpm_jax.codecs import Params
from ddpm_jax.codecs.arrays import arrays
from ddpm_jax.codecs.embeddings import scaled, unit
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.process import X0, Prediction, add_noise
from ddpm_jax.diffusion.samplers import ancestral, ddim
from ddpm_jax.diffusion.schedules import cosine_betas, from_betas
from ddpm_jax.networks.ports import Ports, TokenSequence
from ddpm_jax.networks.prior import PriorTransformer
from ddpm_jax.sampling.edits import OTHER_EMBEDDING, Edit, edit_plan
from ddpm_jax.sampling.plan import Model, run_plan

D, K, N = 8, 4, 4000
SCHEDULE = from_betas(cosine_betas(200))
LEVELS = grid(SCHEDULE, 50)


def points(seed, num_texts=1):
    """Unit vectors that the images of each text embed as: [texts, K, D]."""
    drawn = np.random.default_rng(seed).normal(size=(num_texts, K, D))
    drawn[..., 0] += 1.5  # they have something in common
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def sampled(denoise, seed, count=N, sampler=None, levels=LEVELS, cond=None):
    keys = image_keys(jax.random.key(seed), jnp.arange(count))
    x, _ = jax.jit(
        lambda keys: generate(
            keys,
            sampler or ancestral(),
            denoise,
            initial_noise(keys, (D,)),
            levels,
            cond=cond,
        )
    )(keys)
    return np.asarray(x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_perfect_prior_scores_the_square_of_what_regression_scores(seed):
    """For unit vectors of conditional mean m: E cos = |m|^2 of a sample, |m| of m."""
    (centers,) = points(seed)
    mean = centers.mean(axis=0)
    length = np.linalg.norm(mean)
    assert 0.3 < length < 0.95
    denoise = mixture_denoiser(scaled(centers))
    x = sampled(denoise, seed)
    # The denoiser is exact: frequencies and lengths are those of the points.
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), np.sqrt(D), rtol=0.02)
    nearest = (unit(x) @ centers.T).argmax(axis=1)
    assert stats.chisquare(np.bincount(nearest, minlength=K)).pvalue > 1e-3
    own = centers[np.random.default_rng(seed).integers(K, size=N)]
    found = np.mean(np.sum(unit(x) * own, axis=1))
    assert abs(found - length**2) < 0.03
    # One step from noise alone predicts the mean, that is regression.
    one = sampled(denoise, seed, 500, ddim(0.0), grid(SCHEDULE, 1))
    np.testing.assert_allclose(one, np.tile(scaled(mean), (500, 1)), atol=0.2)
    regression = np.mean(np.sum(unit(one) * own[:500], axis=1))
    assert abs(regression - length) < 0.03
    assert regression > found + 0.05


def test_a_trained_prior_samples_and_its_one_step_is_regression():
    """Three networks at once, each of its own points and three texts."""
    seeds, num_texts, count, steps = (0, 1, 2), 3, 600, 600
    net = PriorTransformer(out_channels=D, width=32, depth=1, num_heads=2)
    centers = np.stack([points(seed + 10, num_texts) for seed in seeds])
    tokens = jnp.eye(num_texts)[:, None]  # a token a text
    mask = jnp.ones((num_texts, 1), bool)

    def network(params, x_t, t, text, dropout_key=None):
        del dropout_key
        ports = Ports(tokens=TokenSequence(tokens[text], mask[text]))
        return net.apply({"params": params}, x_t, t, ports)

    def init(key):
        text = jnp.zeros(2, int)
        ports = Ports(tokens=TokenSequence(tokens[text], mask[text]))
        return net.init(key, jnp.zeros((2, D)), jnp.zeros(2), ports)["params"]

    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def train(key, centers):
        def loss(params, key):
            of_text, of_point, of_time, of_noise = jax.random.split(key, 4)
            text = jax.random.randint(of_text, (128,), 0, num_texts)
            point = jax.random.randint(of_point, (128,), 0, K)
            x0 = scaled(centers[text, point])
            index = jax.random.randint(of_time, (128,), 0, SCHEDULE.num_levels)
            level = SCHEDULE.at(index)
            x_t = add_noise(x0, jax.random.normal(of_noise, x0.shape), level)
            return jnp.mean((network(params, x_t, level.t, text) - x0) ** 2)

        def step(state, key):
            params, memory = state
            updates, memory = optimizer.update(jax.grad(loss)(params, key), memory)
            return (optax.apply_updates(params, updates), memory), None

        params = init(key)
        start = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
        return params

    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    trained = jax.jit(jax.vmap(train))(keys, jnp.asarray(centers, jnp.float32))
    text = np.arange(count) % num_texts
    for i, seed in enumerate(seeds):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], trained)
        denoise = from_network(network, params, X0, learns_variance=False)
        # The mean cosine of a row with the embeddings of true images, all K alike, is
        # its product with their mean. With one drawn for each row the exact denoiser
        # is off by 0.03 as well, by the error of the mean of 600 rows.
        means = centers[i].mean(axis=1)[text]
        lengths = np.linalg.norm(means, axis=1)
        x = unit(sampled(denoise, seed, count, cond=jnp.asarray(text)))
        found = np.sum(x * means, axis=1).mean()
        one = sampled(
            denoise, seed, count, ddim(0.0), grid(SCHEDULE, 1), jnp.asarray(text)
        )
        regression = np.sum(unit(one) * means, axis=1).mean()
        assert abs(found - np.mean(lengths**2)) < 0.03
        assert abs(regression - np.mean(lengths)) < 0.03
        assert regression > found + 0.05


# --- The code of an image: its embedding, and the noise -------------------------------

SHAPE, STD = (4, 4, 1), 0.2
MEANS = np.random.default_rng(3).normal(size=(D, *SHAPE)) / 2


def decoder():
    """An exact decoder: images are N(z . MEANS, STD^2), z the rows of a condition."""

    def denoiser(params):
        del params

        def denoise(x_t, level, cond=None):
            mean = jnp.tensordot(cond[NAME], jnp.asarray(MEANS, jnp.float32), 1)
            inner = oracles.gaussian(np.zeros(16), np.full(16, STD**2))
            shifted = x_t - oracles.column(level.alpha, 4) * mean
            found = inner(shifted, level)
            return Prediction(found.x0 + mean, found.eps)

        return denoise

    def condition(params, given):
        del params
        return {NAME: given[NAME]}

    levels = grid(SCHEDULE, 100)
    codec = arrays(SHAPE)
    return Model(codec, levels, lambda: ddim(0.0), denoiser, condition)


def embeddings(count, seed):
    drawn = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def images_of(z, seed):
    noise = np.random.default_rng(seed).normal(size=(len(z), *SHAPE))
    return (np.tensordot(z, MEANS, 1) + STD * noise).astype(np.float32)


def run(mode, rows, method="encode", **options):
    plan = edit_plan(Edit(mode, method, **options), decoder())
    keys = image_keys(jax.random.key(0), jnp.arange(len(rows["image"])))
    given = jax.tree.map(jnp.asarray, rows)
    return np.asarray(run_plan(plan, Params(()), keys, given).items)


def psnr(a, b):
    return 10 * np.log10(4 / np.mean((a - b) ** 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_embedding_and_noise_are_a_code_of_the_image(seed):
    z = embeddings(6, seed)
    image = images_of(z, seed)
    decoded = run("encode", {"image": image, NAME: z}, "ddim", strength=0.95)
    assert psnr(decoded, image) > 30
    # At its ends a text difference is the image, and an interpolation both.
    other = embeddings(6, seed + 10)
    rows = {"image": image, NAME: z, OTHER_EMBEDDING: other}
    start = run("text-diff", {**rows, "share": np.zeros(6, np.float32)}, strength=0.95)
    np.testing.assert_allclose(start, decoded, atol=2e-3)
    ends = {"other": images_of(other, seed + 20), "share": np.ones(6, np.float32)}
    end = run("interpolate", {**rows, **ends}, strength=0.95)
    assert psnr(end, ends["other"]) > 30


def test_turning_the_embedding_turns_the_mean_and_keeps_the_noise():
    """x0 = mean(z) + STD (x_T - alpha mean) / ...: at strength 1 the noise is kept."""
    z, other = embeddings(4, 0), embeddings(4, 1)
    rows = {"image": images_of(z, 0), NAME: z, OTHER_EMBEDDING: other}
    share = np.full(4, 0.3, np.float32)
    turned = run("text-diff", {**rows, "share": share}, strength=0.95)
    angle = np.arccos(np.sum(z * other, axis=1, keepdims=True))
    between = (np.sin(0.7 * angle) * z + np.sin(0.3 * angle) * other) / np.sin(angle)
    noise = rows["image"] - np.tensordot(z, MEANS, 1)
    expected = np.tensordot(between, MEANS, 1) + noise
    # What is left of the image in x_T makes a small difference.
    np.testing.assert_allclose(turned, expected, atol=0.1)


def test_variations_have_the_law_of_the_embedding():
    z = np.repeat(embeddings(1, 0), 500, axis=0)
    image = np.repeat(images_of(z[:1], 0), 500, axis=0)
    found = run("variations", {"image": image, NAME: z}, "embedding")
    mean = np.tensordot(z[0], MEANS, 1)
    error = STD / np.sqrt(500)
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=5 * error)
    np.testing.assert_allclose(found.std(axis=0), STD, rtol=0.2)
    assert np.abs(found - image).max() > 2 * STD  # none is the image itself
