import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.networks.residual_classifier import Classifier

NET = Classifier(num_classes=3, num_features=5, channels=4, num_groups=2)
INIT, APPLY = jax.jit(NET.init), jax.jit(NET.apply)


def with_life(params):
    """Replace what starts at zero, so that nothing hides behind it."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            leaf + 0.1 * jax.random.normal(key, leaf.shape)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


def test_features_are_the_layer_before_the_logits():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    params = with_life(INIT(jax.random.key(0), x)["params"])
    features, logits = APPLY({"params": params}, x)
    last = params["logits"]
    expected = jax.nn.swish(features) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert (np.asarray(features) < -0.3).any()  # not cut off by the swish


def test_an_image_is_seen_alone_as_in_a_batch():
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    params = with_life(INIT(jax.random.key(0), x)["params"])
    together, _ = APPLY({"params": params}, x)
    alone, _ = APPLY({"params": params}, x[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (1, 1)])
def test_any_size_gives_features_of_one_width(size):
    x = jnp.zeros((2, *size, 3))
    features, logits = jax.eval_shape(
        lambda: NET.init_with_output(jax.random.key(0), x)[0]
    )
    assert (features.shape, logits.shape) == ((2, 5), (2, 3))


def test_parameters_counted_by_hand():
    x = jnp.zeros((1, 8, 8, 1))
    params = jax.eval_shape(NET.init, jax.random.key(0), x)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    conv = {(i, o): 9 * i * o + o for i, o in [(1, 4), (4, 4), (4, 8), (8, 8), (8, 16)]}
    conv[16, 16] = 9 * 16 * 16 + 16
    norms = 2 * (2 * 4 + 2 * 8 + 2 * 16 + 16)  # scale and bias of each
    by_hand = conv[1, 4] + 2 * conv[4, 4] + conv[4, 8] + 2 * conv[8, 8]
    by_hand += conv[8, 16] + 2 * conv[16, 16] + norms + (16 * 5 + 5) + (5 * 3 + 3)
    assert count == by_hand
