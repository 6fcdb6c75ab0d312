"""What a frozen dual encoder tells other models; and that no gradient reaches it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import with_noise

from ddpm_jax.codecs.embeddings import Embeddings, scaled, unit
from ddpm_jax.conditioning import clip as clips
from ddpm_jax.conditioning import reopen
from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.conditioning.clip_text import ClipText
from ddpm_jax.conditioning.conditioned import Conditioned, as_network
from ddpm_jax.conditioning.conditioner import drop, null_condition
from ddpm_jax.conditioning.image_embedding import ImageEmbedding
from ddpm_jax.conditioning.text import TextEmbedder
from ddpm_jax.conditioning.tokens import Words
from ddpm_jax.data.info import DataInfo, RunInfo
from ddpm_jax.errors import UserError
from ddpm_jax.networks import UNet
from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.networks.text import TextTransformer

D, W = 6, 8
TEXTS = ["a red circle", "a circle", "a large blue square top left"]


@pytest.fixture(scope="module")
def pair():
    words = Words.learn(TEXTS)
    encoder = TextTransformer(
        words.vocabulary_size, words.max_length, width=W, depth=1, num_heads=2
    )
    tower = Classifier(num_features=D, channels=8, channel_multipliers=(1,))
    net = DualEncoder(tower, encoder)
    image = jnp.zeros((1, 16, 16, 3))
    init = jax.jit(net.init)
    params = init(jax.random.key(0), image, words.read(TEXTS[:1]))["params"]
    return Clip("a pair", "f" * 16, (16, 16, 3), W, net, with_noise(params), words)


@pytest.fixture(scope="module")
def info(pair):
    run = RunInfo(pair.name, pair.fingerprint, pair.sizes)
    return DataInfo("shapes", (16, 16, 3), None, "", runs={"contrastive": run})


def images(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, 16, 16, 3), np.uint8)


def test_it_reads_as_the_dual_encoder_does(pair):
    rows = pair.read(TEXTS)
    tokens = pair.tokenizer.read(TEXTS)
    _, texts, _ = pair.net.apply({"params": pair.params}, images(3) / 127.5 - 1, tokens)
    np.testing.assert_allclose(rows.pooled, texts, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows.pooled, axis=1), 1, atol=1e-5)
    encoder = pair.net.encoder
    states, _ = encoder.apply({"params": pair.params["encoder"]}, *tokens)
    np.testing.assert_allclose(rows.sequence, states, atol=1e-5)
    assert not rows.sequence[~rows.mask].any()
    np.testing.assert_array_equal(pair.encode_texts(TEXTS), rows.pooled)
    few, many = pair.encode_images(images(2)), pair.encode_images(images(300))
    np.testing.assert_allclose(many[:2], few, atol=1e-5)
    with pytest.raises(
        UserError, match="embeds images of 16x16x3, and these are 8x8x3"
    ):
        pair.encode_images(np.zeros((2, 8, 8, 3), np.uint8))


def test_it_is_found_again_by_its_fingerprint(pair):
    with pytest.raises(UserError, match="which is not open"):
        reopen({**pair.to_json(), "fingerprint": "0" * 16})
    clips.keep(pair)
    assert reopen(pair.to_json()) is pair


def test_no_gradient_reaches_the_towers(pair):
    def of_images(params):
        return pair.embed(params, jnp.asarray(images(3))).sum()

    def of_texts(params):
        sequence, embedded = pair._read(params, pair.tokenizer.read(TEXTS))
        return sequence.sum() + embedded.sum()

    for function in (of_images, of_texts):
        gradient = jax.grad(function)(pair.params)
        assert jax.tree.structure(gradient) == jax.tree.structure(pair.params)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def unet():
    return UNet(
        channels=8,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_heads=1,
        num_groups=4,
    )


def test_a_decoder_holds_no_parameter_of_the_towers(pair, info):
    made = {
        "image_embedding": ImageEmbedding("pair").for_data(info),
        "text": ClipText(run="pair").for_data(info),
    }
    net = Conditioned(unet(), made)
    x, t = jnp.zeros((3, 16, 16, 3)), jnp.zeros((3,))
    cond = {
        "image_embedding": jnp.asarray(pair.encode_images(images(3))),
        "text": pair.read(TEXTS),
    }
    params = jax.jit(net.init)(jax.random.key(0), x, t, cond)["params"]
    assert set(params["image_embedding"]) == {"none", "tokens", "dense_0", "dense_1"}
    assert set(params["text"]) == {"none", "norm", "dense_0", "dense_1", "token"}
    assert params["image_embedding"]["tokens"]["kernel"].shape == (D, 4 * W)
    params = with_noise(params)
    run = jax.jit(as_network(net))
    one = run(params, x, t, cond)
    # With the embedding dropped it is the same network, told no embedding at all.
    dropped = drop(made, jax.random.key(0), cond, 1.0)
    np.testing.assert_array_equal(run(params, x, t, dropped), run(params, x, t, {}))
    only = {"image_embedding": made["image_embedding"]}
    dropped = {**cond, **drop(only, jax.random.key(0), cond, 1.0)}
    without = run(params, x, t, {"text": cond["text"]})
    np.testing.assert_array_equal(run(params, x, t, dropped), without)
    assert np.abs(without - one).max() > 1e-3
    wrong = {**cond, "image_embedding": jnp.zeros((3, D + 1))}
    with pytest.raises(UserError, match=rf"wants \[B, {D}\]"):
        as_network(net)(params, x, t, wrong)


def test_an_embedding_becomes_four_tokens_and_a_vector(pair, info):
    conditioner = ImageEmbedding("pair").for_data(info)
    embedder = conditioner.embedder(16)
    rows = jnp.asarray(pair.encode_images(images(2)))
    params = with_noise(embedder.init(jax.random.key(0), rows)["params"])
    vector, (tokens, mask), maps = embedder.apply({"params": params}, rows)
    assert tokens.shape == (2, 4, W) and mask.all() and maps is None
    dense = params["tokens"]
    by_hand = np.sqrt(D) * np.asarray(rows) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(tokens.reshape(2, -1), by_hand, rtol=1e-4, atol=1e-4)
    assert vector.shape == (2, 16)
    nothing = embedder.apply({"params": params}, conditioner.null(rows))
    by_hand = params["none"] @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(
        nothing.tokens.vectors.reshape(2, -1), [by_hand, by_hand], rtol=1e-4, atol=1e-4
    )


def test_the_text_embedding_is_a_further_token_and_the_vector(pair, info):
    rows = jax.tree.map(jnp.asarray, pair.read(TEXTS))
    conditioner = ClipText(run="pair").for_data(info)
    embedder = conditioner.embedder(16)
    assert isinstance(embedder, TextEmbedder)
    params = with_noise(embedder.init(jax.random.key(0), rows)["params"])
    ports = embedder.apply({"params": params}, rows)
    length = pair.max_length
    assert ports.tokens.vectors.shape == (3, length + 1, W)
    np.testing.assert_array_equal(ports.tokens.vectors[:, :length], rows.sequence)
    np.testing.assert_array_equal(ports.tokens.mask[:, :length], rows.mask)
    assert ports.tokens.mask[:, length].all()
    # The further token and the vector change with the embedding, the others do not.
    other = rows._replace(pooled=rows.pooled[::-1])
    changed = embedder.apply({"params": params}, other)
    same = changed.tokens.vectors == ports.tokens.vectors
    assert same[:, :length].all() and not same[0, length].any()
    assert (changed.vector[0] != ports.vector[0]).any()
    null = null_condition({"text": conditioner}, {"text": rows})["text"]
    assert not embedder.apply({"params": params}, null).tokens.mask.any()


def test_embeddings_are_scaled_to_unit_variance_and_back():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 64))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    items = scaled(z)
    assert abs(np.mean(items**2) - 1) < 1e-6
    np.testing.assert_allclose(unit(3 * items), z, atol=1e-6)
    codec = Embeddings("pair").build((64,), "float32")
    x = items.astype(np.float32)
    np.testing.assert_array_equal(codec.decode((), codec.encode((), codec.load(x))), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Embeddings(), "names no dual encoder"),
        (lambda: ClipText(), "names no dual encoder"),
        (lambda: ImageEmbedding(), "names no dual encoder"),
        (lambda: Embeddings("a").build((8, 8, 3), "uint8"), "is for vectors"),
    ],
)
def test_what_cannot_be_is_one_line(make, message):
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_caption_that_the_pair_cannot_read_is_refused(pair):
    spec = ClipText(run="pair")
    assert spec.learn(TEXTS, pair) is pair
    with pytest.raises(UserError, match=r"a pair cannot read a caption: .*never seen"):
        spec.learn(["a crimson circle"], pair)
    assert dataclasses.replace(spec, condition_dropout=0.5).condition_dropout == 0.5
