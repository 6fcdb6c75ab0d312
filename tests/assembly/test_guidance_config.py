"""From a request to a guided denoiser, and the guidance that is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import default

from ddpm_jax import assembly, data
from ddpm_jax.conditioning.label import Label
from ddpm_jax.diffusion.gaussian_classifier import gaussian_classifier
from ddpm_jax.diffusion.process import add_noise
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import images

INFO = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
X = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
LABELS = jnp.array([3, 0, 10, 7])  # the third is the null class


SMALL = (
    *("schedule.num_levels=20", "preview_steps=10", "data.source=digits"),
    *("data.flip=False", "network.channels=8", "network.num_groups=4"),
    *("network.channel_multipliers=1,", "network.attention_resolutions="),
    "network.num_res_blocks=1",
)


def spec_of(class_conditional=True, *options):
    """A tiny model of the digits."""
    of_label = ["conditioners.label.kind=label"] if class_conditional else []
    return default(*SMALL, *of_label, *options).task


def ask(**options):
    """A request, clipping off by default."""
    return Sample(**{"clip": False, **options})


def check(spec, asked, info=INFO):
    assembly.check(spec, info)
    assembly.check_sample(spec, info, asked)


class Formula:
    """In the place of a U-Net: an output that depends on pixel and label."""

    def __init__(self, conditioners):
        self.conditioners = conditioners

    def apply(self, variables, x, t, cond, *, train, rngs):
        assert set(cond or {}) == set(self.conditioners)
        label = cond["label"][:, None, None, None] if cond else 0
        return 0.5 * x + jnp.cos(3.0 * label + jnp.arange(8)[:, None])


class Model:
    """The denoisers of requests, around the formula."""

    def __init__(self, class_conditional):
        self.unet = Formula({"label": Label(10)} if class_conditional else {})
        self.spec = spec_of(class_conditional)
        self.level = self.spec.schedule.build().at(jnp.array(12))

    def predict(self, label=LABELS, **options):
        asked = ask(**options)
        check(self.spec, asked)
        denoise = assembly.denoiser(self.spec, asked, self.unet, None)
        cond = None if label is None else {"label": label}
        return jax.jit(denoise)(X, self.level, cond)


@pytest.fixture(scope="module")
def told():
    return Model(class_conditional=True)


@pytest.fixture(scope="module")
def untold():
    return Model(class_conditional=False)


@pytest.fixture(scope="module")
def plain(told):
    return told.predict()


def test_classifier_free_guidance(told, plain):
    """scale eps(label) + (1 - scale) eps(null); the null class guides nowhere."""
    free = told.predict(label=jnp.full(4, 10))
    found = told.predict(guidance_scale=3.0)
    np.testing.assert_allclose(found.eps, 3 * plain.eps - 2 * free.eps, atol=1e-4)
    moved = np.abs(np.asarray(found.eps - plain.eps)).max(axis=(1, 2, 3))
    assert moved[2] < 1e-5 < 1e-2 < min(moved[[0, 1, 3]])


def test_guidance_outside_its_interval_is_none(told, plain):
    r = float(told.level.sigma / told.level.alpha)
    for options, guides in (
        ({"guidance_low": 1.1 * r}, False),
        ({"guidance_high": 0.9 * r}, False),
        ({"guidance_low": 0.9 * r, "guidance_high": 1.1 * r}, True),
    ):
        found = told.predict(guidance_scale=3.0, **options)
        assert np.allclose(found.eps, plain.eps, atol=1e-5) != guides


def test_rescaled_guidance_has_the_spread_of_the_conditional(told, plain):
    found = told.predict(guidance_scale=4.0, guidance_rescale=1.0)
    spread = np.std(np.asarray(plain.x0), axis=(1, 2, 3))
    np.testing.assert_allclose(np.std(found.x0, axis=(1, 2, 3)), spread, rtol=1e-4)


def test_projected_guidance(told, plain):
    """With all of its parallel part it is classifier-free; else see Sadat et al."""
    free = told.predict(label=jnp.full(4, 10))
    found = told.predict(guidance_scale=3.0, guidance_parallel=0.25)
    c, d = (np.asarray(x, np.float64) for x in (plain.x0, plain.x0 - free.x0))

    def inner(a, b):
        return np.sum(a * b, axis=(1, 2, 3), keepdims=True)

    along = inner(d, c) / inner(c, c) * c
    expected = c + 2 * (d - 0.75 * along)
    np.testing.assert_allclose(found.x0, expected, atol=1e-4)
    bound = float(np.sqrt(inner(d, d)).max() / 2)
    short = told.predict(guidance_scale=3.0, guidance_norm=bound)
    norms = np.sqrt(inner(*[np.asarray(short.x0) - c] * 2)).max()
    np.testing.assert_allclose(norms, 2 * bound, rtol=1e-4)


def test_the_optimized_scale(told, plain):
    free = told.predict(label=jnp.full(4, 10))
    found = told.predict(guidance_scale=3.0, guidance_optimized=True)
    c, u = (np.asarray(one.eps - one.x0, np.float64) for one in (plain, free))
    rows = zip(c, u, strict=True)
    s = [np.linalg.lstsq(b.reshape(-1, 1), a.ravel())[0][0] for a, b in rows]
    expected = 3 * c - 2 * np.reshape(s, (4, 1, 1, 1)) * u
    np.testing.assert_allclose(found.eps - found.x0, expected, atol=2e-3)


@pytest.mark.parametrize("spacing", ["trailing", "linear"])
def test_the_first_steps_stand_still(untold, spacing):
    """Of five steps the first two, by the levels of the chain; clipping does not."""
    options = {"sampler": "ddim", "num_steps": 5, "spacing": spacing}
    asked = ask(**options, zero_init_steps=2, clip=True)
    check(untold.spec, asked)

    @jax.jit  # where programs build their denoisers
    def denoise(x_t, level):
        return assembly.denoiser(untold.spec, asked, untold.unet, None)(x_t, level)

    plain = jax.jit(assembly.denoiser(untold.spec, ask(clip=True), untold.unet, None))
    levels = assembly.levels(untold.spec, asked)
    for i in range(5):
        level = jax.tree.map(lambda leaf, i=i: leaf[i], levels)
        found = denoise(3 * X, level)
        if i < 2:
            still = 3 * X / (level.alpha + level.sigma)
            np.testing.assert_allclose(found.x0, still, rtol=1e-6)
            np.testing.assert_allclose(found.eps, still, rtol=1e-6)
        else:
            np.testing.assert_allclose(found.x0, plain(3 * X, level).x0, atol=1e-6)
            assert np.abs(found.x0).max() <= 1


@pytest.mark.parametrize("class_conditional", [True, False])
def test_classifier_guidance_is_fitted_to_the_data(told, untold, class_conditional):
    model = told if class_conditional else untold
    pixels, labels = data.in_memory(data.load("digits", split="train"))
    log_prob = gaussian_classifier(images.to_float(pixels), labels, 10)

    def total(x):
        return jnp.sum(log_prob(x, model.level, {"label": LABELS}))

    gradient = jax.jit(jax.grad(total))(X)
    before = model.predict(LABELS if class_conditional else None)
    found = model.predict(classifier_scale=2.0)
    np.testing.assert_allclose(
        found.eps, before.eps - 2 * model.level.sigma * gradient, atol=2e-4
    )
    moved = np.abs(np.asarray(found.eps - before.eps)).max(axis=(1, 2, 3))
    assert moved[2] < 1e-4 < 1e-2 < min(moved[[0, 1, 3]])


def test_an_unconditional_model_without_labels_is_not_guided(untold):
    found = untold.predict(label=None, classifier_scale=2.0)
    np.testing.assert_allclose(found.eps, untold.predict(label=None).eps, atol=1e-5)


def test_thresholding_comes_last(told):
    """x0 of strong guidance lies far outside; either way of clipping is outermost."""
    wild = np.asarray(told.predict(guidance_scale=8.0).x0)
    assert np.abs(wild).max() > 2
    clipped = told.predict(guidance_scale=8.0, clip=True)
    np.testing.assert_allclose(clipped.x0, np.clip(wild, -1, 1), atol=1e-4)
    found = told.predict(guidance_scale=8.0, clip=True, dynamic_percentile=0.9)
    s = np.quantile(np.abs(wild).reshape(4, -1), 0.9, axis=1)
    s = np.maximum(s, 1)[:, None, None, None]
    np.testing.assert_allclose(found.x0, np.clip(wild, -s, s) / s, atol=1e-4)
    for said in (clipped, found):
        np.testing.assert_allclose(
            add_noise(said.x0, said.eps, told.level), X, atol=1e-4
        )


def test_labels_may_be_asked_of_a_model_that_only_its_classifier_knows():
    spec = spec_of(False)
    asked = ask(classifier_scale=1.0, num_images=3, label="7,none")
    assert assembly.sample_labels(spec, INFO, asked).tolist() == [7, 10, 7]
    assert assembly.sample_labels(spec, INFO, ask()) is None


@pytest.mark.parametrize(
    ("conditional", "options", "message"),
    [
        (False, {"guidance_scale": 3.0}, "was trained without labels or text; use 1"),
        (True, {"guidance_scale": float("inf")}, "guidance_scale=inf is not finite"),
        (True, {"guidance_scale": 1e30}, r"use -1000 to 1000, such as 2\."),
        (True, {"classifier_scale": -1e30}, r"use -1000 to 1000, such as 2\."),
        (True, {"guidance_low": 2.0, "guidance_high": 1.0}, "are no range"),
        (True, {"guidance_low": -1.0}, "are no range"),
        (True, {"guidance_rescale": 1.5}, r"guidance_rescale=1.5 is not in \[0, 1\]"),
        (True, {"guidance_parallel": -0.5}, r"not in \[0, 1\]; use 1 to switch it off"),
        (
            True,
            {"guidance_norm": 0.0},
            "guidance_norm=0.0 is not above 0; leave it out",
        ),
        (True, {"zero_init_steps": -1}, "zero_init_steps=-1 is too small; use 0"),
        (True, {"autoguidance": 1e30}, r"use -1000 to 1000, such as 2\."),
        (False, {"guidance_optimized": True}, "does nothing at guidance_scale 1"),
        (
            True,
            {"classifier_scale": float("nan")},
            "classifier_scale=nan is not finite",
        ),
        (True, {"clip": True, "dynamic_percentile": 99.5}, "dynamic_percentile=99.5"),
        (True, {"dynamic_percentile": 0.995}, "leave one of them out"),
    ],
)
def test_guidance_that_cannot_work_is_refused(conditional, options, message):
    with pytest.raises(UserError, match=message) as refusal:
        check(spec_of(conditional), ask(**options))
    assert "\n" not in str(refusal.value)


def test_a_model_that_always_saw_its_label_cannot_be_guided_away_from_none():
    spec = spec_of(True, "condition_dropout=0")
    with pytest.raises(UserError, match=r"config\.condition_dropout above 0"):
        check(spec, ask(guidance_scale=2.0))
    check(spec, ask(guidance_scale=1.0))


def test_a_classifier_needs_labels():
    info = assembly.DataInfo("folder:pictures", (8, 8, 1), None, "")
    with pytest.raises(UserError, match="folder:pictures has no labels"):
        check(spec_of(False), ask(classifier_scale=1.0), info)
