"""unCLIP as a user meets it: the pair, the prior and the decoder, for a moment each."""

import json
import shutil

import numpy as np
import pytest
from program import ROOT

import ddpm_jax
from ddpm_jax import data
from ddpm_jax.assembly import autoencoder, retrieval
from ddpm_jax.cli import main
from ddpm_jax.codecs.embeddings import scaled
from ddpm_jax.errors import UserError
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.images import to_uint8

DATA = {"data.source": "shapes:partial:120", "data.image_size": "16"}
FIT = {
    "training.num_steps": "6",
    "training.batch_size": "24",
    "training.warmup_steps": "1",
    "training.checkpoint_every": "3",
}
OF_PAIR = {
    **DATA,
    **FIT,
    "network.channels": "8",
    "network.channel_multipliers": "(1,1)",
    "network.num_features": "16",
    "text.width": "8",
    "text.depth": "1",
    "text.num_heads": "2",
}
OF_PRIOR = {
    **DATA,
    **FIT,
    "network.width": "16",
    "network.depth": "1",
    "schedule.num_levels": "20",
    "sample.num_steps": "4",
    "sample.num_images": "6",
    "sample.film_frames": "2",
    "training.preview_every": "0",
    "preview_steps": "2",
}
OF_DECODER = {
    **DATA,
    **FIT,
    "network.channels": "8",
    "network.channel_multipliers": "(1,1)",
    "network.attention_resolutions": "(8,)",
    "network.num_groups": "4",
    "schedule.num_levels": "20",
    "sample.num_steps": "4",
    "sample.num_images": "6",
    "sample.film_frames": "2",
    "training.preview_every": "0",
    "preview_steps": "2",
}


def flags(options, **more):
    return [f"--config.{k}={v}" for k, v in {**options, **more}.items()]


def train(recipe, workdir, options, *more):
    config = f"--config={ROOT / 'configs' / recipe}"
    return main([config, f"--workdir={workdir}", *flags(options), *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("unclip")


@pytest.fixture(scope="module")
def pair(folder):
    assert train("shapes_clip.py", folder / "pair", OF_PAIR) == 0
    return folder / "pair"


@pytest.fixture(scope="module")
def other_pair(folder):
    assert train("shapes_clip.py", folder / "other", {**OF_PAIR, "seed": "1"}) == 0
    return folder / "other"


def of_pair(pair):
    """Name the pair in all places of a recipe."""
    return {
        "prior": {"codec.run": pair, "conditioners.text.run": pair},
        "decoder": {
            "conditioners.image_embedding.run": pair,
            "conditioners.text.run": pair,
        },
    }


@pytest.fixture(scope="module")
def prior(folder, pair):
    named = {**OF_PRIOR, **of_pair(pair)["prior"]}
    assert train("shapes_prior.py", folder / "prior", named) == 0
    return folder / "prior"


@pytest.fixture(scope="module")
def decoder(folder, pair, prior):
    named = {**OF_DECODER, **of_pair(pair)["decoder"], "sample.prior": prior}
    assert train("shapes_unclip.py", folder / "decoder", named) == 0
    return folder / "decoder"


def test_the_pair_reports_what_a_probe_reads(pair):
    result = json.loads((pair / "result.json").read_text())
    assert set(result["probe"]) == {"size", "color", "shape", "place", "count"}
    assert result["found"]["train"]["num_images"] == 120
    model = ddpm_jax.load(pair)
    images = data.in_memory(data.load("shapes:partial:4", image_size=16))[0]
    z, t = model.encode_images(images), model.encode_texts("a red circle")
    assert z.shape == (4, 16) and t.shape == (1, 16)


def test_a_prior_makes_vectors_of_the_embeddings_scale(pair, prior):
    model = ddpm_jax.load(prior)
    assert model.info.item_shape == (16,) and model.info.dtype == "float32"
    assert model.info.name == "image embeddings of shapes:partial:120"
    drawn = model.sample(5, prompt="a red circle", seed=1)
    assert drawn.shape == (5, 16) and np.isfinite(drawn).all()
    np.testing.assert_array_equal(model.sample(5, prompt="a red circle", seed=1), drawn)
    assert (prior / "samples" / "0001" / "samples.npz").exists()
    copied = retrieval.retrieval(prior / "clip").features.fingerprint
    assert copied == retrieval.retrieval(pair).features.fingerprint
    stored = model.metadata["data"]["runs"]["contrastive"]
    assert stored["fingerprint"] == copied and stored["sizes"]["width"] == 16


def test_a_prior_is_trained_on_scaled_embeddings_of_its_images(pair, prior):
    from ddpm_jax.commands.about import trained_recipe
    from ddpm_jax.commands.encoding import prepared, runs_of

    spec = trained_recipe(prior).task
    source = spec.data.open()
    fed = prepared(spec, source, runs_of(spec, prior), lambda line: None)
    vectors, _ = data.in_memory(fed.items)
    images, _ = data.in_memory(source)
    expected = ddpm_jax.load(pair).encode_images(images)
    np.testing.assert_allclose(vectors, scaled(expected), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 4.0, rtol=1e-5)


def test_each_goes_on_where_it_stopped(folder, pair, prior):
    named = {**OF_PRIOR, **of_pair(pair)["prior"]}
    half = {**named, "training.num_steps": "3", "training.decay": "constant"}
    whole = {**named, "training.decay": "constant"}
    assert train("shapes_prior.py", folder / "parts", half) == 0
    assert train("shapes_prior.py", folder / "parts", whole) == 0
    assert train("shapes_prior.py", folder / "whole", whole) == 0
    one, other = (ddpm_jax.load(folder / name) for name in ("parts", "whole"))
    for name in one.params:
        np.testing.assert_array_equal(
            np.concatenate([np.ravel(x) for x in leaves(one.params[name])]),
            np.concatenate([np.ravel(x) for x in leaves(other.params[name])]),
        )


def leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_the_decoder_draws_and_is_not_changed_by_moving_its_folder(folder, decoder):
    moved = folder / "moved" / "decoder"
    shutil.copytree(decoder, moved)
    options = {"num_images": 3, "prompt": "a red circle", "seed": 0}
    one, other = (ddpm_jax.load(run).sample(**options) for run in (decoder, moved))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (3, 16, 16, 3)


def test_text_prior_and_decoder_run_in_one_go(prior, decoder, capsys):
    asked = ["--prompt=a red circle", "--num-images=4", "--seed=3"]
    capsys.readouterr()
    assert main(["sample", str(decoder), *asked]) == 0
    out = capsys.readouterr().out
    assert f"Image embeddings: the prior in {prior}, the averaged (EMA) param" in out
    assert "2 draws of each prompt, of which the better match is kept" in out
    *_, folder = sorted((decoder / "samples").iterdir())
    record = json.loads((folder / "sample.json").read_text())
    assert record["image_embedding"].startswith("the prior in")
    drawn = np.load(folder / "samples.npz")["arr_0"]
    model = ddpm_jax.load(decoder)
    same = model.sample(4, prompt="a red circle", seed=3)
    np.testing.assert_array_equal(np.asarray(to_uint8(same)), drawn)
    # What the decoder is told instead makes other images of the same noise.
    others = [
        model.sample(4, prompt="a red circle", seed=3, prior=name)
        for name in ("text", "nearest", "")
    ]
    for one in others:
        assert one.shape == same.shape and (one != same).any()
    several = model.sample(2, prompt=["a red circle", "a square"], seed=3)
    np.testing.assert_allclose(several[0], same[0], atol=1e-5)
    walk = model.sample(3, prompt="a red circle", prompt_to="a square", seed=3)
    assert walk.shape == (3, 16, 16, 3)


def test_the_page_has_what_the_decoder_draws(folder, prior, decoder, capsys):
    from benchmarks import unclip_page

    asked = [f"--run={decoder}", f"--out={folder / 'page.png'}", "--num-images=3"]
    priors = f"--priors={prior},text,none"
    assert unclip_page.main([*asked, priors, "--num-prompts=2"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {name} |" in out for name in ("prior", "text embedding"))
    assert "| text alone |" in out and "2 prompts, 3 draws of each" in out
    assert (folder / "page.png").stat().st_size > 0
    model = ddpm_jax.load(decoder)
    drawn = unclip_page.draw(model, ["a red circle", "a square"], str(prior), 3, 5)
    same = model.sample(6, prompt=["a red circle"] * 3 + ["a square"] * 3, seed=5)
    np.testing.assert_array_equal(drawn.reshape(6, 16, 16, 3), to_uint8(same))
    capsys.readouterr()
    assert unclip_page.main([*asked, f"--priors={decoder}"]) == 2
    line = capsys.readouterr().err
    assert "is no prior" in line and line.count("\n") == 1


def test_of_two_draws_the_better_match_is_kept(pair, prior, decoder):
    from ddpm_jax.commands import prior as priors
    from ddpm_jax.commands.about import trained_recipe
    from ddpm_jax.commands.model import open_model

    texts = ["a red circle", "a square"]
    recipe = trained_recipe(decoder)
    asked = recipe.request(Sample, run=str(decoder), seed=5)
    model = open_model(recipe, asked, decoder)
    told = priors.embeddings_of(model, asked, texts).rows
    opened, own = priors._open(model.info, str(prior))
    rows = priors.drawn(opened, own, texts, 5, priors.NUM_DRAWS)
    assert rows.shape == (2, 2, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)
    z = ddpm_jax.load(pair).encode_texts(texts)
    scores = np.sum(rows * z[:, None], axis=-1)
    for i in range(2):
        np.testing.assert_array_equal(told[i], rows[i, scores[i].argmax()])


def test_edits_of_a_decoder(decoder, capsys):
    common = ["--image=data:3", "--num-steps=4"]
    run = str(decoder)
    assert main(["edit", "variations", run, *common, "--num-images=2"]) == 0
    assert main(["edit", "encode", run, *common]) == 0
    two = ["--image=data:3,data:4", "--num-steps=4", "--num-points=3"]
    assert main(["edit", "interpolate", run, *two]) == 0
    texts = ["--from-text=a red circle", "--to-text=a blue circle", "--num-points=3"]
    assert main(["edit", "text-diff", run, *common, *texts]) == 0
    made = sorted((decoder / "edits").iterdir())
    shapes = [np.load(one / "images.npz")["arr_0"].shape for one in made]
    assert shapes == [(n, 16, 16, 3) for n in (2, 1, 3, 3)]
    model = ddpm_jax.load(decoder)
    images = data.in_memory(model.spec.data.open())[0][3:5]
    few = {"num_steps": 4}
    varied = model.variations(images[:1], 2, seed=0, **few)
    stored = np.load(made[0] / "images.npz")["arr_0"]
    np.testing.assert_array_equal(np.asarray(to_uint8(varied[0])), stored)
    turned = model.text_diff(
        images[:1], "a red circle", "a blue circle", num_points=3, **few
    )
    stored = np.load(made[3] / "images.npz")["arr_0"]
    np.testing.assert_array_equal(np.asarray(to_uint8(turned[0])), stored)
    # Guidance goes toward the embedding, without a text as well.
    guided = model.variations(images[:1], 2, seed=0, guidance_scale=4, **few)
    assert np.abs(guided - varied).max() > 1e-3
    with pytest.raises(UserError, match="without a label or prompt to guide to"):
        model.interpolate(
            images[:1], images[1:], 3, method="noise", guidance_scale=4, **few
        )
    walk = model.interpolate(images[:1], images[1:], 3, **few)
    stored = np.load(made[2] / "images.npz")["arr_0"]
    np.testing.assert_array_equal(np.asarray(to_uint8(walk[0])), stored)
    capsys.readouterr()
    line = refused(capsys, main(["edit", "text-diff", run, *common]))
    assert "needs two texts; give --from-text" in line
    same = ["--from-text=a circle", "--to-text=a circle"]
    line = refused(capsys, main(["edit", "text-diff", run, *common, *same]))
    assert "have no difference" in line


def test_the_baseline_without_noise_trains(folder, pair):
    named = {**OF_PRIOR, **of_pair(pair)["prior"], "sample.num_steps": "1"}
    named |= {"preview_steps": "1"}
    del named["schedule.num_levels"]
    workdir = folder / "regression"
    assert train("shapes_prior.py:regression", workdir, named) == 0
    model = ddpm_jax.load(workdir)
    one, other = (model.sample(2, prompt="a red circle", seed=s) for s in (0, 1))
    # Of noise alone one step predicts; after a few steps of training it still sees it.
    assert one.shape == other.shape == (2, 16)


# --- What cannot be -------------------------------------------------------------------


def refused(capsys, status):
    assert status == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_pair_that_is_none_is_refused(folder, pair, capsys):
    missing = folder / "nothing"
    named = {**OF_PRIOR, **of_pair(missing)["prior"]}
    line = refused(capsys, train("shapes_prior.py", folder / "a", named))
    assert f"{missing} holds no retrieval network; train one" in line
    named = {**OF_PRIOR, **of_pair(pair)["prior"], "data.flip": "True"}
    line = refused(capsys, train("shapes_prior.py", folder / "a", named))
    assert "flip=True" in line
    named = {**OF_PRIOR, **of_pair(pair)["prior"], "data.image_size": "18"}
    line = refused(capsys, train("shapes_prior.py", folder / "a", named))
    assert "embeds images of 16x16x3, and these are 18x18x3" in line


def test_parts_of_other_pairs_are_refused(folder, pair, other_pair, prior, capsys):
    other = other_pair
    capsys.readouterr()
    named = {**OF_DECODER, **of_pair(pair)["decoder"], "sample.prior": ""}
    named["conditioners.text.run"] = other
    line = refused(capsys, train("shapes_unclip.py", folder / "b", named))
    assert "all parts of a model have to be of one: name the same" in line
    # The folder that a run began with holds another by now.
    named = {**OF_PRIOR, **of_pair(other)["prior"]}
    line = refused(capsys, train("shapes_prior.py", prior, named))
    assert "holds another dual encoder" in line and "use another --workdir" in line


def test_a_prior_that_does_not_fit_is_refused(
    folder, pair, other_pair, prior, decoder, capsys
):
    run = str(decoder)
    capsys.readouterr()
    line = refused(capsys, main(["sample", run, f"--prior={folder / 'none'}"]))
    assert "holds no prior" in line
    line = refused(capsys, main(["sample", run, f"--prior={pair}"]))
    assert "is no prior, which has codec embeddings" in line
    line = refused(capsys, main(["sample", run, f"--prior={run}"]))
    assert "is no prior, which has codec embeddings" in line
    line = refused(capsys, main(["sample", str(prior), "--prior=text"]))
    assert (
        "--prior=text does nothing in a model that no image embedding conditions"
        in line
    )
    named = {**OF_PRIOR, **of_pair(other_pair)["prior"]}
    assert train("shapes_prior.py", folder / "other-prior", named) == 0
    capsys.readouterr()
    line = refused(capsys, main(["sample", run, f"--prior={folder / 'other-prior'}"]))
    assert "is of the dual encoder" in line and "was trained with the same" in line
    line = refused(capsys, main(["edit", "variations", str(prior), "--image=data:1"]))
    assert "is of images, and this model makes image embeddings (a prior)" in line
    line = refused(capsys, main(["likelihood", str(prior)]))
    assert "makes image embeddings (a prior); use the decoder" in line


def test_a_copy_that_is_missing_or_another_is_refused(folder, prior, capsys):
    broken = folder / "broken"
    shutil.copytree(prior, broken)
    shutil.rmtree(broken / "clip")
    line = refused(capsys, main(["sample", str(broken)]))
    assert "holds none; copy the folder of that dual encoder there" in line
    assert autoencoder.KIND.name == "autoencoder"
