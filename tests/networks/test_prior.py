"""The transformer of a prior: what it sees, what it refuses, and guidance around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import with_noise

from ddpm_jax.conditioning.conditioned import Conditioned, as_network
from ddpm_jax.conditioning.conditioner import null_condition
from ddpm_jax.conditioning.encoded_text import Encoded
from ddpm_jax.conditioning.text import Text
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.process import X0
from ddpm_jax.diffusion.schedules import cosine_betas, from_betas
from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import Ports, TokenSequence
from ddpm_jax.networks.prior import PriorTransformer

D, LENGTH, WIDTH, POOLED = 6, 4, 5, 7
NET = PriorTransformer(out_channels=D, width=16, depth=2, num_heads=2)
RNG = np.random.default_rng(0)
X, T = jnp.asarray(RNG.normal(size=(3, D)), jnp.float32), jnp.arange(3.0)
MASK = jnp.asarray(np.arange(LENGTH) < np.array([[4], [2], [1]]))
PORTS = Ports(
    jnp.asarray(RNG.normal(size=(3, 16)), jnp.float32),
    TokenSequence(jnp.asarray(RNG.normal(size=(3, LENGTH, WIDTH)), jnp.float32), MASK),
)


def made(net, *inputs):
    return with_noise(jax.jit(net.init)(jax.random.key(0), *inputs)["params"])


PARAMS = made(NET, X, T, PORTS)


@jax.jit
def apply(params, x, t, ports):
    return NET.apply({"params": params}, x, t, ports)


def run(x=X, t=T, ports=PORTS, params=PARAMS):
    return apply(params, x, t, ports)


def test_it_begins_at_zero_and_sees_all_it_is_given():
    start = NET.init(jax.random.key(0), X, T, PORTS)
    np.testing.assert_array_equal(NET.apply(start, X, T, PORTS), np.zeros((3, D)))
    one = run()
    assert one.shape == (3, D) and one.dtype == jnp.float32
    vectors, mask = PORTS.tokens
    for other in (
        run(X + 0.1),
        run(t=T + 1),
        run(ports=PORTS._replace(vector=jnp.zeros((3, 16)))),
        run(ports=PORTS._replace(tokens=TokenSequence(vectors + 0.1, mask))),
    ):
        assert np.abs(other - one).max(axis=1).min() > 1e-4
    alone = jax.tree.map(lambda leaf: leaf[:1], PORTS)
    np.testing.assert_allclose(run(X[:1], T[:1], alone), one[:1], rtol=2e-5, atol=1e-5)


def test_what_stands_under_the_mask_changes_nothing():
    vectors, mask = PORTS.tokens
    noise = jnp.asarray(RNG.normal(size=vectors.shape), jnp.float32)
    hidden = jnp.where(mask[..., None], vectors, noise)
    other = run(ports=PORTS._replace(tokens=TokenSequence(hidden, mask)))
    np.testing.assert_array_equal(other, run())


def test_without_text_it_is_the_network_that_is_given_no_tokens():
    """All tokens masked are as good as none: the three others attend to themselves."""
    vectors, mask = PORTS.tokens
    nothing = PORTS._replace(tokens=TokenSequence(vectors, jnp.zeros_like(mask)))
    bare = {name: leaf for name, leaf in PARAMS.items() if name != "tokens_in"}
    np.testing.assert_allclose(
        run(ports=nothing),
        run(ports=PORTS._replace(tokens=None), params=bare),
        rtol=1e-5,
        atol=1e-5,
    )


def test_what_it_is_not_made_for_is_refused():
    with pytest.raises(UserError, match="takes vectors, and these items are 16x16x3"):
        NET.check((16, 16, 3))
    with pytest.raises(UserError, match="multiple of their number"):
        PriorTransformer(width=10, num_heads=4).check((6,))
    with pytest.raises(UserError, match="no place for maps"):
        run(ports=PORTS._replace(maps=jnp.zeros((3, 1))))
    NET.check((64,))


# --- Guidance -------------------------------------------------------------------------


def conditioned():
    """A network told of texts as a dual encoder reads them, and its texts."""
    text = Encoded(
        PORTS.tokens.vectors * MASK[..., None],
        MASK,
        jnp.asarray(RNG.normal(size=(3, POOLED)), jnp.float32),
    )
    net = Conditioned(NET, {"text": Text(LENGTH, WIDTH, None, POOLED)})
    return net, made(net, X, T, {"text": text}), text


def test_the_null_branch_changes_with_x_t_and_not_with_the_text():
    """That of DALLE2-pytorch replaces the noised embedding, and sees neither."""
    net, params, text = conditioned()
    other = jax.tree.map(lambda leaf: leaf[::-1], text)
    network = jax.jit(as_network(net))

    def null(x, text):
        cond = null_condition(net.conditioners, {"text": text})
        return network(params, x, T, cond)

    np.testing.assert_array_equal(null(X, text), null(X, other))
    assert np.abs(null(X + 0.1, text) - null(X, text)).max(axis=1).min() > 1e-4
    told = network(params, X, T, {"text": text})
    assert np.abs(told - null(X, text)).max(axis=1).min() > 1e-4


def test_guidance_one_is_the_conditional_model_bit_for_bit():
    net, params, text = conditioned()
    level = from_betas(cosine_betas(50)).at(jnp.asarray(20))
    level = jax.tree.map(jnp.asarray, level)
    network = jax.jit(as_network(net))
    denoise = from_network(network, params, X0, learns_variance=False)

    def nothing(cond):
        return null_condition(net.conditioners, cond)

    plain = denoise(X, level, {"text": text}).x0
    guided = classifier_free(denoise, 1.0, nothing)(X, level, {"text": text}).x0
    np.testing.assert_array_equal(guided, plain)
    strong = classifier_free(denoise, 3.0, nothing)(X, level, {"text": text}).x0
    null = denoise(X, level, nothing({"text": text})).x0
    np.testing.assert_allclose(strong, null + 3 * (plain - null), rtol=1e-3, atol=1e-4)
