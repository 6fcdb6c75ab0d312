"""Options that would do nothing are refused in a line; at their default none is."""

import dataclasses
import re

import pytest
from settings import changed, default

from ddpm_jax import assembly
from ddpm_jax.assembly import autoencode, features, idle, retrieval
from ddpm_jax.commands.begin import check_defaults
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    VAE,
    AutoencoderTask,
    ClassifierTask,
    ContrastiveTask,
    Fit,
    FlowTask,
    from_json,
    recipe,
)
from ddpm_jax.requests import (
    Attributes,
    Colorize,
    Edit,
    Evaluate,
    ImageToImage,
    Inpaint,
    Interpolate,
    Likelihood,
    Sample,
)
from ddpm_jax.requests.flags import sections_of
from ddpm_jax.requests.options import Chain

INFO = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
SMALL = (
    *("network.channels=8", "network.num_groups=4", "network.channel_multipliers=1,2"),
    *("schedule.num_levels=40", "preview_steps=10"),
)
REQUESTS = (Sample, Likelihood)


def recipe_of(*options):
    """A small network on 40 levels."""
    return default(*SMALL, *options)


def check(made, requests=None):
    """All that a training by this recipe, and its requests, would check."""
    spec = made.task
    assembly.check(spec, INFO)
    assembly.check_training_effects(spec, made.training, INFO)
    if requests is None:
        requests = [made.request(kind) for kind in REQUESTS]
    sample, likelihood = requests
    assembly.check_sample(spec, INFO, sample)
    if not spec.map_name:  # else there is no likelihood
        assembly.check_likelihood(spec, INFO, likelihood)


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
        ([f"sample.{scale}_scale=3", LABELED, "sample.labels=none"], "none", labels)
        for scale, labels in (
            ("guidance", ["sample.labels=0,none"]),
            ("classifier", ["sample.labels=0"]),
        )
    ),
    (
        ["sample.prior=text"],
        "prior='text' does nothing in a model that no image embedding conditions",
        None,
    ),
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
        for name, value in (
            *(("low", 0.1), ("high", 1.5), ("rescale", 0.7)),
            *(("parallel", 0.0), ("norm", 2.5), ("optimized", True)),
        )
    ),
    *(
        ([*GUIDED, f"sample.{one}", f"sample.{other}"], said, [f"sample.{mended}"])
        for one, other, said, mended in (
            (
                "guidance_rescale=0.7",
                "guidance_parallel=0",
                "rescale=0.7 does nothing beside sample.guidance_parallel, another way",
                "guidance_rescale=0",
            ),
            (
                "guidance_norm=2.5",
                "guidance_optimized=True",
                "norm=2.5 does nothing beside sample.guidance_optimized",
                "guidance_norm=None",
            ),
            (
                "guidance_optimized=True",
                "guidance_rescale=0.7",
                "beside",
                "guidance_optimized=False",
            ),
        )
    ),
    (
        ["sample.guidance_low=0.1"],
        "guidance_low=0.1 does nothing at guidance_scale 1",
        ["sample.autoguidance=2"],
    ),
    *(
        (
            ["sample.zero_init_steps=1", *more],
            "zero_init_steps=1 does nothing but with sampler ddim or euler, and",
            mended,
        )
        for more, mended in (
            ([], ["sample.sampler=euler"]),
            (["sample.sampler=heun"], ["sample.sampler=ddim"]),
            (["sample.sampler=ddim", "sample.eta=0.5"], ["sample.eta=0"]),
            (["sample.sampler=euler", "sample.churn=5"], ["sample.churn=0"]),
        )
    ),
    (
        ["sample.zero_init_steps=40", "sample.sampler=ddim"],
        "zero_init_steps=40 leaves none of the 40 steps",
        ["sample.zero_init_steps=39"],
    ),
    *(
        (
            [f"sample.autoguidance_{name}={value}"],
            f"autoguidance_{name}={value} does nothing without autoguidance; set",
            ["sample.autoguidance=2"],
        )
        for name, value in (("step", 5), ("ema", False), ("ema_std", 0.1))
    ),
    (
        [
            *("sample.autoguidance=2", "sample.autoguidance_ema=False"),
            "sample.autoguidance_ema_std=0.1",
        ],
        "ema_std=0.1 does nothing beside sample.autoguidance_ema=False",
        ["sample.autoguidance_ema=True"],
    ),
    (
        ["sample.negative_prompt=x"],
        "negative_prompt='x' does nothing at guidance_scale 1",
        None,  # a model without text has no other remedy
    ),
    (
        ["sample.prompt_to=x"],
        "prompt_to='x' does nothing without one prompt .* give sample.prompt",
        None,
    ),
    (
        ["sample.sampler=ddim", "sample.churn=4"],
        "churn=4.0 does nothing with sampler ddim; use euler or heun",
        ["sample.sampler=heun"],
    ),
    (
        ["sample.ema=False", "sample.ema_std=0.1"],
        "ema_std=0.1 does nothing beside sample.ema=False",
        ["sample.ema=True"],
    ),
    (
        ["sample.clip=False", "sample.dynamic_percentile=0.9"],
        "dynamic_percentile=0.9 does nothing beside sample.clip=False",
        ["sample.clip=True"],
    ),
    (
        ["sample.spacing=sections:5,5", "sample.num_steps=20"],
        "spacing='sections:5,5' does nothing beside sample.num_steps=20: .* 10 steps",
        ["sample.num_steps=10"],
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
        ["network.patch=2", "network.attention_resolutions=8,2"],
        r"has 8, .* the maps are 4, 2 on .* in patches of 2 pixels",
        ["network.attention_resolutions=4,2"],
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
        ["likelihood.num_samples=5"],
        "num_samples=5 does nothing in a diffusion model",
        ["likelihood.num_samples=64"],
    ),
    (
        ["likelihood.ode_steps=5", "likelihood.rtol=0.001"],
        "rtol=0.001 does nothing beside likelihood.ode_steps",
        ["likelihood.rtol=0.0001"],
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
            rf"option config\.conditioners\.text\.{name}; .*minilm\) has "
            "condition_dropout, length",
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
    (
        ["sample.autoguidance=2", "sample.guidance_high=0.001"],
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
        check(recipe_of(*options))
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)
    if mended is not None:
        check(recipe_of(*options, *mended))


OF_REQUESTS = [
    row[0]
    for row in IDLE
    if row[0][0].partition(".")[0] in ("sample", "likelihood")
    and "does nothing" in row[1]
]


@pytest.mark.parametrize("options", OF_REQUESTS, ids=" ".join)
def test_what_a_recipe_sets_for_another_request_is_left_out(options):
    """Only what was asked for is refused: nobody can leave out a line of a recipe."""
    made = recipe_of(*options)

    def left(given):
        requests = [made.request(kind) for kind in REQUESTS]
        return [idle.leave_out_idle(made.task, one, given(one)) for one in requests]

    with pytest.raises(UserError, match="does nothing"):
        check(made, left(lambda request: set(vars(request))))
    check(made, left(lambda request: ()))


# Of an evaluation: what does nothing beside which other, and what the line says. The
# other, given alone, is never refused.
EVALUATED = [
    ({"resize": "clean"}, {"features": "runs/a"}, "but with features inception"),
    ({"weights": "a.pt"}, {"features": "runs/a"}, "beside evaluate.features=runs/a"),
    *(
        ({f"{name}_split": "all"}, {"reference": "npz:a.npz"}, "has its own images")
        for name in ("reference", "baseline")
    ),
    ({"allow_few": True}, {"scores": "kernel,precision"}, "without a Frechet distance"),
    *(
        ({f"likelihood_{name}": value}, {}, "without score bits_per_dim; name it in")
        for name, value in (
            *(("split", "train"), ("num_images", 5), ("num_steps", 5)),
            *(("batch_size", 5), ("num_samples", 5)),
        )
    ),
    ({"step": 5}, {"checkpoints": "5,10"}, "beside evaluate.checkpoints"),
    ({"num_steps": 5}, {"sample_steps": "5,10"}, "beside evaluate.sample_steps"),
    (
        {"spacing": "sections:5,5"},
        {"sample_steps": "5,10"},
        "beside evaluate.sample_steps=5,10: its sections make 10 steps",
    ),
    ({"guidance_scale": 2.0}, {"guidance_scales": "1,2"}, "evaluate.guidance_scales"),
    *(
        ({name: value}, {"images": "npz:a.npz"}, "as nothing is sampled")
        for name, value in {
            **{"sampler": "ddim", "num_steps": 5, "eta": 0.5, "clip": False, "step": 3},
            **{"ema": False, "label": "7", "seed": 1, "batch_size": 8},
            **{"num_seeds": 2, "sample_steps": "5", "guidance_scales": "1,2"},
            **{"checkpoints": "all", "picture": "data:test", "prompt": "x"},
        }.items()
    ),
    ({"num_seeds": 2}, {"images": "noise"}, "beside evaluate.images=noise"),
    ({"sampler": "ddim"}, {"images": "data:test"}, "beside evaluate.images=data:test"),
    (
        {"scores": "frechet,bits_per_dim"},
        {"images": "noise"},
        "for bits_per_dim, which is of a model, beside evaluate.images=noise",
    ),
]


@pytest.mark.parametrize("spec", [recipe_of(LABELED).task, VAE()], ids=type)
@pytest.mark.parametrize(("idle_one", "other", "said"), EVALUATED, ids=str)
def test_what_an_evaluation_does_not_look_at(spec, idle_one, other, said):
    """Given it is refused, and left out where only a recipe has it."""
    asked, beside = Evaluate(**idle_one, **other), Evaluate(**other)
    plain = isinstance(spec, VAE)  # which knows fewer options
    with pytest.raises(UserError, match="nothing" if plain else said) as refusal:
        idle.refuse_idle(spec, asked)
    assert "\n" not in str(refusal.value)
    if plain and set(other) & idle.idle_fields(spec, beside):
        return
    idle.refuse_idle(spec, beside)
    assert idle.leave_out_idle(spec, asked, other) == beside


def test_guidance_to_no_class_does_nothing():
    spec = recipe_of(LABELED).task
    for words in ("none", "none, none"):
        for given in (
            {"guidance_scale": 3.0},
            {"guidance_scales": "1,3"},
            {"classifier_scale": 2.0},
        ):
            asked = Evaluate(label=words, **given)
            with pytest.raises(UserError, match="labels=none, which is no class"):
                idle.refuse_idle(spec, asked)
            left = idle.leave_out_idle(spec, asked, {"label"})
            assert left == Evaluate(label=words)
    idle.refuse_idle(spec, Evaluate(label="none,3", guidance_scale=3.0))
    # Without a class it guides to the text.
    texts = recipe_of("conditioners.text.kind=words", LABELED).task
    idle.refuse_idle(texts, Evaluate(label="none", guidance_scale=3.0))


def test_the_seed_of_noise_is_looked_at():
    idle.refuse_idle(recipe_of().task, Evaluate(images="noise", seed=3))


def test_scores_of_a_likelihood_look_at_its_options():
    asked = Evaluate(scores="kernel, bits_per_dim", likelihood_num_images=5)
    idle.refuse_idle(recipe_of().task, asked)


def test_given_images_have_no_options_of_a_sampling_in_attributes_either():
    spec = recipe_of().task
    asked = Attributes(images="folder:a")
    idle.refuse_idle(spec, asked)
    for given in ({"sampler": "ddim"}, {"num_images": 5}, {"sample_steps": "3"}):
        with pytest.raises(UserError, match="as nothing is sampled"):
            idle.refuse_idle(spec, dataclasses.replace(asked, **given))
    of_evaluate = dataclasses.replace(asked, images="noise")
    with pytest.raises(UserError, match="attributes, which reads captions"):
        idle.refuse_idle(spec, of_evaluate)
    assert idle.leave_out_idle(spec, of_evaluate) == Attributes()


# What a recipe sets, what is asked for, and what then is left of the recipe's.
EXCLUSIVE = [
    (
        Sample,
        {"sampler": "heun", "churn": 4.0, "churn_low": 0.5},
        {"sampler": "ddim"},
        {"churn": 0.0, "churn_low": 0.0},
    ),
    (Sample, {"dynamic_percentile": 0.9}, {"clip": False}, {"dynamic_percentile": 0.0}),
    (Sample, {"clip": False}, {"dynamic_percentile": 0.9}, {"clip": True}),
    (Sample, {"ema_std": 0.1}, {"ema": False}, {"ema_std": None}),
    (Likelihood, {"ema": False}, {"ema_std": 0.1}, {"ema": True}),
    (
        Sample,
        {"spacing": "sections:5,5"},
        {"num_steps": 20},
        {"spacing": "trailing"},
    ),
    (Sample, {"num_steps": 20}, {"spacing": "sections:5,5"}, {"num_steps": None}),
    (Sample, {"spacing": "sections:5,5"}, {"num_steps": 10}, {}),
    (
        Sample,
        {"guidance_scale": 3.0, "guidance_rescale": 0.7, "negative_prompt": "x"},
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.0, "negative_prompt": ""},
    ),
    (
        Sample,
        {"prompt": "a", "prompt_to": "b"},
        {"prompt": "file:a.txt"},
        {"prompt_to": ""},
    ),
    (Likelihood, {"ode_steps": 9}, {"rtol": 0.01}, {"ode_steps": None}),
    (Likelihood, {"rtol": 0.01}, {"ode_steps": 9}, {"rtol": 1e-4}),
    (Evaluate, {"weights": "a.pt"}, {"features": "runs/a"}, {"weights": None}),
    (Evaluate, {"features": "runs/a"}, {"weights": "a.pt"}, {"features": "inception"}),
    (Evaluate, {"checkpoints": "all"}, {"images": "noise"}, {"checkpoints": ""}),
    (Evaluate, {"checkpoints": "all"}, {"step": 5}, {"checkpoints": ""}),
    (Evaluate, {"step": 5}, {"checkpoints": "all"}, {"step": None}),
    (Evaluate, {"num_steps": 5}, {"sample_steps": "7,8"}, {"num_steps": None}),
    (Evaluate, {"sample_steps": "7,8"}, {"num_steps": 5}, {"sample_steps": ""}),
    (
        Evaluate,
        {"sample_steps": "7,8"},
        {"spacing": "sections:5,5"},
        {"sample_steps": ""},
    ),
    (Evaluate, {"guidance_scales": "1,2"}, {"guidance_scale": 3.0}, {}),
    (Evaluate, {"scores": "bits_per_dim"}, {"images": "noise"}, {"scores": "all"}),
    (Evaluate, {"images": "noise"}, {"scores": "bits_per_dim"}, {"images": ""}),
    (
        Evaluate,
        {"reference": "npz:a.npz"},
        {"reference_split": "test"},
        {"reference": ""},
    ),
]


@pytest.mark.parametrize(("kind", "of_recipe", "given", "left"), EXCLUSIVE, ids=str)
def test_what_was_asked_for_goes_before_what_only_the_recipe_sets(
    kind, of_recipe, given, left
):
    """Nobody can leave out a line of a recipe that is in the way."""
    of = kind.__dataclass_fields__
    lines = [f"{of[n].metadata['of']}={value}" for n, value in of_recipe.items()]
    made = recipe_of(LABELED, *lines)
    settled = idle.leave_out_idle(made.task, made.request(kind, **given), given)
    idle.refuse_idle(made.task, settled)
    found = {name: getattr(settled, name) for name in {**left, **given}}
    assert found == {**left, **given}


@pytest.mark.parametrize(
    ("kind", "both"),
    [(kind, {**of_recipe, **given}) for kind, of_recipe, given, left in EXCLUSIVE
     if left and not set(of_recipe) & set(given)],
    ids=str,
)  # fmt: skip
def test_of_both_that_were_asked_for_one_has_to_go(kind, both):
    spec = recipe_of(LABELED).task
    asked = idle.leave_out_idle(spec, kind(**both), both)
    assert asked == kind(**both)
    with pytest.raises(UserError, match=r"does nothing .*; (leave one|use)") as refusal:
        idle.refuse_idle(spec, asked)
    assert "\n" not in str(refusal.value)


def test_guidance_is_looked_at_where_one_of_several_scales_guides():
    spec = recipe_of(LABELED).task
    asked = Evaluate(guidance_rescale=0.7, guidance_scales="1,2")
    idle.refuse_idle(spec, asked)
    plain, guided = assembly.variants(spec, asked, [1])
    found = [(one.guidance_scale, one.guidance_rescale) for one in (plain, guided)]
    assert found == [(1.0, 0.0), (2.0, 0.7)]
    with pytest.raises(UserError, match=r"guidance_rescale=0\.7 does nothing"):
        idle.refuse_idle(spec, dataclasses.replace(asked, guidance_scales="1,1.0"))


def test_a_recipe_may_set_what_only_its_evaluation_looks_at():
    options = (LABELED, "sample.guidance_rescale=0.7")
    asked = check_defaults(recipe_of(*options, "evaluate.guidance_scales=1,2"), INFO)
    assert asked.guidance_rescale == 0.0  # of samples at scale 1
    with pytest.raises(UserError, match=r"guidance_rescale=0\.7 does nothing"):
        check_defaults(recipe_of(*options), INFO)


def test_what_has_an_effect_is_never_left_out():
    spec = recipe_of().task
    asked = idle.leave_out_idle(spec, Sample(sampler="ddim", eta=0.5))
    assert asked.eta == 0.5
    asked = dataclasses.replace(asked, sampler="heun")
    assert idle.leave_out_idle(spec, asked, {"sampler"}).eta == 0


def test_a_recipe_may_set_options_of_several_edits():
    made = recipe_of("edit.num_resamples=20", "edit.strength=0.3", "edit.weight=2")
    asked = idle.leave_out_idle(made.task, made.request(Inpaint))
    assert (asked.num_resamples, asked.weight) == (20, 1.0)
    idle.refuse_idle(made.task, asked)
    assert made.request(ImageToImage).strength == 0.3


@pytest.mark.parametrize("task", [VAE(), FlowTask()], ids=repr)
def test_of_other_kinds_of_models_too_only_what_was_asked_for_is_refused(task):
    made = from_json(recipe(task, sample={"num_images": 3, "eta": 0.5}))
    for kind in (Sample, Evaluate):
        asked = idle.leave_out_idle(task, made.request(kind))
        assert asked == made.request(kind, eta=0.0)
        idle.refuse_idle(task, asked)
        given = idle.leave_out_idle(task, made.request(kind), {"eta"})
        with pytest.raises(UserError, match=r"eta=0\.5 does nothing"):
            idle.refuse_idle(task, given)
    walk = made.request(Interpolate)
    assert idle.leave_out_idle(task, walk).num_points == walk.num_points


def test_no_default_is_refused():
    """Though the warm-up of CIFAR-10 is longer than this run, and its attention at a
    size that no map of these has."""
    check(recipe_of("training.num_steps=100"))


def test_every_rule_of_a_request_is_tested():
    spec = recipe_of().task
    tested = {option.partition("=")[0] for row in IDLE for option in row[0]}
    for kind in REQUESTS:
        options = {name: option for option, name in sections_of(kind).items()}
        named = {options[name] for name, _, _ in idle.rules_of(spec, kind())}
        assert named <= tested
    tested = {name for row in EVALUATED for part in row[:2] for name in part}
    of_chain = {name for name, _, _ in idle.rules_of(spec, Sample())}
    of_images = set(sections_of(Chain).values())  # all by one rule
    named = {name for name, _, _ in idle.rules_of(spec, Evaluate())}
    assert named - of_chain - of_images <= tested


def test_tokens_in_context_where_there_are_none():
    """An image embedding has tokens, a label and an enlarged image have not."""
    network = ("network.kind=dit", "network.tokens=context")
    said = (
        r"config\.network\.tokens='context' does nothing in a model .* no text and no"
    )
    runs = {"contrastive": assembly.RunInfo("it", "", {"width": 6, "token_width": 5})}
    given = dataclasses.replace(INFO, runs=runs)
    enlarging = ("conditioners.low_res.kind=low_res", "data.flip=False")
    for options in ((LABELED,), enlarging, ()):
        made = default(*network, *options)
        with pytest.raises(UserError, match=said) as refusal:
            assembly.check_training_effects(made.task, made.training, given)
        assert "\n" not in str(refusal.value)
    embedding = ("image_embedding.kind=image_embedding", "image_embedding.run=runs/it")
    made = default(*network, *(f"conditioners.{option}" for option in embedding))
    assembly.check_training_effects(made.task, made.training, given)


def test_nothing_is_clipped_in_latents():
    asked = Sample(dynamic_percentile=0.9)
    assembly.refuse_idle(recipe_of().task, asked)
    spec = recipe_of("codec.kind=latents", "codec.run=runs/autoencoder").task
    with pytest.raises(UserError, match="does nothing in latents"):
        assembly.refuse_idle(spec, asked)


@pytest.mark.parametrize(
    ("task", "check"),
    [
        (ClassifierTask(), features.check_features),
        (AutoencoderTask(), autoencode.check_autoencode),
        (ContrastiveTask(), retrieval.check_retrieval),
    ],
)
def test_the_warm_up_of_an_auxiliary_model(task, check):
    check(task, Fit(num_steps=100), INFO)  # the default is longer, and no request
    with pytest.raises(UserError, match=r"training.warmup_steps=200 does nothing but"):
        check(task, Fit(num_steps=100, warmup_steps=200), INFO)
    check(task, Fit(num_steps=200, warmup_steps=200), INFO)


def test_the_weight_of_a_distance_that_is_not_there():
    said = r"config\.perceptual_weight=2.0 does nothing without perceptual; name"
    plain = from_json(recipe(AutoencoderTask()))
    with pytest.raises(UserError, match=said):
        changed(plain, "perceptual_weight=2")
    found = changed(plain, "perceptual_weight=2", "perceptual=runs")
    assert found.task.perceptual_weight == 2


@pytest.mark.parametrize("kind", [Inpaint, ImageToImage, Interpolate])
def test_no_step_of_an_edit_stands_still(kind):
    with pytest.raises(UserError, match="zero_init_steps=1 does nothing in an edit;"):
        idle.refuse_idle(recipe_of().task, kind(zero_init_steps=1))


@pytest.mark.parametrize(
    ("asked", "method", "used_by"),
    [
        (Inpaint(weight=0.5, method="project"), "project", "guidance"),
        (Inpaint(jump_length=5, method="replace"), "replace", "repaint"),
        (Inpaint(num_resamples=20, method="project"), "project", "repaint"),
        (Colorize(weight=0.5), "project", "guidance"),
        (Interpolate(iterations=1, method="noise"), "noise", "encode"),
        (Interpolate(sampler="heun", method="encode"), "encode", "noise"),
        (Interpolate(seed=3), "encode", "noise"),
        (Inpaint(dynamic_percentile=0.9, method="guidance"), "guidance", "project"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Edit) else value,
)
def test_an_option_that_an_edit_does_not_look_at_is_refused(asked, method, used_by):
    spec = recipe_of().task
    said = rf"config\.\w+\.\w+=.* does nothing in mode {asked.mode} by method {method}"
    with pytest.raises(UserError, match=said) as refusal:
        idle.refuse_idle(spec, asked)
    assert "\n" not in str(refusal.value)
    idle.refuse_idle(spec, dataclasses.replace(asked, method=used_by))
    idle.refuse_idle(spec, type(asked)(method=method))  # the default is no request
