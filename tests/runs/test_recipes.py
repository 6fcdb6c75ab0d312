"""Recipes build the networks they promise; options go through the whole program."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import TINY, TINY_UNET

from ddpm_jax import assembly, conditioning
from ddpm_jax.assembly import autoencode, features, retrieval
from ddpm_jax.cli import main
from ddpm_jax.conditioning.text import MiniLMText, Text
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    from_json,
    to_json,
)
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training.log import read_metrics

CIFAR = assembly.DataInfo("cifar10", (32, 32, 3), tuple("0123456789"), "")
MNIST = assembly.DataInfo("mnist", (32, 32, 1), tuple("0123456789"), "")
LATENTS = assembly.LatentInfo("of configs/mnist_autoencoder.py", "", (8, 8, 4))
DIGITS = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")

# Parameters: of the first as in Ho et al.'s code; of the second as counted from Nichol
# and Dhariwal's; of the others as their docstrings say.
RECIPES = {
    "cifar": (CIFAR, 35_746_307),
    "cifar_cosine": (CIFAR, 52_546_438),
    "cifar_dit": (CIFAR, 32_483_340),
    "cifar_edm": (CIFAR, 35_746_307),
    "digits": (DIGITS, 1_003_137),
    "digits_flow": (DIGITS, 1_003_137),
    "mnist": (MNIST, 687_473),
    "mnist_dit": (MNIST, 1_275_832),
    "mnist_fast": (MNIST, 650_900),
    "mnist_latent": (dataclasses.replace(MNIST, latents=LATENTS), 1_026_308),
}
# Classifiers whose features judge images.
FEATURES = {
    "cifar_features": (CIFAR, 140_362),
    "digits_features": (DIGITS, 116_490),
    "mnist_features": (MNIST, 130_474),
}
# The recipe of the small picture, the side of the large one, and parameters.
ENLARGING = {
    "emoji_large": ("emoji", 64, 642_723),
    "shapes_large": ("shapes", 32, 693_027),
}
# Latent models: parameters of what is sampled, of a GAN those of the generator.
FAMILIES = {
    "points_vae": 54_663,
    "points_gan": 34_690,
    "points_flow": 38_528,
    "digits_vae": 966_552,
    "digits_gan": 599_601,
    "digits_glow": 970_112,
}
# Autoencoders, and their discriminators.
AUTOENCODERS = {
    "cifar_autoencoder": (CIFAR, 13_859_495, 663_745),
    "mnist_autoencoder": (MNIST, 241_749, 0),
}


MNIST16 = {  # parameters of all networks of a family
    "diffusion": 173_209,
    "vae": 163_047,
    "gan": 162_730,
    "flow": 165_952,
}


def load(path, *arguments):
    names = {}
    exec(compile(Path(path).read_text(), str(path), "exec"), names)
    return from_json(names["get_config"](*arguments))


def check(made, info):
    """Check a recipe, and what it has its model sample."""
    assembly.check(made.task, info)
    assembly.check_sample(made.task, info, made.request(Sample))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_its_checks_and_has_its_parameters(name):
    info, count = RECIPES[name]
    made = load(f"configs/{name}.py")
    check(made, info)
    unet = assembly.model(made.task, info)
    x = jnp.zeros((1, *info.shape))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_the_recipe_of_shapes_has_its_parameters_and_no_more_words_than_it_needs():
    made = load("configs/shapes.py")
    info = assembly.data_info(made.task.data.open(), made.task)
    check(made, info)
    assert info.tokenizer is not None
    # 7 colours, 4 shapes, 2 sizes, 4 words for places, and "a", "and".
    assert len(info.tokenizer["words"]) == 7 + 4 + 2 + 4 + 2
    unet = assembly.model(made.task, info)
    x = jnp.zeros((1, *info.image_shape))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 1_309_795  # its docstring


@pytest.mark.parametrize(
    ("kind", "size", "count", "words"),
    [
        ("16", 16, 1_308_899, 17),
        ("32", 32, 790_923, 17),
        ("blind", 16, 1_307_875, 7),
        ("32,blind", 32, 789_899, 7),
    ],
)
def test_the_recipes_of_solids(kind, size, count, words):
    made = load("configs/solids.py", kind)
    info = assembly.data_info(made.task.data.open(), made.task)
    check(made, info)
    # Six solids and "a"; of views five, "side", "the", "seen", "from" and the comma.
    assert info.tokenizer is not None and len(info.tokenizer["words"]) == words
    unet = assembly.model(made.task, info)
    x = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("kind", ["64", "blind,32", "16,16", ""])
def test_kinds_of_solids_that_there_are_not(kind):
    with pytest.raises(UserError, match="use 16, 32, blind or 32,blind"):
        load("configs/solids.py", kind)


def test_the_recipe_of_points_has_the_parameters_of_its_layers():
    made = load("configs/points.py")
    info = assembly.data_info(made.task.data.open(), made.task)
    check(made, info)
    assert info.shape == (2,) and info.num_classes == 8  # Gaussians on a ring
    x = jnp.zeros((1, *info.shape))
    mlp = assembly.model(made.task, info)
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), x, jnp.zeros(1))["params"]
    width, depth, inputs = 64, 4, 2 + 2 * 3 * 2  # with 3 frequencies of x and of y
    dense, norm = width * width + width, 2 * width
    layers = 2 * dense + (inputs * width + width) + depth * (norm + 3 * dense) + norm
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == (
        layers + (width * 2 + 2)
    )


@pytest.mark.parametrize("name", ENLARGING)
def test_a_recipe_that_enlarges_passes_its_checks_and_has_its_parameters(name):
    before, side, count = ENLARGING[name]
    made = load(f"configs/{name}.py")
    info = assembly.DataInfo("", (side, side, 3), None, "")
    check(made, info)
    unet = assembly.model(made.task, info)
    cond = assembly.example_condition(unet, info)
    assert set(cond) == {"low_res"}
    x, t = jnp.zeros((1, *info.shape)), jnp.zeros(1)
    shapes = jax.eval_shape(unet.init, jax.random.key(0), x, t, cond)
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count
    # What the recipe before it draws is what this one enlarges.
    first, second = load(f"configs/{before}.py").task.data, made.task.data
    assert first.image_size * made.task.conditioners["low_res"].factor == side
    assert first.source == second.source
    assert first.hold_out == second.hold_out


@pytest.mark.parametrize(
    ("name", "count"), [("emoji", 2_248_003), ("emoji_dit", 1_993_004)]
)
def test_the_recipes_of_emoji_have_their_parameters(name, count, monkeypatch):
    """Of a sentence encoder only its sizes count, and its files need not be here."""
    frozen, captions = Text(32, 384), ("red apple",)
    monkeypatch.setattr(MiniLMText, "for_data", lambda spec, data: frozen)
    tokenizer = conditioning.Words.learn(captions, None).to_json()
    info = assembly.DataInfo("", (32, 32, 3), None, "", tokenizer, captions)
    made = load(f"configs/{name}.py")
    check(made, info)
    assembly.check_training_effects(made.task, made.training, info)
    x = jnp.zeros((1, *info.shape))
    shapes = jax.eval_shape(
        assembly.model(made.task, info).init, jax.random.key(0), x, jnp.zeros(1)
    )
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count
    judge = load("configs/emoji_retrieval.py")
    for option in ("source", "image_size", "hold_out"):
        ours, theirs = judge.task.data, made.task.data
        assert getattr(ours, option) == getattr(theirs, option)
    retrieval.check_retrieval(judge.task, judge.training, info)
    net = retrieval.match_network(judge.task, info)
    text = (jnp.zeros((1, 32, 384)), jnp.ones((1, 32), bool), jnp.zeros((1, 384)))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, text)
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 178_625


def test_the_recipes_of_unclip_have_their_parameters():
    """The pair of its captions; prior and decoder of the pair's sizes."""
    pair = load("configs/shapes_clip.py")
    few = dataclasses.replace(pair.task.data, source="shapes:partial:2000")
    info = assembly.data_info(few.open(), pair.task)
    assert len(info.tokenizer["words"]) == 19  # as of configs/shapes.py
    retrieval.check_retrieval(pair.task, pair.training, info)
    net = retrieval.match_network(pair.task, info)
    length = info.tokenizer["max_length"]
    text = (jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool))
    assert size_of(net, jnp.zeros((1, 16, 16, 3)), text) == 1_040_257
    check_unclip("shapes", info, 64, 64, length, 484_032, 1_252_771)


def check_unclip(name, info, width, token_width, length, of_prior, of_decoder):
    """Prior and decoder fit a pair of these sizes, and have so many parameters."""
    data = load(f"configs/{name}_clip.py").task.data
    sizes = {"width": width, "token_width": token_width, "length": length}
    run = assembly.RunInfo("the pair", "0" * 16, sizes)
    tokenizer = {"kind": "clip", "max_length": length, "fingerprint": "0" * 16}
    paired = dataclasses.replace(
        info, runs={assembly.CLIP: run}, tokenizer=tokenizer, captions=()
    )
    vectors = dataclasses.replace(paired, item_shape=(width,), dtype="float32")
    for kind in ("diffusion", "regression"):
        prior = load(f"configs/{name}_prior.py", kind).task
        assembly.check(prior, vectors)
        net = assembly.model(prior, vectors)
        assert size_of(net, jnp.zeros((1, width)), jnp.zeros(1)) == of_prior
        assert prior.data == data
    decoder = load(f"configs/{name}_unclip.py").task
    assembly.check(decoder, paired)
    net = assembly.model(decoder, paired)
    assert size_of(net, jnp.zeros((1, *info.item_shape)), jnp.zeros(1)) == of_decoder
    assert decoder.data == data
    assert decoder.dropout_rates == {"image_embedding": 0.1, "text": 0.5}
    with pytest.raises(UserError, match="use diffusion or regression"):
        load(f"configs/{name}_prior.py", "autoregressive")


def test_the_recipes_of_sprites_have_their_parameters(monkeypatch):
    """All of one data set and one pair; of a sentence encoder only its sizes count."""
    length = 24
    monkeypatch.setattr(MiniLMText, "for_data", lambda spec, data: Text(length, 384))
    tokenizer = conditioning.Words.learn(("bear",), None).to_json()
    info = assembly.DataInfo("", (32, 32, 3), None, "", tokenizer, ("bear",))
    pair = load("configs/sprites_clip.py")
    retrieval.check_retrieval(pair.task, pair.training, info)
    net, x = retrieval.match_network(pair.task, info), jnp.zeros((1, 32, 32, 3))
    text = (jnp.zeros((1, 24, 384)), jnp.ones((1, 24), bool), jnp.zeros((1, 384)))
    assert size_of(net, x, text) == 806_305
    check_unclip("sprites", info, 128, 384, length, 595_200, 2_495_299)


@pytest.mark.parametrize("name", FEATURES)
def test_a_features_recipe_passes_its_checks_and_has_its_parameters(name):
    info, count = FEATURES[name]
    made = load(f"configs/{name}.py")
    features.check_features(made.task, made.training, info)
    net = features.classifier(made.task, info)
    x = jnp.zeros((1, *info.image_shape))
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_recipe_passes_its_checks_and_has_its_parameters(name):
    info, count, judge = AUTOENCODERS[name]
    made = load(f"configs/{name}.py")
    spec, fit = made.task, made.training
    autoencode.check_autoencode(spec, fit, info)
    drawn = jax.eval_shape(autoencode.autoencode_task(spec, fit, info).draw)
    found = {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        for part, params in drawn.items()
    }
    assert found == {"autoencoder": count, "discriminator": judge}
    net = autoencode.autoencoder_network(spec, info)
    assert (info.image_shape[0] // net.factor, net.latent_channels) == (8, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_of_a_latent_model_has_its_parameters(name):
    made = load(f"configs/{name}.py")
    spec, fit = made.task, made.training
    task = spec.build(spec.data.open(), fit, data_mesh())
    state = jax.eval_shape(lambda: task.start(task.draw()))
    leaves = jax.tree.leaves(state.ema_params)
    assert sum(math.prod(leaf.shape) for leaf in leaves) == FAMILIES[name]


def size_of(network, *given):
    """Count the parameters of a network, by the shapes of what it is called with."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *given)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("family", MNIST16)
def test_the_recipes_of_mnist_at_16x16_are_of_one_size(family):
    made, shape = load("configs/mnist16.py", family), (16, 16, 1)
    spec = made.task
    assert spec.data.image_size == 16 and not spec.data.pad_to
    x = jnp.zeros((1, *shape))
    if family == "diffusion":
        info = assembly.DataInfo("mnist", shape, tuple("0123456789"), "")
        check(made, info)
        found = size_of(assembly.model(spec, info), x, jnp.zeros(1))
    else:
        network = spec.network.for_items(shape)
        if family == "gan":
            z = jnp.zeros((1, *network.latent_shape(shape)))
            found = size_of(network, z)
            found += size_of(spec.discriminator.for_items(shape), x)
        else:
            found = size_of(network, x)
    assert found == MNIST16[family]
    middle = sum(MNIST16.values()) / len(MNIST16)
    assert abs(found / middle - 1) < 0.1


def test_a_family_that_is_none_is_refused():
    with pytest.raises(UserError, match="use diffusion, vae, gan, flow"):
        load("configs/mnist16.py", "autoregressive")


def recipe(*arguments):
    return load("configs/folder.py", *arguments)


def halvings(size):
    """How often a size can be halved."""
    return 0 if size % 2 else 1 + halvings(size // 2)


@pytest.mark.parametrize("size", range(16, 257, 4))
def test_the_recipe_for_pictures_serves_every_size_or_says_which(size):
    # The levels of the table: halvings up to 24, 32, 64, 128 and 256 pixels.
    needed = next(n for most, n in TABLE if size <= most)
    if halvings(size) < needed:
        step = 2**needed
        with pytest.raises(UserError, match=f"use {size // step * step} or"):
            recipe(str(size))
        return
    made = recipe(str(size))
    check(made, assembly.DataInfo("folder:x", (size, size, 3), None, ""))
    assert made.task.data.image_size == size
    (attention,) = made.task.network.attention_resolutions
    assert 8 <= attention <= 16
    assert 4 <= size >> needed <= 16  # the coarsest map


@pytest.mark.parametrize(
    ("argument", "size", "num_levels", "attention"),
    [
        # By the longer side the row of the table, by the shorter one the attention.
        ("32,48", (32, 48), 4, 16),
        ("48x32", (48, 32), 4, 16),
        ("64,64", 64, 4, 16),
        ("16,24", (16, 24), 3, 16),
        ("32,256", (32, 256), 6, 16),
    ],
)
def test_the_recipe_for_pictures_that_are_not_square(
    argument, size, num_levels, attention
):
    made = recipe(argument)
    spec = made.task
    assert spec.data.image_size == size
    assert len(spec.network.channel_multipliers) == num_levels
    assert spec.network.attention_resolutions == (attention,)
    height, width = size if isinstance(size, tuple) else (size, size)
    check(made, assembly.DataInfo("folder:x", (height, width, 3), None, ""))
    assert from_json(to_json(made)) == made


@pytest.mark.parametrize(
    ("argument", "said"),
    [("32,50", "use 32,48 or 32,56"), ("30,50", "use 24,48 or 32,56")],
)
def test_a_side_that_does_not_halve_is_answered_with_pairs(argument, said):
    with pytest.raises(UserError, match=said):
        recipe(argument)


TABLE = ((24, 2), (32, 3), (64, 3), (128, 4), (256, 5))


def test_the_recipe_for_pictures_at_two_sizes_that_are_published():
    # Ho et al. 2020: 35.7 million parameters for CIFAR-10, 114 million at 256 pixels.
    for size, count in [(32, 35_746_307), (256, 113_673_219)]:
        info = assembly.DataInfo("", (size, size, 3), None, "")
        unet = assembly.model(recipe(str(size)).task, info)
        x = jnp.zeros((1, size, size, 3))
        shapes = jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1))
        leaves = jax.tree.leaves(shapes["params"])
        assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@pytest.mark.parametrize(
    "argument",
    ["8", "512", "-32", "large", "32.5", "3²", "32,", "32,8", "32,48,64", "9" * 5000],
)
def test_a_size_that_is_none(argument, capsys):
    assert main(["plan", f"--config=configs/folder.py:{argument}"]) == 2
    said = capsys.readouterr().err
    if len(argument) > 1000:
        assert "a number of more than 1,000 digits" in said and len(said) < 200
    else:
        assert "names no size; use 16 to 256" in said


def test_the_size_of_pictures_is_part_of_the_recipe(capsys):
    line = ["--config=configs/folder.py", "--config.data.image_size=128"]
    assert main(line) == 2
    assert "give the size as --config=configs/folder.py:SIZE" in capsys.readouterr().err
    assert main(["--config=configs/digits.py:64"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["--config=configs/folder.py:64"]) == 2
    assert "give the path of a folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["autoencoder", "classifier", "contrastive"])
def test_a_recipe_stays_of_its_kind(tmp_path, capsys, kind):
    """Its sections, and its data, would not be those of the other."""
    line = [
        f"--config={TINY}",
        f"--config.kind={kind}",
        f"--workdir={tmp_path}/run",
    ]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert f"config.kind='{kind}', but the recipe is of kind 'diffusion'" in said
    assert "give --config a recipe of that kind" in said
    assert not (tmp_path / "run").exists()


def test_all_recipes_are_tested():
    there = {path.stem for path in Path("configs").glob("*.py")}
    others = {"folder", "shapes", "emoji", "emoji_retrieval", "points", "mnist16"}
    others |= {"emoji_dit"}
    others |= {"shapes_clip", "shapes_prior", "shapes_unclip", "solids", "dream"}
    others |= {"sprites_clip", "sprites_prior", "sprites_unclip", "motion"}
    others |= {"tune", "progressive", "meanflow", "refine"}  # of a run
    tested = RECIPES | FEATURES | AUTOENCODERS | ENLARGING | FAMILIES
    assert there == set(tested) | others


@pytest.mark.parametrize(
    "options",
    [
        "variance=learned loss.kind=hybrid schedule.t_range=10 "
        "network.scale_shift=True",
        "prediction=v schedule.kind=linear_logsnr sample.sampler=heun "
        "conditioners.label=None sample.num_steps=4 loss.kind=weighted "
        "times.kind=stratified sample.clip=False",
        "prediction=x0 loss.kind=bound network.dtype=bfloat16 "
        "network.remat=True training.decay=cosine sample.sampler=dpmpp_2m "
        "sample.num_steps=7 sample.spacing=linear",
        "conditioners.self_conditioning.kind=self_conditioning prediction=v "
        "loss.kind=p2 "
        "times.kind=antithetic sample.sampler=unipc sample.spacing=karras "
        "sample.num_steps=6 sample.guidance_scale=2.0",
        "variance=learned loss.kind=bound times.kind=importance "
        "sample.spacing=sections:2,3 sample.classifier_scale=1.0",
        "prediction=flow schedule.kind=straight schedule.shift=2.0 "
        "times.kind=logit_normal loss.kind=sigmoid_snr sample.sampler=heun "
        "sample.num_steps=5 conditioners.self_conditioning.kind=self_conditioning",
        "prediction=edm data_std=0.6 schedule.kind=linear_logsnr "
        "times.kind=lognormal sample.sampler=heun sample.spacing=karras "
        "sample.num_steps=5 sample.churn=2.0 variance=small",
        "prediction=x0 schedule.kind=straight schedule.alpha_min=0.01 "
        "times.kind=shifted loss.kind=min_snr sample.sampler=adaptive "
        "sample.rtol=0.1 sample.atol=0.1",
        "network.kind=dit network.width=16 network.depth=1 network.num_heads=2 "
        "network.patch=4 network.bottleneck=4 network.rotary=True network.qk_norm=True "
        "network.norm=rms network.mlp=swiglu prediction=x0 schedule.kind=straight "
        "loss.kind=velocity training.learning_rate=0.05 sample.sampler=heun "
        "sample.num_steps=4 "
        "conditioners.self_conditioning.kind=self_conditioning",
        "network.patch=4 variance=learned loss.kind=hybrid sample.num_steps=4",
        "prediction=v schedule.zero_terminal_snr=True sample.sampler=ddim "
        "loss.kind=truncated_snr sample.num_steps=5 sample.dynamic_percentile=0.9",
    ],
    ids=[
        *("hybrid", "weighted", "bound", "hints", "importance"),
        *("flow", "edm", "straight", "dit", "patch", "zero_snr"),
    ],
)
def test_options_train_and_sample(tmp_path, options):
    flags = [f"--config.{option}" for option in options.split()]
    short = ["--config.training.num_steps=2", "--config.training.preview_every=0"]
    tiny = TINY_UNET if "network." in options else TINY
    line = [f"--config={tiny}", f"--workdir={tmp_path}", *short, *flags]
    assert main(line) == 0
    (folder,) = (tmp_path / "samples").iterdir()
    with np.load(folder / "samples.npz") as stored:
        images = stored["arr_0"]
    assert images.shape == (6, 8, 8, 1)
    assert len(np.unique(images)) > 1  # NaN would have become one flat value
    (record,) = read_metrics(tmp_path)
    assert 0 < record["loss"] < 1e4
