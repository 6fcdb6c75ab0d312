"""Options that would do nothing are refused in a line; at their default none is."""

import re

import pytest
from settings import changed, default

from ddpm_jax import assembly
from ddpm_jax.assembly import autoencode, features, idle, retrieval
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    VAE,
    AutoencoderTask,
    ClassifierTask,
    ContrastiveTask,
    FlowTask,
    recipe,
)

INFO = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
SMALL = (
    *("network.channels=8", "network.num_groups=4", "network.channel_multipliers=1,2"),
    *("schedule.num_levels=40", "preview_steps=10"),
)


def config_of(*options):
    """A small network on 40 levels."""
    return default(*SMALL, *options)


def check(config):
    """All that a training by this config, and its requests, would check."""
    assembly.check(config, INFO)
    assembly.check_training_effects(config, INFO)
    if not assembly.map_name(config):  # else there is no likelihood
        assembly.check_likelihood(config)
    assembly.check_evaluate(config)


LABELED = "conditioners.label.kind=label"
GUIDED = (LABELED, "sample.guidance_scale=3")

# What does nothing, what the line says, and with what it has an effect.
IDLE = [
    (["sample.eta=0.5"], "eta=0.5 .* sampler ddim", ["sample.sampler=ddim"]),
    (
        ["sample.eta=0.5", "sample.sampler=heun"],
        "eta=0.5",
        ["sample.sampler=ddim"],
    ),
    (
        ["sample.rtol=0.001", "sample.sampler=euler"],
        "rtol=0.001 .* sampler adaptive",
        ["sample.sampler=adaptive"],
    ),
    (["sample.atol=0.001"], "atol", ["sample.sampler=adaptive"]),
    *(
        (
            ["sample.sampler=euler", f"sample.churn_{name}={value}"],
            f"churn_{name}={value} does nothing without churn",
            ["sample.churn=4"],
        )
        for name, value in (("low", 0.1), ("high", 1.5), ("noise", 1.1))
    ),
    (
        ["sample.variance=small", "sample.sampler=ddim"],
        "variance='small' .* sampler ancestral",
        ["sample.sampler=ancestral"],
    ),
    *(
        (
            [f"sample.guidance_{name}={value}", LABELED],
            f"guidance_{name}={value} does nothing at guidance_scale 1",
            GUIDED,
        )
        for name, value in (("low", 0.1), ("high", 1.5), ("rescale", 0.7))
    ),
    (
        ["sample.guidance_rescale=0.7", LABELED],
        "guidance_rescale=0.7 does nothing",
        ["evaluate.guidance_scales=1,2"],
    ),
    (
        ["condition_dropout=0.2"],
        r"config\.condition_dropout=0.2 .* without labels or text",
        [LABELED],
    ),
    (
        ["data_std=0.3"],
        r"config\.data_std=0.3 does nothing but with prediction edm",
        ["prediction=edm"],
    ),
    (
        ["schedule.t_range=100", "prediction=edm"],
        r"config\.schedule\.t_range=100 does nothing with prediction edm",
        ["prediction=v"],
    ),
    (
        ["network.num_heads=2", "network.head_channels=4"],
        r"config\.network\.num_heads=2 .*head_channels",
        ["network.head_channels=None"],
    ),
    (
        ["network.resample_blocks=True", "network.channel_multipliers=1"],
        "resample_blocks=True .* one level",
        ["network.channel_multipliers=1,2"],
    ),
    (
        ["network.downsample_padding=1", "network.resample_blocks=True"],
        "downsample_padding=1 .* no convolution halves",
        ["network.resample_blocks=False"],
    ),
    (
        ["network.attention_resolutions=16,4"],
        r"has 16, .* the maps are 8, 4",
        ["network.attention_resolutions=8,4"],
    ),
    (
        ["training.warmup_steps=200", "training.num_steps=100"],
        "warmup_steps=200 .* all 100 steps",
        ["training.num_steps=200"],
    ),
    *(
        (
            ["likelihood.method=bound", f"likelihood.{name}={value}"],
            f"likelihood.{name}={value} does nothing with method bound",
            ["likelihood.method=both"],
        )
        for name, value in (("ode_steps", 5), ("num_probes", 2), ("rtol", 1e-3))
    ),
    *(
        (
            ["likelihood.method=ode", f"likelihood.{name}={value}"],
            f"likelihood.{name}=.* does nothing with method ode",
            ["likelihood.method=both"],
        )
        for name, value in (("variance", "small"), ("clip", False), ("num_steps", 5))
    ),
    (
        ["likelihood.atol=0.001", "likelihood.ode_steps=5"],
        "atol=0.001 does nothing beside likelihood.ode_steps",
        ["likelihood.ode_steps=None"],
    ),
    (
        ["evaluate.resize=clean", "evaluate.features=runs/features"],
        "resize='clean' .* features inception",
        ["evaluate.features=inception"],
    ),
    (
        ["evaluate.reference_split=test", "evaluate.reference=npz:a.npz"],
        "reference_split='test' does nothing beside",
        ["evaluate.reference="],
    ),
    # Options of another kind of loss or conditioner than that of the recipe.
    (
        ["loss.gamma=4"],
        r"unknown option config\.loss\.gamma; config\.loss \(simple\) has no options",
        ["loss.kind=min_snr"],
    ),
    (["loss.k=0.5"], r"unknown option config\.loss\.k; .*simple", ["loss.kind=p2"]),
    (
        ["loss.kind=min_snr", "loss.k=0.5"],
        r"unknown option config\.loss\.k; config\.loss \(min_snr\) has gamma",
        ["loss.kind=p2"],
    ),
    (
        ["conditioners.low_res.factor=4"],
        r"unknown option config\.conditioners\.low_res; config\.conditioners has none",
        ["conditioners.low_res.kind=low_res"],
    ),
    (
        [LABELED, "conditioners.text.length=5"],
        r"unknown option config\.conditioners\.text; config\.conditioners has label",
        None,
    ),
    *(
        (
            ["conditioners.text.kind=minilm", f"conditioners.text.{name}={value}"],
            rf"option config\.conditioners\.text\.{name}; .*minilm\) has length",
            None,
        )
        for name, value in (("width", 64), ("depth", 3), ("num_heads", 2))
    ),
    (
        ["conditioners.low_res.kind=low_res", "conditioners.low_res.frequency_shift=0"],
        "low_res.frequency_shift=0 does nothing without",
        ["conditioners.low_res.max_aug_level=0.5"],
    ),
    # Their ranges hold no level: sigma / alpha is 0.01 to 0.7.
    (
        ["sample.sampler=euler", "sample.churn=4", "sample.churn_low=20"],
        r"churn_low=20.0 and churn_high=inf hold none of the levels",
        ["sample.churn_low=0.5"],
    ),
    (
        [*GUIDED, "sample.guidance_high=0.001"],
        r"guidance_high=0.001 hold none .* leave out the guidance",
        ["sample.guidance_high=0.5"],
    ),
    # Not without effect, but the other way round.
    (
        ["schedule.beta_start=0.05"],
        "beta_start=0.05 is above beta_end=0.02",
        ["schedule.beta_end=0.06"],
    ),
    (
        ["schedule.beta_end=0.00001"],
        "beta_start=0.0001 is above beta_end=1e-05",
        ["schedule.beta_start=0.000001"],
    ),
]


@pytest.mark.parametrize(
    ("options", "said", "mended"), IDLE, ids=[" ".join(row[0]) for row in IDLE]
)
def test_an_option_without_effect_is_refused(options, said, mended):
    with pytest.raises(UserError) as refusal:
        check(config_of(*options))
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)
    if mended is not None:
        check(config_of(*options, *mended))


OF_REQUESTS = [
    row[0]
    for row in IDLE
    if row[0][0].partition(".")[0] in ("sample", "likelihood", "evaluate")
    and "does nothing" in row[1]
]


@pytest.mark.parametrize("options", OF_REQUESTS, ids=" ".join)
def test_what_a_recipe_sets_for_another_request_is_left_out(options):
    """Only what was asked for is refused: nobody can leave out a line of a recipe."""
    config = config_of(*options)
    given = {option.partition("=")[0] for option in options}
    idle.leave_out_idle(config, given)
    with pytest.raises(UserError, match="does nothing"):
        check(config)
    idle.leave_out_idle(config, ())
    check(config)


def test_what_has_an_effect_is_never_left_out():
    config = config_of("sample.sampler=ddim", "sample.eta=0.5")
    idle.leave_out_idle(config, ())
    assert config.sample.eta == 0.5
    config.sample.sampler = "heun"
    idle.leave_out_idle(config, {"sample.sampler"})
    assert config.sample.eta == 0


def test_a_recipe_may_set_options_of_several_edits():
    config = config_of("edit.num_resamples=20", "edit.strength=0.3")
    idle.leave_out_idle(config, (), "inpaint")
    assert (config.edit.num_resamples, config.edit.strength) == (20, 0.5)
    idle.check_edit_effects(config, "inpaint", "repaint")


@pytest.mark.parametrize(
    "task", [ClassifierTask(), AutoencoderTask(), VAE(), FlowTask()], ids=repr
)
def test_other_kinds_of_models_have_fewer_options(task):
    config = recipe(task)
    idle.leave_out_idle(config, (), "interpolate")
    assert config == recipe(task)


def test_no_default_is_refused():
    """Though the warm-up of CIFAR-10 is longer than this run, and its attention at a
    size that no map of these has."""
    check(config_of("training.num_steps=100"))


def test_every_rule_is_tested():
    rules = (*idle.SAMPLING, *idle.UNET, *idle.LIKELIHOOD, *idle.EVALUATE)
    named = {option for option, _, _ in rules}
    tested = {option.partition("=")[0] for row in IDLE for option in row[0]}
    assert named - tested == {"sample.dynamic_percentile"}  # below


def test_nothing_is_clipped_in_latents():
    config = config_of("sample.dynamic_percentile=0.9")
    idle.check_sampling_effects(config)
    config = changed(config, "codec.kind=latents", "codec.run=runs/autoencoder")
    with pytest.raises(UserError, match="does nothing in latents"):
        idle.check_sampling_effects(config)


@pytest.mark.parametrize(
    ("task", "check"),
    [
        (ClassifierTask(), features.check_features),
        (AutoencoderTask(), autoencode.check_autoencode),
        (ContrastiveTask(), retrieval.check_retrieval),
    ],
)
def test_the_warm_up_of_an_auxiliary_model(task, check):
    config = recipe(task)
    config.training.num_steps = 100
    check(config, INFO)  # the default is longer than this, and no request
    config.training.warmup_steps = 200
    with pytest.raises(UserError, match=r"training.warmup_steps=200 does nothing but"):
        check(config, INFO)
    config.training.num_steps = 200
    check(config, INFO)


def test_the_weight_of_a_distance_that_is_not_there():
    said = r"config\.perceptual_weight=2.0 does nothing without perceptual; name"
    with pytest.raises(UserError, match=said):
        changed(recipe(AutoencoderTask()), "perceptual_weight=2")
    found = changed(recipe(AutoencoderTask()), "perceptual_weight=2", "perceptual=runs")
    assert found.perceptual_weight == 2


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
    config = config_of(f"edit.{option}={value}")
    said = rf"edit.{option}=.* does nothing in mode {mode} by method {method}: .*"
    with pytest.raises(UserError, match=said) as refusal:
        idle.check_edit_effects(config, mode, method)
    assert "\n" not in str(refusal.value)
    idle.check_edit_effects(config, *used_in)
    idle.check_edit_effects(config_of(), mode, method)  # the default is no request
