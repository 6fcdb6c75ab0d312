"""Editing with the exact denoiser of Gaussian data, where every law is known.

Each step of each method is then an affine map of x plus noise: the mean and covariance
of what it draws follow from a float64 recursion, which the sampler must reproduce, and
which can be compared with the exact conditional law.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flows import gaussian_flow, level_of

from ddpm_jax.diffusion import editing
from ddpm_jax.diffusion.generate import generate, image_keys, initial_noise
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.multistep import dpmpp_2m, pndm
from ddpm_jax.diffusion.operators import average_pool, mask_operator
from ddpm_jax.diffusion.process import Prediction, add_noise, eps_from_x0
from ddpm_jax.diffusion.samplers import ancestral, ddim
from ddpm_jax.diffusion.schedules import from_betas, linear_betas, linear_logsnr
from ddpm_jax.diffusion.self_conditioning import self_conditioned
from ddpm_jax.errors import UserError

# Two correlated values, of which the first is known.
MEAN, COVARIANCE = np.array([0.2, -0.3]), np.array([[0.5, 0.4], [0.4, 0.4]])
KNOWN, Y = np.array([1.0, 0.0]), 0.9
SLOPE = COVARIANCE[1, 0] / COVARIANCE[0, 0]
EXACT_MEAN = MEAN[1] + SLOPE * (Y - MEAN[0])  # of the second value, given the first
EXACT_VARIANCE = COVARIANCE[1, 1] - SLOPE * COVARIANCE[0, 1]
BETAS = linear_betas(50, 1e-3, 0.3)
SCHEDULE = from_betas(BETAS)
LEVELS = grid(SCHEDULE, 50)
DENOISE = oracles.gaussian(MEAN, COVARIANCE)
OPERATOR = mask_operator(KNOWN)
IMAGE = jnp.array([Y, 0.0])


def keys_of(num, seed=0):
    return image_keys(jax.random.key(seed), jnp.arange(num))


def at(levels, index):
    return jax.tree.map(lambda leaf: leaf[index], levels)


# --- The law of a chain, in float64 ---------------------------------------------------


def posterior_mean(bar):
    """E[x_0 | x_t] = M x_t + b."""
    root = np.sqrt(bar)
    M = root * COVARIANCE @ np.linalg.inv(bar * COVARIANCE + (1 - bar) * np.eye(2))
    return M, MEAN - root * M @ MEAN


def projected(bar):
    M, b = posterior_mean(bar)
    return np.diag(1 - KNOWN) @ M, (1 - KNOWN) * b + KNOWN * Y


def pulled(weight):
    """Ho et al. 2022, section 3.1, with the gradient -2 M^T A^T (y - A x_0)."""

    def affine(bar):
        M, b = posterior_mean(bar)
        gain = weight * np.sqrt(bar) * M.T @ np.diag(KNOWN)
        return M - gain @ M, b + gain @ (Y - b)

    return affine


def law(x0_of, levels=LEVELS, replaced=False):
    """Mean and covariance of x under `ancestral()`; Ho et al. 2020, eq. (2) and (7)."""
    bars = np.asarray(levels.alpha, np.float64) ** 2
    m, C = np.zeros(2), np.eye(2)
    for bar_t, bar_s in itertools.pairwise(bars):
        if bar_s < bar_t:  # a step upwards
            ratio = bar_s / bar_t
            m, C = np.sqrt(ratio) * m, ratio * C + (1 - ratio) * np.eye(2)
            continue
        beta = 1 - bar_t / bar_s
        M, b = x0_of(bar_t)
        of_x0 = np.sqrt(bar_s) * beta / (1 - bar_t)
        F = np.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t) * np.eye(2) + of_x0 * M
        noise = (1 - bar_s) / (1 - bar_t) * beta
        m, C = F @ m + of_x0 * b, F @ C @ F.T + noise * np.eye(2)
        if replaced:
            m = np.where(KNOWN, np.sqrt(bar_s) * Y, m)
            free = np.diag(1 - KNOWN)
            C = free @ C @ free + (1 - bar_s) * np.diag(KNOWN)
    return m, C


def repainted(num_resamples, jump_length=5):
    return editing.repaint_grid(LEVELS, jump_length, num_resamples)


LAWS = {
    "replacement": law(posterior_mean, replaced=True),
    "repaint": law(posterior_mean, repainted(5), replaced=True),
    "more visits": law(posterior_mean, repainted(20), replaced=True),
    "shorter jumps": law(posterior_mean, repainted(20, 1), replaced=True),
    "projection": law(projected),
    "guidance": law(pulled(1.0)),
}


# Of the unknown value: the share of the way from its unconditional mean to the
# conditional one that is missing, and its variance over the conditional one. Of these
# two values, this chain, these jumps and visits: other data order methods otherwise.
NEARNESS = {
    "replacement": (0.3012, 1.2823),
    "repaint": (0.0934, 0.9436),
    "more visits": (0.0848, 0.9423),
    "shorter jumps": (0.0216, 0.5877),
    "projection": (0.3012, 1.5010),
    "guidance": (0.2474, 1.0553),
}


@pytest.mark.parametrize("name", NEARNESS)
def test_how_near_each_method_comes_to_the_conditional_law(name):
    """Of the float64 recursions, which the samplers are held against below."""
    m, C = LAWS[name]
    missing = (EXACT_MEAN - m[1]) / (EXACT_MEAN - MEAN[1])
    found = (missing, C[1, 1] / EXACT_VARIANCE)
    np.testing.assert_allclose(found, NEARNESS[name], atol=1e-4)
    # What is known is met: exactly by all but guidance, whose p(y | x_t) has a width.
    exact = 2e-4 if name == "guidance" else 1e-6
    np.testing.assert_allclose([m[0], C[0, 0]], [Y, 0], atol=exact)


def test_with_nothing_known_the_recursion_ends_in_the_mean_of_the_data():
    m, _ = law(posterior_mean)
    np.testing.assert_allclose(m, MEAN, atol=5e-5)


@pytest.mark.parametrize("name", ["replacement", "repaint", "projection", "guidance"])
def test_each_method_draws_the_law_of_its_recursion(name):
    """Mean and covariance of 4,000 draws within four standard errors."""
    num = 4000
    sampler, denoise, levels = ancestral(), DENOISE, LEVELS
    if name == "projection":
        denoise = editing.project(DENOISE, OPERATOR, IMAGE)
    elif name == "guidance":
        denoise = editing.reconstruction_guidance(DENOISE, OPERATOR, IMAGE, 1.0)
    else:
        sampler = editing.inpaint(sampler, IMAGE, KNOWN)
        levels = repainted(5) if name == "repaint" else LEVELS

    @jax.jit
    def draw(keys):
        x_init = initial_noise(keys, (2,))
        return generate(keys, sampler, denoise, x_init, levels)[0]

    x = np.asarray(draw(keys_of(num)), np.float64)
    m, C = LAWS[name]
    error = np.abs(x.mean(0) - m)
    assert np.all(error < 4 * np.sqrt(np.diag(C) / num) + 1e-5), (x.mean(0), m)
    diagonal = np.diag(C)
    error = np.abs(np.cov(x.T) - C)
    allowed = 4 * np.sqrt((np.outer(diagonal, diagonal) + C**2) / num)
    assert np.all(error < allowed + 1e-6), (np.cov(x.T), C)


# --- Projection and guidance ----------------------------------------------------------


def test_projection_meets_the_measurement():
    """A x = y at the end, for the means of a picture over 2x2 blocks."""
    rng = np.random.default_rng(0)
    operator = average_pool(2)
    y = rng.uniform(-1, 1, (3, 2, 2, 1)).astype(np.float32)
    denoise = oracles.gaussian(np.zeros(16), np.full(16, 0.3))
    keys = keys_of(3)
    x, _ = jax.jit(
        lambda keys: generate(
            keys,
            ddim(0.5),
            editing.project(denoise, operator, y),
            initial_noise(keys, (4, 4, 1)),
            grid(SCHEDULE, 5),
        )
    )(keys)
    np.testing.assert_allclose(operator.apply(x), y, atol=1e-6)
    off = np.asarray(x - operator.pinv(y))
    assert off.std() > 0.2  # the rest is drawn


def test_projected_and_guided_predictions_by_hand():
    """Each x_0 in float64, and x_t = alpha x_0 + sigma eps, at a level for each row."""
    x_t = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
    t = np.array([1, 10, 30, 49])
    level, bars = SCHEDULE.at(jnp.asarray(t)), oracles.alpha_bars(BETAS)[t + 1]
    guided = jax.jit(
        lambda weight: editing.reconstruction_guidance(
            DENOISE, OPERATOR, IMAGE, weight
        )(x_t, level, None)
    )
    found = {
        "project": (editing.project(DENOISE, OPERATOR, IMAGE)(x_t, level), projected),
        "weight 1": (guided(1.0), pulled(1.0)),
        "weight 1.7": (guided(1.7), pulled(1.7)),
    }
    for said, x0_of in found.values():
        pairs = zip(map(x0_of, bars), x_t, strict=True)
        expected = np.stack([M @ x + b for (M, b), x in pairs])
        np.testing.assert_allclose(said.x0, expected, atol=3e-5)
        np.testing.assert_allclose(add_noise(said.x0, said.eps, level), x_t, atol=1e-5)
    np.testing.assert_allclose(guided(0.0).x0, DENOISE(x_t, level).x0, atol=1e-6)


def test_guidance_by_the_right_variance_is_the_conditional_model():
    """Of independent values of variance v, p(y | x_t) has the variance
    v sigma^2 / (alpha^2 v + sigma^2), that is weight 1 + sigma^2 / (alpha^2 v)."""
    v, level = 0.3, SCHEDULE.at(jnp.array([5, 20, 45]))
    x_t = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    denoise = oracles.gaussian(MEAN, np.full(2, v))
    weight = 1 + (level.sigma / level.alpha) ** 2 / v
    said = editing.reconstruction_guidance(denoise, OPERATOR, IMAGE, weight)(x_t, level)
    told = oracles.gaussian([Y, MEAN[1]], [0.0, v])(x_t, level)
    np.testing.assert_allclose(said.x0, told.x0, atol=2e-6)
    np.testing.assert_allclose(said.eps, told.eps, atol=2e-5)


# --- Inpainting -----------------------------------------------------------------------


def trail(sampler, levels, num=3, seed=0, denoise=DENOISE):
    """x and prediction after every step: [M, B, 2]."""
    keys = keys_of(num, seed)

    @jax.jit
    def run(keys):
        return generate(
            keys,
            sampler,
            denoise,
            initial_noise(keys, (2,)),
            levels,
            record=lambda info: (info.x_t, info.x_s, info.prediction.x0),
            num_records=levels.alpha.shape[0] - 1,
        )

    x, records = run(keys)
    return x, *map(np.asarray, records)


def test_an_empty_mask_changes_nothing_and_a_full_one_everything():
    plain, *_ = trail(ddim(0.0), LEVELS)
    empty, *_ = trail(editing.inpaint(ddim(0.0), IMAGE, jnp.zeros(2)), LEVELS)
    # Two programs, which may round each step otherwise.
    np.testing.assert_allclose(empty, plain, rtol=1e-5, atol=1e-5)
    full, *_ = trail(editing.inpaint(ddim(0.0), IMAGE, jnp.ones(2)), LEVELS)
    np.testing.assert_array_equal(full, np.broadcast_to(IMAGE, (3, 2)))


def test_known_values_are_kept_to_the_last_bit_and_follow_the_forward_process():
    levels = repainted(3, 10)
    x, _, x_s, _ = trail(editing.inpaint(ancestral(), IMAGE, KNOWN), levels, num=2000)
    np.testing.assert_array_equal(x[:, 0], np.float32(Y))
    alpha, sigma = (np.asarray(leaf[1:], np.float64) for leaf in levels[1:])
    seen = x_s[..., 0].astype(np.float64)
    spread = 4 * sigma / np.sqrt(2000) + 1e-6
    assert np.all(np.abs(seen.mean(1) - alpha * Y) < 1.2 * spread)
    assert np.all(np.abs(seen.std(1) - sigma) < 1.2 * spread / np.sqrt(2))


def test_the_grid_of_repaint_by_hand():
    """Six steps and the last, stretches of two, each walked three times."""
    short = grid(SCHEDULE, 7)
    index = {float(sigma): i for i, sigma in enumerate(short.sigma)}
    walked = editing.repaint_grid(short, 2, 3)
    order = [index[float(sigma)] for sigma in walked.sigma]
    stretch = [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    expected = [*stretch[0] * 3, *(stretch[1] * 3)[1:], *(stretch[2] * 3)[1:], 7]
    assert order == expected
    np.testing.assert_array_equal(walked.t, short.t[np.array(order)])
    # One step more at the noisy end belongs to no stretch.
    order = [
        float(sigma) for sigma in editing.repaint_grid(grid(SCHEDULE, 8), 2, 2).sigma
    ]
    eight = [float(sigma) for sigma in grid(SCHEDULE, 8).sigma]
    assert order[:5] == [*eight[:4], eight[1]]
    np.testing.assert_array_equal(editing.repaint_grid(short, 99, 1).t, short.t)


def published_jumps(num_levels, jump_length, num_resamples):
    """The walk as [R] describes it, a level at a time: t, and -1 for the image."""
    left = dict.fromkeys(range(0, num_levels - jump_length, jump_length), num_resamples)
    t, walk = num_levels, []
    while t >= 1:
        t -= 1
        walk.append(t)
        if left.get(t, 1) > 1:
            left[t] -= 1
            for _ in range(jump_length):
                t += 1
                walk.append(t)
    return [*walk, -1]


@pytest.mark.parametrize(("jump_length", "num_resamples"), [(10, 3), (7, 2), (1, 4)])
def test_the_walk_is_the_published_one_but_for_the_small_steps_up(
    jump_length, num_resamples
):
    walk = published_jumps(50, jump_length, num_resamples)
    up = [b > a for a, b in itertools.pairwise(walk)]
    # Of a climb only its top is visited, not what lies on the way.
    climbing = [a and b for a, b in itertools.pairwise([False, *up, False])]
    kept = [t for t, inside in zip(walk, climbing, strict=True) if not inside]
    found = editing.repaint_grid(LEVELS, jump_length, num_resamples).t.tolist()
    assert found == kept


def test_a_step_upwards_asks_nothing_and_is_a_draw_of_the_forward_process():
    levels, calls = repainted(3, 10), []
    sampler = editing.inpaint(ancestral(), IMAGE, KNOWN)

    def counted(x, level, cond):
        jax.debug.callback(lambda: calls.append(None))
        return DENOISE(x, level, cond)

    keys = keys_of(3)
    jax.jit(
        lambda keys: generate(keys, sampler, counted, initial_noise(keys, (2,)), levels)
    )(keys)[0].block_until_ready()
    jax.effects_barrier()
    up = np.asarray(levels.sigma[1:] > levels.sigma[:-1])
    assert len(calls) == np.sum(~up) == 50 + 4 * 2 * 10
    _, x_t, x_s, x0 = trail(sampler, levels, num=4000)
    ((i, *_),) = np.nonzero(up)
    (a, _), (b, s) = (
        (float(level.alpha), float(level.sigma))
        for level in (at(levels, i), at(levels, i + 1))
    )
    noise = x_s[i] - b / a * x_t[i]
    variance = s**2 - (b / a) ** 2 * float(levels.sigma[i]) ** 2
    assert np.abs(
        np.cov(noise.T) - variance * np.eye(2)
    ).max() < 4 * variance * np.sqrt(2 / 4000)
    np.testing.assert_array_equal(x0[i], x_t[i])


def hinted(x, level, cond):
    """DENOISE, drawn towards the hint of a self-conditioned network."""
    prediction, hint = DENOISE(x, level), (cond or {}).get("self_conditioning", 0.0)
    x0 = prediction.x0 + 0.3 * (hint - prediction.x0)
    return Prediction(x0, eps_from_x0(x0, x, level))


@pytest.mark.parametrize(
    ("remembers", "denoise"),
    [
        (dpmpp_2m(), DENOISE),
        (pndm(), DENOISE),
        (self_conditioned(ddim(0.0)), hinted),
    ],
    ids=["dpmpp_2m", "pndm", "self-conditioned"],
)
def test_a_method_that_remembers_starts_anew_after_a_jump(remembers, denoise):
    """From the top of the jump on it is the chain of a fresh start there.

    DPM-Solver++ would not use a prediction of a cleaner level even if it were kept;
    PNDM and a self-conditioned network would.
    """
    levels = editing.repaint_grid(grid(SCHEDULE, 9), 8, 2)
    sampler = editing.inpaint(remembers, IMAGE, jnp.zeros(2))
    x, x_t, x_s, _ = trail(sampler, levels, denoise=denoise)
    top = 9  # steps 0 to 7 down, step 8 up
    assert levels.sigma[top] == levels.sigma[0]
    np.testing.assert_array_equal(x_t[top], x_s[top - 1])
    keys = keys_of(3)
    rest = jax.tree.map(lambda leaf: leaf[top:], levels)
    again, _ = generate(keys, remembers, denoise, jnp.asarray(x_t[top]), rest)
    np.testing.assert_allclose(x, again, atol=1e-5)


# --- Starts, inversion ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("strength", "steps"), [(1.0, 50), (0.5, 25), (0.31, 16), (0.001, 1)]
)
def test_the_start_is_so_far_up_the_chain(strength, steps):
    cut = editing.start_at(LEVELS, strength)
    np.testing.assert_array_equal(cut.t, LEVELS.t[50 - steps :])
    assert cut.t[0] == steps - 1 and cut.sigma[-1] == 0


def even_levels(num_steps, ends=(6.0, -6.0)):
    """Even in the log-SNR, from the cleaner end to the noisier."""
    return linear_logsnr(*ends).at(jnp.linspace(-0.999, 999.0, num_steps + 1))


VALUES = np.array([0.5, 0.04])
INDEPENDENT = oracles.gaussian(MEAN, VALUES)
X0 = jnp.asarray(
    MEAN + np.sqrt(VALUES) * np.random.default_rng(5).normal(size=(40, 2)), jnp.float32
)


@jax.jit
def encode(x, levels, num_iterations):
    return generate(
        keys_of(len(x)), editing.invert(num_iterations), INDEPENDENT, x, levels
    )[0]


@jax.jit
def decode(x, levels):
    back = jax.tree.map(lambda leaf: leaf[::-1], levels)
    return generate(keys_of(len(x)), ddim(0.0), INDEPENDENT, x, back)[0]


def test_inversion_follows_the_ode_to_first_order():
    """Against the exact flow of Gaussian data, with one iteration and with many."""
    x = gaussian_flow(X0, MEAN, VALUES, (1.0, 0.0), level_of(6.0))
    exact = gaussian_flow(x, MEAN, VALUES, level_of(6.0), level_of(-6.0))
    counts = np.array([40, 80, 160])
    for num_iterations in (1, 30):
        errors = []
        for num_steps in counts:
            levels = even_levels(num_steps)
            found = encode(jnp.asarray(x, jnp.float32), levels, num_iterations)
            errors.append(np.sqrt(np.mean((np.asarray(found) - exact) ** 2)))
        order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
        assert abs(order - 1) < 0.25, (num_iterations, order, errors)


def test_decoding_undoes_encoding_the_better_the_more_iterations():
    """From the clean image, in 20 steps. Each iteration leaves of the error of a step
    the share q = (sigma_s - a sigma_t) sigma_s / (alpha_s^2 v + sigma_s^2)."""
    levels = jax.tree.map(lambda leaf: leaf[::-1], grid(SCHEDULE, 20))
    errors = []
    for num_iterations in (1, 2, 4, 8, 16, 32, 64):
        back = decode(encode(X0, levels, num_iterations), levels)
        errors.append(float(np.sqrt(np.mean(np.asarray(back - X0) ** 2))))
    alpha, sigma = (np.asarray(leaf, np.float64)[:, None] for leaf in levels[1:])
    a = alpha[1:] / alpha[:-1]
    q = (
        (sigma[1:] - a * sigma[:-1])
        * sigma[1:]
        / (alpha[1:] ** 2 * VALUES + sigma[1:] ** 2)
    )
    assert 0.2 < q.max() < 0.9
    assert errors[-1] < 2e-6 < 1e-2 < errors[0]
    for worse, better, power in zip(errors[:4], errors[1:5], (1, 2, 4, 8), strict=True):
        assert better < 1.5 * worse * q.max() ** power + 2e-6, errors


def test_one_step_of_inversion_is_a_geometric_series():
    """x_s after k iterations, in float64, and the one that DDIM steps back from."""
    t, s = SCHEDULE.at(jnp.array(4)), SCHEDULE.at(jnp.array(9))
    levels = jax.tree.map(lambda *leaf: jnp.stack(leaf), t, s)
    (a_t, s_t), (a_s, s_s) = (
        (float(level.alpha), float(level.sigma)) for level in (t, s)
    )
    x_t = np.asarray(X0, np.float64)
    slope = s_s / (a_s**2 * VALUES + s_s**2)
    q = (s_s - s_t * a_s / a_t) * slope
    start = a_s / a_t * x_t - a_s * MEAN
    for k in (1, 2, 5):
        expected = a_s * MEAN + start * sum(q**i for i in range(k + 1))
        # x^(0) - alpha mean = start, and x^(k+1) - alpha mean = start + q x^(k).
        np.testing.assert_allclose(encode(X0, levels, k), expected, atol=2e-6)
    fixed = a_s * MEAN + start / (1 - q)
    np.testing.assert_allclose(encode(X0, levels, 40), fixed, atol=2e-6)
    np.testing.assert_allclose(decode(jnp.float32(fixed), levels), x_t, atol=2e-6)


def test_the_clean_level_is_never_asked_about():
    seen = []

    def denoise(x, level, cond):
        jax.debug.callback(lambda sigma: seen.append(float(sigma)), level.sigma)
        return INDEPENDENT(x, level, cond)

    levels = jax.tree.map(lambda leaf: leaf[::-1], grid(SCHEDULE, 5))
    x, _ = generate(keys_of(40), editing.invert(3), denoise, X0, levels)
    x.block_until_ready()
    jax.effects_barrier()
    assert len(seen) == 15 and min(seen) == float(levels.sigma[1])


def test_one_program_serves_every_weight_mask_and_number_of_iterations():
    traces = []

    @jax.jit
    def run(image, mask, weight, num_iterations):
        traces.append(None)
        keys, levels = keys_of(3), grid(SCHEDULE, 3)
        guided = editing.reconstruction_guidance(
            DENOISE, mask_operator(mask), image, weight
        )
        sampler = editing.inpaint(ddim(0.0), image, mask)
        x, _ = generate(keys, sampler, guided, initial_noise(keys, (2,)), levels)
        back = jax.tree.map(lambda leaf: leaf[::-1], levels)
        return generate(keys, editing.invert(num_iterations), DENOISE, x, back)[0]

    base = run(IMAGE, jnp.asarray(KNOWN), 1.0, 2)
    for options in (
        (IMAGE + 1, jnp.asarray(KNOWN), 1.0, 2),
        (IMAGE, 1 - jnp.asarray(KNOWN), 1.0, 2),
        (IMAGE, jnp.asarray(KNOWN), 0.5, 2),
        (IMAGE, jnp.asarray(KNOWN), 1.0, 5),
    ):
        assert np.abs(np.asarray(run(*options) - base)).max() > 1e-3
    assert len(traces) == 1


# --- Blending -------------------------------------------------------------------------


def test_slerp_walks_the_great_circle():
    a, b = (
        np.random.default_rng(seed).normal(size=(3, 4, 4, 2)).astype(np.float32)
        for seed in (7, 8)
    )
    a, b = (x / np.sqrt(np.sum(x**2, (1, 2, 3), keepdims=True)) for x in (a, b))
    share = np.array([0.25, 0.5, 0.9], np.float32)
    middle = np.asarray(editing.slerp(a, b, share))
    np.testing.assert_allclose(np.sum(middle**2, (1, 2, 3)), 1, rtol=1e-5)

    def angle(x, y):
        return np.arccos(np.sum(x.astype(np.float64) * y, (1, 2, 3)))

    np.testing.assert_allclose(angle(a, middle), share * angle(a, b), rtol=1e-5)
    np.testing.assert_allclose(
        editing.slerp(3 * a, 3 * b, share), 3 * middle, rtol=1e-4
    )
    for end, whole in ((0.0, a), (1.0, b)):
        np.testing.assert_allclose(editing.slerp(a, b, end), whole, atol=1e-6)
    near = a + np.float32(1e-6) * b
    np.testing.assert_allclose(editing.slerp(a, near, share), a, atol=2e-6)
    np.testing.assert_array_equal(editing.slerp(a, a, share), editing.lerp(a, a, share))


def test_lerp_is_straight():
    a, b = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 2.0], [3.0, 0.0]])
    assert editing.lerp(a, b, 0.25).tolist() == [[2, 2], [3, 3]]
    assert editing.lerp(a, b, jnp.array([0.0, 1.0])).tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: editing.start_at(LEVELS, 0.0), r"strength=0.0 is not in \(0, 1\]"),
        (lambda: editing.start_at(LEVELS, 1.1), "strength=1.1"),
        (lambda: editing.repaint_grid(LEVELS, 0, 2), "jump_length=0 does not fit"),
        (lambda: editing.repaint_grid(LEVELS, 50, 2), "a chain of 50 steps"),
        (lambda: editing.repaint_grid(LEVELS, 5, 0), "num_resamples=0"),
        (lambda: editing.invert(0), "num_iterations=0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
