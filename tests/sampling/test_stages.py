"""A cascade of exact networks samples the exact joint law of its images.

High-resolution data are Gaussian, high ~ N(m, S), and low = A high, A the mean over
2x2 blocks. Then p(low), p(low | z) and p(high | z) are Gaussian in closed form, for any
noise z = alpha low + sigma e of the condition: the optimal networks of both stages.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.conditioning.low_res import resize
from ddpm_jax.diffusion import multistep, samplers, schedules
from ddpm_jax.diffusion.denoisers import clip_x0
from ddpm_jax.diffusion.generate import (
    fold_each,
    generate,
    image_keys,
    initial_noise,
)
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.operators import average_pool
from ddpm_jax.errors import UserError
from ddpm_jax.sampling.plan import Record, run_stage
from ddpm_jax.sampling.stages import (
    CascadeModel,
    CascadeStage,
    cascade_plan,
    check_stages,
)

HIGH, LOW = (4, 4, 1), (2, 2, 1)
NUM = 20_000
SCHEDULE = schedules.cosine_logsnr()
LEVELS = grid(SCHEDULE, 60)

RNG = np.random.default_rng(3)
ROOT = RNG.normal(size=(16, 16)) / 4
M, S = RNG.uniform(-0.5, 0.5, 16), ROOT @ ROOT.T + 0.05 * np.eye(16)


def matrix_of(function, shape):
    """The matrix of a linear map, column by column."""
    size = int(np.prod(shape))
    columns = function(jnp.eye(size, dtype=jnp.float32).reshape(size, *shape))
    return np.asarray(columns, np.float64).reshape(size, -1).T


A = matrix_of(average_pool(2).apply, HIGH)
P = A @ S @ A.T  # of the small images


def of_given(z, s):
    """p(high | z): its mean [B, 16] and its covariance."""
    alpha, sigma = np.cos(np.pi * s / 2), np.sin(np.pi * s / 2)
    gain = alpha * S @ A.T @ np.linalg.inv(alpha**2 * P + sigma**2 * np.eye(4))
    mean = M + (z - alpha * A @ M) @ gain.T
    return mean, S - alpha * gain @ A @ S, gain


def super_resolver(s):
    """The optimal network for p(high | z): conditioned on z, upsampled."""
    # Upsampling 2x2 to 4x4 loses nothing: z can be recovered.
    back = np.linalg.pinv(matrix_of(lambda low: resize(low, 4, 4), LOW))
    base, covariance, gain = of_given(np.zeros(4), s)
    weights = jnp.asarray(gain @ back, jnp.float32)
    centred = oracles.gaussian(np.zeros(16), covariance)

    def denoise(x_t, level, cond=None):
        image = cond["low_res"].map.reshape(-1, 16)
        mean = base + jnp.matmul(image, weights.T, precision="highest")
        mean = jnp.asarray(mean, jnp.float32).reshape(x_t.shape)
        shift = oracles.column(level.alpha, x_t.ndim) * mean
        off = centred(x_t - shift, level)
        return off._replace(x0=off.x0 + mean)

    return denoise


def exact_stages(s, conditioned=True):
    return (
        CascadeStage(oracles.gaussian(A @ M, P), multistep.dpmpp_2m(), LOW),
        CascadeStage(
            super_resolver(s),
            multistep.dpmpp_2m(),
            HIGH,
            low_shape=LOW,
            aug_level=s if conditioned else None,
        ),
    )


def plan_of(stages, levels=LEVELS):
    def model(stage):
        return CascadeModel(levels, lambda params: stage, lambda params, cond: cond)

    return cascade_plan([model(stage) for stage in stages])


def run_all(plan, keys, cond=None, record=None):
    """What each stage of a cascade makes, all given the same condition."""
    params, given, made = (None,) * len(plan), {"stages": (cond,) * len(plan)}, []
    for stage in plan:
        made.append(run_stage(stage, params, keys, given, record))
        given = {**given, stage.makes: made[-1].x}
    return made


def flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def hits_the_moments(x, mean, covariance, bias=2e-3):
    """Mean and covariance of samples x [N, D] within five standard errors."""
    off = x - mean
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(
        np.abs(off.mean(axis=0)), 5 * std / len(x) ** 0.5 + bias
    )
    # Of a Gaussian, var(off_i off_j) = C_ii C_jj + C_ij^2.
    error = np.sqrt((np.outer(std**2, std**2) + covariance**2) / len(x))
    np.testing.assert_array_less(
        np.abs(off.T @ off / len(x) - covariance), 5 * error + bias
    )


KEYS = image_keys(jax.random.key(0), jnp.arange(NUM))
LEVELS_OF_NOISE = [None, 0.0, 0.2, 0.6]


@pytest.fixture(scope="module")
def draws():
    """(low, high) [N, 4] and [N, 16], for each level of the augmentation."""
    made = {}
    for s in LEVELS_OF_NOISE:
        stages = exact_stages(s or 0.0, conditioned=s is not None)
        results = jax.jit(partial(run_all, plan_of(stages)))(KEYS)
        made[s] = tuple(flat(result.x) for result in results)
    return made


@pytest.mark.parametrize("s", LEVELS_OF_NOISE)
def test_the_joint_law_of_both_images(draws, s):
    """With exact stages high is exact whatever the noise, and its covariance with low
    is that of two samples around one z: alpha K P, K the gain of p(high | z)."""
    low, high = draws[s]
    alpha = np.cos(np.pi * (s or 0) / 2)
    _, _, gain = of_given(np.zeros(4), s or 0)
    cross = alpha * gain @ P
    if not s:  # the data's own
        np.testing.assert_allclose(cross, S @ A.T, atol=1e-12)
    joint = np.block([[P, cross.T], [cross, S]])
    hits_the_moments(
        np.concatenate([low, high], axis=1), np.concatenate([A @ M, M]), joint
    )


@pytest.mark.parametrize("s", LEVELS_OF_NOISE)
def test_the_large_image_is_consistent_with_the_small_one(draws, s):
    """A high - low is 0 without noise. With it both are samples of p(low | z), so that
    their difference has twice the covariance of that."""
    low, high = draws[s]
    off = high @ A.T - low
    if not s:
        np.testing.assert_allclose(off, 0, atol=2e-5)
        return
    _, covariance, _ = of_given(np.zeros(4), s)
    hits_the_moments(off, np.zeros(4), 2 * A @ covariance @ A.T)


def test_noise_without_its_level_is_noticed(draws):
    """The test has teeth: a network for s = 0 with a noised condition."""
    base, top = exact_stages(0.0)
    plan = plan_of((base, top._replace(aug_level=0.6)))
    high = flat(jax.jit(lambda keys: run_all(plan, keys)[-1].x)(KEYS))
    with pytest.raises(AssertionError):
        hits_the_moments(high, M, S)
    hits_the_moments(draws[0.6][1], M, S)


# --- Keys, labels, records ------------------------------------------------------------


def test_the_first_stage_samples_what_it_samples_alone():
    base, top = exact_stages(0.2)
    keys = KEYS[:3]
    noise = initial_noise(keys, LOW)
    alone, _ = generate(keys, base.sampler, base.denoise, noise, LEVELS)
    low, _ = run_all(plan_of((base, top)), keys)
    np.testing.assert_array_equal(low.x, alone)


def test_a_row_is_a_batch_of_one_and_stages_are_run_alone_or_together():
    plan = plan_of(
        stage._replace(sampler=samplers.ancestral()) for stage in exact_stages(0.2)
    )
    low, high = (made.x for made in run_all(plan, KEYS[:3]))
    one_low, one = (made.x for made in run_all(plan, KEYS[1:2]))
    np.testing.assert_allclose(one_low[0], low[1], atol=1e-5)
    np.testing.assert_allclose(one[0], high[1], atol=1e-5)
    given = {"stages": (None, None), plan[0].makes: low}
    again = run_stage(plan[1], (None, None), KEYS[:3], given, None).x
    np.testing.assert_array_equal(again, high)


def test_no_noise_is_sampled_twice():
    """Start, steps and augmentation of all stages have keys of their own."""
    keys = KEYS[:1]
    seen = []

    def spy(x_t, level, cond=None):
        seen.append(np.asarray(cond["low_res"].map if cond else x_t).ravel())
        return oracles.gaussian(np.zeros(16), np.ones(16))(x_t, level)

    levels = jax.tree.map(lambda leaf: leaf[jnp.asarray([0, -1])], LEVELS)
    base = CascadeStage(spy, samplers.ddim(), HIGH)
    again = base._replace(low_shape=HIGH, aug_level=1.0)  # the condition is noise
    plan = plan_of((base, again, again), levels)
    given = {stage.makes: jnp.zeros((1, *HIGH)) for stage in plan}
    with jax.disable_jit():
        for stage in plan:
            nothing = (None,) * 3
            run_stage(stage, nothing, keys, {**given, "stages": nothing}, None)
    starts = [
        np.asarray(initial_noise(of, HIGH)).ravel()
        for of in (keys, fold_each(keys, 4), fold_each(keys, 5))
    ]
    np.testing.assert_array_equal(seen[0], starts[0])
    both = np.stack([*starts, *seen[1:]])
    apart = np.abs(both[:, None] - both[None]).max(axis=-1)
    assert (apart + 9 * np.eye(5) > 0.1).all()


def test_labels_reach_every_stage_and_each_stage_has_its_own_threshold():
    seen = []

    def spy(name):
        exact = oracles.gaussian(np.full(16, 3.0), np.ones(16))

        def denoise(x_t, level, cond=None):
            seen.append((name, sorted(cond), cond["label"].tolist()))
            return exact(x_t, level)

        return denoise

    # Both stages of one size, so that one law serves.
    levels = jax.tree.map(lambda leaf: leaf[jnp.asarray([0, 30, -1])], LEVELS)
    shape = (1, 1, 16)
    base = CascadeStage(clip_x0(spy("base")), samplers.ddim(), shape)
    top = CascadeStage(spy("top"), samplers.ddim(), shape, shape, 0.1)
    with jax.disable_jit():
        cond = {"label": jnp.asarray([4, 7])}
        low, high = run_all(plan_of((base, top), levels), KEYS[:2], cond)
    assert np.abs(low.x).max() <= 1 < np.abs(high.x).max()
    assert (
        seen
        == [("base", ["label"], [4, 7])] * 2
        + [("top", ["label", "low_res"], [4, 7])] * 2
    )


def test_records_are_of_each_stage():
    record = Record(3, with_start=False)
    low, high = run_all(plan_of(exact_stages(0.2)), KEYS[:2], record=record)
    for made, shape in ((low, LOW), (high, HIGH)):
        assert made.trajectory.x_t.shape == (3, 2, *shape)
        np.testing.assert_array_equal(made.trajectory.x_t[-1], made.x)


# --- What does not fit ----------------------------------------------------------------

BASE = CascadeStage(lambda *args: None, samplers.ddim(), (16, 16, 3))
UP = BASE._replace(image_shape=(32, 32, 3), low_shape=(16, 16, 3), aug_level=0.1)
TOP = UP._replace(image_shape=(128, 128, 3), low_shape=(32, 32, 3))


def test_stages_that_fit_are_accepted():
    check_stages([BASE])
    check_stages([BASE, UP, TOP])
    check_stages([BASE, UP._replace(aug_level=None)])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "no stages"),
        ([UP], "stage 1 upsamples images of 16x16; begin"),
        ([UP, TOP], "stage 1 upsamples"),
        ([BASE, BASE], "stage 2 is a base model"),
        ([BASE, TOP], "stage 1 makes 16x16, and stage 2 upsamples 32x32"),
        ([BASE._replace(image_shape=(16, 16, 1)), UP], "of 1 channel.*those of 3"),
        ([BASE, UP._replace(image_shape=(40, 40, 3))], "40x40 out of 16x16"),
        ([BASE, UP._replace(image_shape=(32, 64, 3))], "same whole factor"),
        ([BASE, UP._replace(image_shape=(16, 16, 3))], "2 or more"),
        ([BASE, UP._replace(aug_level=1.5)], "aug_level 1.5 of stage 2"),
    ],
)
def test_stages_that_do_not_fit_are_refused_in_one_line(stages, message):
    with pytest.raises(UserError, match=message) as refused:
        check_stages(stages)
    assert "\n" not in str(refused.value)


def test_they_are_refused_by_name():
    with pytest.raises(UserError, match="runs/big is a base model"):
        check_stages([BASE, BASE], ["runs/small", "runs/big"])
