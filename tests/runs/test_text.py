"""A model that is told captions: trained, resumed, asked, and asked wrongly."""

import itertools
import json
import re

import jax
import numpy as np
import program
import pytest
from PIL import Image
from program import TINY_UNET
from settings import default

from ddpm_jax import assembly, data
from ddpm_jax.cli import main
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.commands.model import open_model
from ddpm_jax.conditioning import Encoded
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training import checkpoints as store

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SHADES = {"dark": 0.4, "bright": 1.0}
OPTIONS = [
    *("conditioners.label=None", "conditioners.text.kind=words"),
    *("conditioners.text.width=8", "conditioners.text.depth=1"),
    *("conditioners.text.num_heads=2", "training.learning_rate=0.005"),
    *("sample.sampler=ddim", "sample.num_steps=5"),
    *("schedule.kind=cosine", "prediction=x0"),
]


LONGER = [
    *("num_steps=400", "preview_every=0", "checkpoint_every=400"),
    *("report_every=400", "batch_size=16", "ema_decay=0.98"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve plain pictures, each with its caption."""
    folder = tmp_path_factory.mktemp("captioned")
    lines = []
    for number, (shade, colour) in enumerate([*itertools.product(SHADES, COLOURS)] * 2):
        pixel = [round(SHADES[shade] * c) for c in COLOURS[colour]]
        name = f"{number}.png"
        Image.fromarray(np.full((8, 8, 3), pixel, np.uint8)).save(folder / name)
        lines.append({"file_name": name, "text": f"a {shade} {colour} wall"})
    text = "\n".join(map(json.dumps, lines))
    (folder / "metadata.jsonl").write_text(text)
    return folder


def flags(pictures, *options):
    chosen = [f"data.source=folder:{pictures}", *OPTIONS, *options]
    return [f"--config={TINY_UNET}", *(f"--config.{option}" for option in chosen)]


@pytest.fixture(scope="module")
def model(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    longer = [f"training.{option}" for option in LONGER]
    assert main([*flags(pictures, *longer), f"--workdir={workdir}"]) == 0
    return workdir


def sample(workdir, *options):
    asked = program.flags("sample", *options)
    assert main(["sample", f"{workdir}", *asked]) == 0
    folders = sorted((workdir / "samples").iterdir(), key=lambda p: p.stat().st_mtime)
    with np.load(folders[-1] / "samples.npz") as stored:
        return folders[-1], stored["arr_0"]


# --- Training -------------------------------------------------------------------------


@pytest.mark.parametrize("max_mb", [0, 1])
def test_each_picture_comes_with_its_own_caption(pictures, max_mb):
    spec = text_spec()
    source = data.load(f"folder:{pictures}")
    info = assembly.data_info(source, spec)
    words = ["", "", *info.tokenizer["words"]]
    feed = make_feed(
        source,
        8,
        seed=3,
        mesh=data_mesh(),
        max_mb_on_device=max_mb,
        captions=assembly.captions(info, source.texts),
    )
    for batch in itertools.islice(feed(1), 3):
        assert set(batch) == {"image", "text"}
        for image, ids, mask in zip(
            np.asarray(batch["image"]), *map(np.asarray, batch["text"]), strict=True
        ):
            _, shade, colour, _ = (words[i] for i in ids[mask])
            pixel = [round(SHADES[shade] * c) for c in COLOURS[colour]]
            np.testing.assert_array_equal(image, np.broadcast_to(pixel, image.shape))


def test_a_run_that_stopped_ends_in_the_same_bits(pictures, tmp_path):
    first = flags(pictures)
    model, again = tmp_path / "whole", tmp_path / "again"
    assert main([*first, f"--workdir={model}"]) == 0
    assert main([*first, "--config.data.on_device_mb=0", f"--workdir={again}"]) == 0
    whole = store.restore_params(model, ema=True, step=12)
    other = store.restore_params(again, ema=True, step=12)
    jax.tree.map(np.testing.assert_array_equal, whole, other)
    for step in (9, 12):  # as if it had been stopped after step 6
        for path in again.glob(f"checkpoints/{step}"):
            path.rename(tmp_path / f"gone-{step}")
    assert main([*first, f"--workdir={again}"]) == 0
    resumed = store.restore_params(again, ema=True, step=12)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert "encoder" in whole["text"]


def test_other_captions_are_other_data(pictures, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in pictures.iterdir():
        content = path.read_bytes()
        if path.name == "metadata.jsonl":
            content = content.replace(b"wall", b"room")
        (changed / path.name).write_bytes(content)
    same, other = (
        assembly.data_info(data.load(f"folder:{folder}"), text_spec()).fingerprint
        for folder in (pictures, changed)
    )
    assert same != other


def text_spec():
    return default("conditioners.text.kind=words").task


# --- Asking ---------------------------------------------------------------------------


def test_pictures_are_named_after_their_prompts(model, tmp_path):
    asked = ["a dark red wall", "a bright blue wall"]
    (tmp_path / "prompts.txt").write_text("\n\n".join(asked) + "\n")
    folder, drawn = sample(model, f"prompt=file:{tmp_path}/prompts.txt", "num_images=4")
    names = [f"{i:06d}-{asked[i % 2].replace(' ', '-')}.png" for i in range(4)]
    for name, image in zip(names, drawn, strict=True):
        stored = Image.open(folder / "images" / name)
        np.testing.assert_array_equal(np.asarray(stored), image)
    # The folder reads as data again: pictures with their captions.
    again = data.load(f"folder:{folder / 'images'}")
    assert list(again.texts) == asked * 2


def test_the_prompt_decides_and_its_place_in_a_batch_does_not(model):
    _, red = sample(model, "prompt=a bright red wall", "num_images=3")
    _, blue = sample(model, "prompt=a bright blue wall", "num_images=3")
    warmth = [
        drawn[..., 0].mean(axis=(1, 2)) - drawn[..., 2].mean(axis=(1, 2))
        for drawn in (red, blue)
    ]
    assert (warmth[0] > warmth[1] + 30).all()  # of the same noise, each
    _, both = sample(model, "prompt=a bright red wall", "num_images=5", "batch_size=5")
    assert np.abs(both[:3].astype(int) - red).max() <= 1  # sums of another batch size


def test_scale_0_draws_what_a_prompt_of_nothing_draws(model, monkeypatch):
    """Whatever was asked for, and to the last bit."""
    _, red = sample(model, "prompt=a dark red wall", "guidance_scale=0")
    _, blue = sample(model, "prompt=a bright blue wall", "guidance_scale=0")
    np.testing.assert_array_equal(red, blue)

    def of_nothing(spec, info, asked):
        cond = asked_for(spec, info, asked)
        return {"text": jax.tree.map(np.zeros_like, cond["text"])}

    asked_for = assembly.sample_cond
    monkeypatch.setattr(assembly, "sample_cond", of_nothing)
    _, nothing = sample(model, "prompt=a dark green wall")
    assert np.abs(nothing.astype(int) - red).max() <= 1  # 2B rows against B


def test_a_negative_prompt_is_where_guidance_comes_from(model):
    """Scale s between prompt a and negative b is scale 1 - s from b to a."""
    ends = "a dark red wall", "a bright blue wall"
    ahead, back = (
        sample(
            model,
            f"prompt={to}",
            f"negative_prompt={away}",
            f"guidance_scale={scale}",
        )[1]
        for to, away, scale in [(*ends, 3.0), (*ends[::-1], -2.0)]
    )
    assert np.abs(ahead.astype(int) - back).max() <= 1
    _, plain = sample(model, f"prompt={ends[0]}", "guidance_scale=3")
    assert np.abs(ahead.astype(int) - plain).max() > 2


def test_a_walk_between_prompts_has_them_at_its_ends_and_one_noise(model):
    ends = "a dark red wall", "a bright blue wall"
    folder, walk = sample(
        model, f"prompt={ends[0]}", f"prompt_to={ends[1]}", "num_images=5"
    )
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > 4 * grid.height  # a row
    for place, prompt in [(0, ends[0]), (-1, ends[1])]:
        _, alone = sample(model, f"prompt={prompt}", "num_images=1")
        assert np.abs(walk[place].astype(int) - alone[0]).max() <= 1
    # It changes at every point, though it may do most of its way in one.
    moved = np.abs(np.diff(walk.astype(int), axis=0)).max(axis=(1, 2, 3))
    assert (moved > 0).all()


def test_a_prompt_read_before_the_chain_is_the_prompt_read_in_it(model):
    recipe = trained_recipe(model)
    asked = recipe.request(Sample)
    trained = open_model(recipe, asked, model)
    cond = assembly.sample_cond(recipe.task, trained.info, asked)
    encoded = assembly.encode(trained.unet, trained.params.network, cond)
    assert isinstance(encoded["text"], Encoded)
    network = assembly.network(trained.unet)
    x_t = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    t = np.arange(6.0)
    outputs = [network(trained.params.network, x_t, t, one) for one in (cond, encoded)]
    np.testing.assert_array_equal(*outputs)


def test_the_likelihood_of_a_picture_is_that_under_its_caption(model, capsys):
    options = ["num_images=6", "method=bound", "split=train", "num_steps=5"]
    asked = program.flags("likelihood", *options)
    assert main(["likelihood", f"{model}", *asked]) == 0
    assert "bits/dim" in capsys.readouterr().out


def test_an_edit_is_told_the_prompt(model):
    red, blue = (
        edit(model, f"sample.prompt={prompt}")
        for prompt in ("a dark red wall", "a bright blue wall")
    )
    assert np.abs(red.astype(int) - blue).max() > 8


def edit(workdir, *options):
    asked = ["edit.image=data:0", "edit.strength=1.0", *options]
    given = program.flags("edit image-to-image", *asked)
    assert main(["edit", "image-to-image", f"{workdir}", *given]) == 0
    found = sorted(workdir.rglob("grid.png"), key=lambda p: p.stat().st_mtime)[-1]
    return np.asarray(Image.open(found))


# --- Asking wrongly -------------------------------------------------------------------

WRONG = [
    ("prompt=' '", "is blank; say what"),
    ("prompt='a dark zebra wall'", "never seen: zebra"),
    (f"prompt='{'a dark red wall ' * 9}'", "has 36 tokens, and 4 fit"),
    ("prompt=file:nowhere.txt", "cannot read the prompts in nowhere.txt"),
    ("prompt=data:dev", "has no split 'dev'"),
    ("prompt_to='a dark red wall'", "does nothing without one prompt to come from"),
    ("negative_prompt='a dark red wall'", "nothing at guidance_scale 1; use an"),
    ("label=3", "trained without labels"),
]


def refusal(capsys, arguments):
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(("option", "message"), WRONG)
def test_a_prompt_that_cannot_be_used(model, capsys, monkeypatch, option, message):
    monkeypatch.setattr("ddpm_jax.sampling.plan.run_stage", None)  # nothing is compiled
    option = option.replace("'", "")
    line = refusal(capsys, ["sample", f"{model}", f"--{option.replace('_', '-', 1)}"])
    assert re.search(message, line), line


def test_a_prompt_to_a_model_without_text(finished, capsys):
    flag = "--prompt=a dark red wall"
    line = refusal(capsys, ["sample", f"{finished}", flag])
    assert "was trained without text; leave the option out" in line


def test_a_model_that_reads_is_not_written_for_one_that_does_not(
    model, tmp_path, capsys
):
    to = tmp_path / "exported"
    line = refusal(capsys, ["export", f"{model}", f"{to}"])
    assert "config.conditioners.text is not written for diffusers, whose" in line
    assert line.endswith("; export a model of classes, or without a condition.")
    assert not to.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["conditioners.text.kind=word"],
            "config.conditioners.text.kind='word' is not known; use bytes, ",
        ),
        (["conditioners.text.kind=word"], "did you mean words?"),
        (["conditioners.text.num_heads=3"], "multiple of their number"),
        (["conditioners.text.length=3"], "has 4 tokens, and 3 fit"),
        (
            ["conditioners.text.depth=0"],
            "config.conditioners.text.depth=0 is too small; use 1 or more",
        ),
        (["data.source=digits"], "digits has no captions"),
    ],
)
def test_a_text_model_that_cannot_be_built(
    pictures, tmp_path, capsys, options, message
):
    workdir = f"--workdir={tmp_path / 'run'}"
    line = refusal(capsys, [*flags(pictures, *options), workdir])
    assert message in line
