"""Options that would do nothing are refused in a line; at their default none is."""

import re

import pytest
from settings import default

from ddpm_jax import build
from ddpm_jax.build import autoencode, features, idle, retrieval
from ddpm_jax.errors import UserError

INFO = build.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")


def config_of(**options):
    """A small network on 40 levels; options as section__name."""
    config = default()
    config.network.channels, config.network.num_groups = 8, 4
    config.network.channel_multipliers = (1, 2)
    config.discriminator_weight = 0.0  # these images are too small for it
    config.schedule.num_levels, config.preview_steps = 40, 10
    for name, value in options.items():
        section, _, rest = name.partition("__")
        config[section][rest] = value
    return config


def check(config):
    """All that a training by this config, and its other modes, would check."""
    build.check(config, INFO)
    build.check_training_effects(config, INFO)
    if not config.model.picture:  # else there is no likelihood
        build.check_likelihood(config)
    build.check_evaluate(config)
    autoencode.check_autoencode(config, INFO)
    features.check_features(config, INFO)


GUIDED = {"model__class_conditional": True, "sample__guidance_scale": 3.0}

# What does nothing, what the line says, and with what it has an effect.
IDLE = [
    ({"sample__eta": 0.5}, "eta=0.5 .* sampler ddim", {"sample__sampler": "ddim"}),
    (
        {"sample__eta": 0.5, "sample__sampler": "heun"},
        "eta=0.5",
        {"sample__sampler": "ddim"},
    ),
    (
        {"sample__rtol": 1e-3, "sample__sampler": "euler"},
        "rtol=0.001 .* sampler adaptive",
        {"sample__sampler": "adaptive"},
    ),
    ({"sample__atol": 1e-3}, "atol", {"sample__sampler": "adaptive"}),
    *(
        (
            {"sample__sampler": "euler", f"sample__churn_{name}": value},
            f"churn_{name}={value} does nothing without churn",
            {"sample__churn": 4.0},
        )
        for name, value in (("low", 0.1), ("high", 1.5), ("noise", 1.1))
    ),
    (
        {"sample__variance": "small", "sample__sampler": "ddim"},
        "variance='small' .* sampler ancestral",
        {"sample__sampler": "ancestral"},
    ),
    *(
        (
            {f"sample__guidance_{name}": value, "model__class_conditional": True},
            f"guidance_{name}={value} does nothing at guidance_scale 1",
            GUIDED,
        )
        for name, value in (("low", 0.1), ("high", 1.5), ("rescale", 0.7))
    ),
    (
        {"sample__guidance_rescale": 0.7, "model__class_conditional": True},
        "guidance_rescale=0.7 does nothing",
        {"evaluate__guidance_scales": "1,2"},
    ),
    (
        {"diffusion__min_snr_gamma": 4.0},
        "min_snr_gamma=4.0 .* loss min_snr",
        {"diffusion__loss": "min_snr"},
    ),
    ({"diffusion__p2_k": 0.5}, "p2_k=0.5 .* loss p2", {"diffusion__loss": "p2"}),
    ({"diffusion__p2_gamma": 0.5}, "p2_gamma", {"diffusion__loss": "p2"}),
    (
        {"training__label_dropout": 0.2},
        "label_dropout=0.2 .* without labels or text",
        {"model__class_conditional": True},
    ),
    (
        {"model__num_heads": 2, "model__head_channels": 4},
        "num_heads=2 .*head_channels",
        {"model__head_channels": None},
    ),
    (
        {"model__picture_factor": 4},
        "picture_factor=4 .* low_res",
        {"model__picture": "low_res"},
    ),
    ({"model__text_length": 5}, "text_length=5 does nothing without model.text", None),
    ({"model__text_width": 64}, "text_width=64 .* words or bytes", None),
    ({"model__text_depth": 3}, "text_depth=3", None),
    ({"model__text_heads": 2}, "text_heads=2", None),
    (
        {"model__resample_blocks": True, "model__channel_multipliers": (1,)},
        "resample_blocks=True .* one level",
        {"model__channel_multipliers": (1, 2)},
    ),
    (
        {"model__downsample_padding": 1, "model__resample_blocks": True},
        "downsample_padding=1 .* no convolution halves",
        {"model__resample_blocks": False},
    ),
    (
        {"model__attention_resolutions": (16, 4)},
        r"has 16, .* the maps are 8, 4",
        {"model__attention_resolutions": (8, 4)},
    ),
    (
        {"training__warmup_steps": 200, "training__num_steps": 100},
        "warmup_steps=200 .* all 100 steps",
        {"training__num_steps": 200},
    ),
    (
        {"features__warmup_steps": 200, "features__num_steps": 100},
        "training.warmup_steps=200",
        {"features__num_steps": 200},
    ),
    (
        {"autoencoder__warmup_steps": 200, "autoencoder__num_steps": 100},
        "training.warmup_steps=200",
        {"autoencoder__num_steps": 200},
    ),
    (
        {"autoencoder__perceptual_weight": 2.0},
        "perceptual_weight=2.0 does nothing without",
        None,
    ),
    *(
        (
            {"likelihood__method": "bound", f"likelihood__{name}": value},
            f"likelihood.{name}={value} does nothing with method bound",
            {"likelihood__method": "both"},
        )
        for name, value in (("ode_steps", 5), ("num_probes", 2), ("rtol", 1e-3))
    ),
    *(
        (
            {"likelihood__method": "ode", f"likelihood__{name}": value},
            f"likelihood.{name}=.* does nothing with method ode",
            {"likelihood__method": "both"},
        )
        for name, value in (("variance", "small"), ("clip", False), ("num_steps", 5))
    ),
    (
        {"likelihood__atol": 1e-3, "likelihood__ode_steps": 5},
        "atol=0.001 does nothing beside likelihood.ode_steps",
        {"likelihood__ode_steps": None},
    ),
    (
        {"evaluate__resize": "clean", "evaluate__features": "runs/features"},
        "resize='clean' .* features inception",
        {"evaluate__features": "inception"},
    ),
    (
        {"evaluate__reference_split": "test", "evaluate__reference": "npz:a.npz"},
        "reference_split='test' does nothing beside",
        {"evaluate__reference": ""},
    ),
    # Their ranges hold no level: sigma / alpha is 0.01 to 0.7.
    (
        {"sample__sampler": "euler", "sample__churn": 4.0, "sample__churn_low": 20.0},
        r"churn_low=20.0 and churn_high=inf hold none of the levels",
        {"sample__churn_low": 0.5},
    ),
    (
        {**GUIDED, "sample__guidance_high": 1e-3},
        r"guidance_high=0.001 hold none .* leave out the guidance",
        {"sample__guidance_high": 0.5},
    ),
    # Not without effect, but the other way round.
    (
        {"diffusion__beta_start": 0.05},
        "beta_start=0.05 is above beta_end=0.02",
        {"diffusion__beta_end": 0.06},
    ),
    (
        {"diffusion__beta_end": 1e-5},
        "beta_start=0.0001 is above beta_end=1e-05",
        {"diffusion__beta_start": 1e-6},
    ),
]


@pytest.mark.parametrize(
    ("options", "said", "mended"), IDLE, ids=[str(row[0]) for row in IDLE]
)
def test_an_option_without_effect_is_refused(options, said, mended):
    with pytest.raises(UserError) as refusal:
        check(config_of(**options))
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)
    if mended is not None:
        check(config_of(**{**options, **mended}))


def test_no_default_is_refused():
    """Though the warm-up of CIFAR-10 is longer than this run, and its attention at a
    size that no map of these has."""
    check(config_of(training__num_steps=100))


def test_every_rule_is_tested():
    rules = (
        *(idle.SAMPLING, idle.TRAINING, idle.LIKELIHOOD),
        *(idle.EVALUATE, idle.AUTOENCODER),
    )
    named = {option for group in rules for option, _, _ in group}
    tested = {name.replace("__", ".") for row in IDLE for name in row[0]}
    assert named - tested == {"sample.dynamic_percentile"}  # below


def test_nothing_is_clipped_in_latents():
    config = config_of(sample__dynamic_percentile=0.9, data__latents="runs/autoencoder")
    with pytest.raises(UserError, match="does nothing in latents"):
        idle.check_sampling_effects(config)


def test_the_warm_up_of_a_retrieval_network():
    config = config_of(retrieval__warmup_steps=200, retrieval__num_steps=100)
    info = build.DataInfo("words", (8, 8, 1), None, "", {"kind": "words"}, ("a",))
    with pytest.raises(UserError, match=r"training.warmup_steps=200 does nothing but"):
        retrieval.check_retrieval(config, info)


@pytest.mark.parametrize(
    ("option", "value", "mode", "method", "used_in"),
    [
        ("mask", "m.png", "encode", "ddim", ("inpaint", "replace")),
        ("strength", 0.3, "inpaint", "repaint", ("image-to-image", "sdedit")),
        ("num_points", 9, "encode", "ddim", ("interpolate", "noise")),
        ("factor", 4, "colorize", "project", ("upscale", "project")),
        ("weight", 0.5, "inpaint", "project", ("inpaint", "guidance")),
        ("jump_length", 5, "inpaint", "replace", ("inpaint", "repaint")),
        ("num_resamples", 20, "upscale", "project", ("inpaint", "repaint")),
        ("iterations", 1, "interpolate", "noise", ("interpolate", "encode")),
    ],
)
def test_an_option_that_an_edit_does_not_look_at_is_refused(
    option, value, mode, method, used_in
):
    config = config_of(**{f"edit__{option}": value})
    said = rf"edit.{option}=.* does nothing in mode {mode} by method {method}: .*"
    with pytest.raises(UserError, match=said) as refusal:
        idle.check_edit_effects(config, mode, method)
    assert "\n" not in str(refusal.value)
    idle.check_edit_effects(config, *used_in)
    idle.check_edit_effects(config_of(), mode, method)  # the default is no request
