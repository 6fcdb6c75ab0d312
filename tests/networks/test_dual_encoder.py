"""Two towers: lengths, the scale, and tokens that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.networks.text import TextTransformer

TOWER = Classifier(0, num_features=12, channels=8, channel_multipliers=(1, 2))


@pytest.fixture(scope="module")
def built():
    encoder = TextTransformer(30, 5, width=16, depth=1, num_heads=2)
    net = DualEncoder(TOWER, encoder)
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 3), minval=-1)
    ids = jnp.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9]])
    params = net.init(jax.random.key(1), images, (ids, ids > 0))["params"]
    return net, params, images, ids


def test_vectors_have_length_1(built):
    net, params, images, ids = built
    of_images, of_texts, _ = net.apply({"params": params}, images, (ids, ids > 0))
    for vectors in (of_images, of_texts):
        lengths = jnp.linalg.norm(vectors, axis=1)
        np.testing.assert_allclose(lengths, 1.0, rtol=1e-6)


def test_the_scale_begins_at_1_in_007_and_ends_at_100(built):
    net, params, images, ids = built

    def scale(params):
        return net.apply({"params": params}, images, (ids, ids > 0))[2]

    assert scale(params) == pytest.approx(1 / 0.07, rel=1e-6)
    assert scale({**params, "log_scale": jnp.array(9.0)}) == pytest.approx(100.0)


def test_what_stands_under_no_token_changes_nothing(built):
    net, params, _, ids = built
    read = lambda ids, mask: net.apply(  # noqa: E731
        {"params": params}, (ids, mask), method="encode_texts"
    )
    filled = jnp.where(ids > 0, ids, 29)
    np.testing.assert_array_equal(read(ids, ids > 0), read(filled, ids > 0))


def test_an_encoded_text_needs_no_encoder_and_only_its_pooled_vector():
    net = DualEncoder(TOWER, None)
    images = jnp.zeros((2, 8, 8, 3))
    pooled = jax.random.normal(jax.random.key(0), (2, 6))
    text = (jnp.zeros((2, 3, 6)), jnp.ones((2, 3), bool), pooled)
    params = net.init(jax.random.key(1), images, text)["params"]
    assert set(params) == {"tower", "text", "log_scale"}
    vectors = net.apply({"params": params}, text, method="encode_texts")
    own = pooled @ params["text"]["kernel"]
    own = own / jnp.linalg.norm(own, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, own, rtol=1e-5, atol=1e-6)


def test_features_alone_come_without_logits():
    params = TOWER.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    features, logits = TOWER.apply({"params": params}, jnp.zeros((4, 8, 8, 3)))
    assert features.shape == (4, 12) and logits is None
    assert "logits" not in params
