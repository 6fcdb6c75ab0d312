"""Condition dropout, the null condition and the ports of any set of conditioners."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddpm_jax.conditioning.conditioned import Conditioned, as_network, encode
from ddpm_jax.conditioning.conditioner import (
    NEGATIVE,
    Embedder,
    drop,
    null_condition,
    training_condition,
)
from ddpm_jax.conditioning.encoded_text import Encoded, Tokens
from ddpm_jax.conditioning.label import Label
from ddpm_jax.conditioning.masked import Masked
from ddpm_jax.conditioning.self_conditioning import SelfConditioning
from ddpm_jax.conditioning.text import Text
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.process import X0
from ddpm_jax.diffusion.schedules import cosine_betas, from_betas
from ddpm_jax.errors import UserError
from ddpm_jax.networks import Ports, TokenSequence, UNet, join_ports

NUM, CLASSES, SHARE = 2000, 7, 0.2
BOTH = {"label": Label(CLASSES), "text": Text(5, 3)}
KEY = jax.random.key(3)


def rows(kind):
    """Labels and texts of NUM rows, none of which is the null condition."""
    rng = np.random.default_rng(0)
    mask = np.arange(5) < rng.integers(1, 6, NUM)[:, None]
    ids = rng.integers(1, 9, (NUM, 5)) * mask
    label = rng.integers(0, CLASSES, NUM).astype(np.int32)
    if kind is Tokens:
        return {"label": label, "text": Tokens(ids.astype(np.int32), mask)}
    sequence = rng.normal(size=(NUM, 5, 3)).astype(np.float32) * mask[..., None]
    pooled = rng.normal(size=(NUM, 3)).astype(np.float32)
    return {"label": label, "text": Encoded(sequence, mask, pooled)}


# --- Condition dropout and the null condition -----------------------------------------


@pytest.mark.parametrize("kind", [Tokens, Encoded])
def test_a_row_keeps_all_its_conditions_or_none_at_the_rate_asked_for(kind):
    given = rows(kind)
    found = jax.tree.map(
        np.asarray,
        jax.jit(lambda given: drop(BOTH, jax.random.key(0), given, SHARE))(given),
    )
    gone = found["label"] == CLASSES
    assert abs(gone.sum() - SHARE * NUM) < 4 * np.sqrt(NUM * SHARE * (1 - SHARE))
    np.testing.assert_array_equal(~found["text"].mask.any(axis=1), gone)
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True)
    for leaf, before in leaves:
        np.testing.assert_array_equal(leaf[~gone], before[~gone])
        assert leaf.dtype == before.dtype
    for leaf in found["text"]:
        assert not leaf[gone].any()


def test_dropout_of_labels_is_one_coin_per_row_of_the_batch_key():
    """Algorithm 1 of Ho and Salimans, written out; a map beside it changes no label."""
    label = jnp.asarray(rows(Tokens)["label"])
    batch, x0 = {"label": label, "image": None}, jnp.zeros((NUM, 4, 4, 1))
    alone = training_condition({"label": Label(CLASSES)}, SHARE)(KEY, batch, x0)
    coin = jax.random.bernoulli(KEY, SHARE, (NUM,))
    np.testing.assert_array_equal(alone["label"], jnp.where(coin, CLASSES, label))
    assert set(alone) == {"label"}
    both = {"label": Label(CLASSES), "masked": Masked()}
    beside = training_condition(both, SHARE)(KEY, batch, x0)
    np.testing.assert_array_equal(beside["label"], alone["label"])
    # The map is that of another key, and is never dropped.
    other = training_condition({"masked": Masked()}, 1.0)(KEY, batch, x0)
    np.testing.assert_array_equal(beside["masked"], other["masked"])


def test_each_condition_is_dropped_at_its_own_rate_and_independently():
    batch = jax.tree.map(jnp.asarray, rows(Encoded))
    x0 = jnp.zeros((NUM, 2))
    rates = {"label": 0.1, "text": 0.5}
    given = training_condition(BOTH, 0.0, rates)(KEY, batch, x0)
    gone = {
        "label": np.asarray(given["label"] == CLASSES),
        "text": np.asarray(~given["text"].mask.any(axis=1)),
    }
    for name, rate in rates.items():
        off = gone[name].sum() - rate * NUM
        assert abs(off) < 4 * np.sqrt(NUM * rate * (1 - rate))
    both = (gone["label"] & gone["text"]).sum()
    assert abs(both - 0.05 * NUM) < 4 * np.sqrt(NUM * 0.05 * 0.95)
    kept = np.asarray(given["label"])[~gone["label"]]
    np.testing.assert_array_equal(kept, batch["label"][~gone["label"]])
    # Beside the joint dropout, whose coins stay the same.
    joint = training_condition(BOTH, SHARE)(KEY, batch, x0)
    more = training_condition(BOTH, SHARE, rates)(KEY, batch, x0)
    lost = np.asarray(joint["label"] == CLASSES)
    assert (more["label"][lost] == CLASSES).all()
    np.testing.assert_array_equal(
        more["label"] == CLASSES, lost | np.asarray(gone["label"])
    )


def test_without_rates_of_their_own_the_draws_are_those_of_joint_dropout():
    batch = jax.tree.map(jnp.asarray, rows(Encoded))
    plain = training_condition(BOTH, SHARE)(KEY, batch, jnp.zeros((NUM, 2)))
    none = {"label": 0.0, "text": 0.0}
    with_none = training_condition(BOTH, SHARE, none)(KEY, batch, jnp.zeros((NUM, 2)))
    for one, other in zip(
        jax.tree.leaves(plain), jax.tree.leaves(with_none), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    coin = jax.random.bernoulli(KEY, SHARE, (NUM,))
    np.testing.assert_array_equal(plain["label"] == CLASSES, coin)


def test_a_negative_condition_stands_in_the_place_of_the_null_one():
    given = rows(Encoded)
    negative = jax.tree.map(lambda leaf: leaf[::-1].copy(), given["text"])
    given["masked"] = np.ones((NUM, 2, 2, 2))
    given["estimate"] = np.ones((NUM, 2, 2, 1))
    known = BOTH | {"masked": Masked(), "estimate": SelfConditioning()}
    null = null_condition(known, given)
    assert (null["label"] == CLASSES).all()
    assert not any(np.any(leaf) for leaf in null["text"])
    for name in ("masked", "estimate"):  # of neither is anything taken away
        np.testing.assert_array_equal(null[name], given[name])
    given[NEGATIVE] = {"text": negative}
    null = null_condition(known, given)
    assert (null["label"] == CLASSES).all()
    for leaf, other in zip(null["text"], negative, strict=True):
        np.testing.assert_array_equal(leaf, other)


# --- Ports ----------------------------------------------------------------------------


def test_ports_are_joined_each_in_its_own_way():
    tokens = TokenSequence(jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool))
    more = TokenSequence(jnp.zeros((2, 1, 4)), jnp.zeros((2, 1), bool))
    one = Ports(jnp.full((2, 5), 1.0), tokens, jnp.full((2, 4, 1), 7.0))
    other = Ports(jnp.full((2, 5), 2.5), more)
    third = Ports(maps=jnp.full((2, 4, 2), 8.0))
    joined = join_ports([one, other, third])
    np.testing.assert_array_equal(joined.vector, np.full((2, 5), 3.5))
    np.testing.assert_array_equal(joined.maps[0, 0], [7, 8, 8])
    np.testing.assert_array_equal(joined.tokens.mask[1], [True, True, True, False])
    np.testing.assert_array_equal(joined.tokens.vectors[1, :, 0], [1, 1, 1, 0])
    assert join_ports([]) == Ports()


# --- A network with conditioners, none of which the package knows ---------------------


@dataclasses.dataclass(frozen=True)
class Temperature:
    """A number in kelvin as a condition; below 0 K for none."""

    unit: float = 100.0

    droppable: ClassVar[bool] = True
    required: ClassVar[bool] = False

    def __post_init__(self):
        if self.unit <= 0:
            raise UserError(f"unit={self.unit}; use more than 0.")

    def from_batch(self, key, batch, x0):
        return batch["kelvin"]

    def null(self, rows):
        return jnp.full_like(rows, -self.unit)

    def example(self, num_rows, shape):
        return jnp.zeros((num_rows,), jnp.float32)

    def embedder(self, features):
        return TemperatureEmbedder(features, self.unit)


class TemperatureEmbedder(Embedder):
    features: int
    unit: float

    @nn.compact
    def __call__(self, rows, *, train=False):
        return Ports(vector=nn.Dense(self.features)(rows[:, None] / self.unit))


class MLP(nn.Module):
    """Items of rank 1, [B, 2], on a vector port of 16."""

    embedding_width = 16

    @nn.compact
    def __call__(self, x_t, t, ports=None, *, train=False):
        h = nn.Dense(16, name="enter")(x_t) + nn.Dense(16, name="time")(t[:, None])
        if ports is not None and ports.vector is not None:
            h = h + ports.vector
        return nn.Dense(2, name="leave")(nn.tanh(h))


X, T = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32), jnp.arange(3.0)


@pytest.fixture(scope="module")
def heated():
    net = Conditioned(MLP(), {"temperature": Temperature()})
    return net, net.init(KEY, X, T)["params"]


def test_a_conditioner_and_a_network_of_ones_own_need_nothing_of_the_package(heated):
    net, params = heated
    apply = as_network(net)
    kelvin = jnp.asarray([10.0, 300.0, 10.0])
    found = apply(params, X, T, {"temperature": kelvin})
    # The network by hand, in float64.
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(h, part):
        return h @ part["kernel"] + part["bias"]

    h = dense(X, p["enter"]) + dense(np.asarray(T)[:, None], p["time"])
    h = h + dense(np.asarray(kelvin)[:, None] / 100, p["temperature"]["Dense_0"])
    np.testing.assert_allclose(found, dense(np.tanh(h), p["leave"]), atol=1e-5)
    # Left out, it is the null condition; so it is where it was dropped.
    nothing = {"temperature": jnp.full(3, -100.0)}
    np.testing.assert_array_equal(apply(params, X, T), apply(params, X, T, nothing))
    batch = {"kelvin": kelvin}
    dropped = training_condition(net.conditioners, 1.0)(KEY, batch, X)
    np.testing.assert_array_equal(dropped["temperature"], nothing["temperature"])
    np.testing.assert_array_equal(
        training_condition(net.conditioners)(KEY, batch, X)["temperature"], kelvin
    )


def test_guidance_knows_the_null_condition_of_a_conditioner_of_ones_own(heated):
    net, params = heated
    denoise = from_network(as_network(net), params, X0)
    level = from_betas(cosine_betas(10)).at(jnp.asarray(4))
    cond = {"temperature": jnp.asarray([10.0, 300.0, 10.0])}
    guided = classifier_free(
        denoise, 3.0, lambda cond: null_condition(net.conditioners, cond)
    )(X, level, cond)
    free = denoise(X, level, None).x0
    expected = 3 * denoise(X, level, cond).x0 - 2 * free
    np.testing.assert_allclose(guided.x0, expected, atol=1e-5)
    assert np.abs(guided.x0 - free).max() > 1e-2


def test_parameters_of_the_network_are_those_without_conditioners():
    """And a conditioner's do not depend on which others there are."""
    plain = MLP().init(KEY, X, T)["params"]
    one = Conditioned(MLP(), {"temperature": Temperature()})
    two = Conditioned(MLP(), {"label": Label(3), "temperature": Temperature()})
    one, two = (net.init(KEY, X, T)["params"] for net in (one, two))
    assert set(two) == {*plain, "label", "temperature"}
    for params, fewer in ((one, plain), (two, one)):
        kept = {name: params[name] for name in fewer}
        jax.tree.map(np.testing.assert_array_equal, kept, fewer)
    bare = Conditioned(MLP(), {}).init(KEY, X, T)["params"]
    jax.tree.map(np.testing.assert_array_equal, bare, plain)


def test_the_order_of_conditioners_changes_nothing():
    """The channels of maps, above all, are in the order of names."""
    net = UNet(1, 8, (1,), 1, (), num_groups=4)
    maps = {"masked": Masked(), "estimate": SelfConditioning()}
    x, rng = jnp.zeros((2, 4, 4, 1)), np.random.default_rng(2)
    cond = {name: one.example(2, (4, 4, 1)) for name, one in maps.items()}
    cond = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), cond)
    one, other = (
        Conditioned(net, dict(pairs))
        for pairs in (maps.items(), reversed(maps.items()))
    )
    params = one.init(KEY, x, jnp.zeros(2))["params"]
    params["conv_out"]["kernel"] += 1.0
    found = [as_network(each)(params, x, jnp.zeros(2), cond) for each in (one, other)]
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0]).max() > 0


def test_conditions_of_no_conditioner_and_missing_ones_are_refused(heated):
    net, params = heated
    with pytest.raises(UserError, match=r"'label'.*conditioned on temperature"):
        as_network(net)(params, X, T, {"label": jnp.zeros(3, jnp.int32)})
    shown = Conditioned(UNet(1, 8, (1,), 1, (), num_groups=4), {"masked": Masked()})
    x = jnp.zeros((2, 4, 4, 1))
    params = jax.eval_shape(shown.init, KEY, x, jnp.zeros(2))["params"]
    with pytest.raises(UserError, match=r"give it as cond\['masked'\]"):
        jax.eval_shape(lambda p: as_network(shown)(p, x, jnp.zeros(2)), params)
    for name in ("network", "negative", "two words"):
        with pytest.raises(UserError, match="use another name"):
            Conditioned(MLP(), {name: Temperature()}).init(KEY, X, T)


def test_encoding_keeps_what_it_does_not_know(heated):
    net, params = heated
    cond = {"temperature": jnp.ones(3), "elsewhere": jnp.zeros(3)}
    assert encode(net, params, cond).keys() == cond.keys()
    assert encode(net, params, None) is None
