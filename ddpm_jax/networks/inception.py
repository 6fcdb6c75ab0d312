"""Inception-v3 as the Frechet Inception Distance was defined with it.

    net = InceptionV3()
    features, logits = net.apply({"params": params}, images)

The network is that of the TensorFlow graph of 2015-12-05 (classify_image_graph_def.pb).
It differs from the later Inception-v3 of torchvision and Keras, besides its weights, in
three places that change the features:

- An average pool divides by the number of pixels it covers, which is less than nine at
  the border.
- The pool branch of the last block takes the maximum, not the average.
- It has 1008 classes, the last of which mean nothing.

Modules have the names of the published PyTorch file. A batch normalization that is no
longer trained is a scale and a shift for every channel, and is stored as such. The
output of every module can be had: `apply(..., capture_intermediates=True)`.

Sources:
    Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision",
    table 1 and figures 5 to 7, 10; the graph itself for what the paper leaves open.
    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a
    Local Nash Equilibrium", for the features.
    Salimans et al. 2016, "Improved Techniques for Training GANs", for the logits: their
    code multiplies the features by the weights of the last layer and adds no bias.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

SIDE = 299
"""Height and width of the images that the graph was trained on."""


class Conv(nn.Module):
    """A convolution without bias, a scale and a shift a channel, and a ReLU."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to [B, H', W', features]."""
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        scale = self.param("scale", ones, (self.features,), jnp.float32)
        shift = self.param("shift", zeros, (self.features,), jnp.float32)
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return nn.relu(x * scale + shift)


def average_pool(x: jax.Array) -> jax.Array:
    """Average 3x3 neighbours [B, H, W, C], none beyond the border being counted."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x: jax.Array) -> jax.Array:
    """Take the largest of 3x3 neighbours, at every pixel: [B, H, W, C]."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def halve(x: jax.Array) -> jax.Array:
    """Take the largest of 3x3 [B, H, W, C], at every second pixel, with no padding."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class Step(NamedTuple):
    """A convolution in a branch."""

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1


Branch = tuple[Any, ...]
"""Steps and pools in sequence; a tuple of steps among them is run side by side."""


class Block(nn.Module):
    """Branches that see the same input; their outputs are concatenated."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, H, W, C] to [B, H', W', sum of the branches' channels]."""

        def run(what: Any, x: jax.Array) -> jax.Array:
            if isinstance(what, Step):
                padding = "SAME" if what.stride == 1 else "VALID"
                return Conv(
                    what.features, what.size, what.stride, padding, name=what.name
                )(x)
            if isinstance(what, tuple):
                return jnp.concatenate([run(part, x) for part in what], axis=-1)
            return what(x)

        outputs = []
        for branch in self.branches:
            h = x
            for what in branch:
                h = run(what, h)
            outputs.append(h)
        return jnp.concatenate(outputs, axis=-1)


def block_a(pooled: int) -> tuple[Branch, ...]:
    """Figure 5, with a 5x5 beside the two 3x3 that stand for one; 35x35."""
    return (
        (Step("branch1x1", 64),),
        (Step("branch5x5_1", 48), Step("branch5x5_2", 64, (5, 5))),
        (
            Step("branch3x3dbl_1", 64),
            Step("branch3x3dbl_2", 96, (3, 3)),
            Step("branch3x3dbl_3", 96, (3, 3)),
        ),
        (average_pool, Step("branch_pool", pooled)),
    )


def block_b() -> tuple[Branch, ...]:
    """Figure 10: from 35x35 to 17x17."""
    return (
        (Step("branch3x3", 384, (3, 3), 2),),
        (
            Step("branch3x3dbl_1", 64),
            Step("branch3x3dbl_2", 96, (3, 3)),
            Step("branch3x3dbl_3", 96, (3, 3), 2),
        ),
        (halve,),
    )


def block_c(width: int) -> tuple[Branch, ...]:
    """Figure 6: 7x7 as 1x7 and 7x1, once and twice; 17x17."""
    return (
        (Step("branch1x1", 192),),
        (
            Step("branch7x7_1", width),
            Step("branch7x7_2", width, (1, 7)),
            Step("branch7x7_3", 192, (7, 1)),
        ),
        (
            Step("branch7x7dbl_1", width),
            Step("branch7x7dbl_2", width, (7, 1)),
            Step("branch7x7dbl_3", width, (1, 7)),
            Step("branch7x7dbl_4", width, (7, 1)),
            Step("branch7x7dbl_5", 192, (1, 7)),
        ),
        (average_pool, Step("branch_pool", 192)),
    )


def block_d() -> tuple[Branch, ...]:
    """From 17x17 to 8x8."""
    return (
        (Step("branch3x3_1", 192), Step("branch3x3_2", 320, (3, 3), 2)),
        (
            Step("branch7x7x3_1", 192),
            Step("branch7x7x3_2", 192, (1, 7)),
            Step("branch7x7x3_3", 192, (7, 1)),
            Step("branch7x7x3_4", 192, (3, 3), 2),
        ),
        (halve,),
    )


def block_e(pool: Callable[[jax.Array], jax.Array]) -> tuple[Branch, ...]:
    """Figure 7: the last 3x3 as a 1x3 beside a 3x1; 8x8."""
    return (
        (Step("branch1x1", 320),),
        (
            Step("branch3x3_1", 384),
            (Step("branch3x3_2a", 384, (1, 3)), Step("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Step("branch3x3dbl_1", 448),
            Step("branch3x3dbl_2", 384, (3, 3)),
            (
                Step("branch3x3dbl_3a", 384, (1, 3)),
                Step("branch3x3dbl_3b", 384, (3, 1)),
            ),
        ),
        (pool, Step("branch_pool", 192)),
    )


BLOCKS = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(),
    "Mixed_7b": block_e(average_pool),
    "Mixed_7c": block_e(max_pool),
}


class InceptionV3(nn.Module):
    """Images to 2048 features and the logits of 1008 classes, without bias."""

    num_classes: int = 1008

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Compute what FID and the Inception Score are computed from.

        Args:
            x: images, about [-1, 1], [B, 299, 299, 3]; see evaluation/resize.py.

        Returns:
            Features (the graph's pool_3) [B, 2048]; logits [B, num_classes].
        """
        three = (3, 3)
        x = Conv(32, three, 2, "VALID", name="Conv2d_1a_3x3")(x)  # 149x149
        x = Conv(32, three, 1, "VALID", name="Conv2d_2a_3x3")(x)  # 147x147
        x = Conv(64, three, name="Conv2d_2b_3x3")(x)
        x = halve(x)  # 73x73
        x = Conv(80, name="Conv2d_3b_1x1")(x)
        x = Conv(192, three, 1, "VALID", name="Conv2d_4a_3x3")(x)  # 71x71
        x = halve(x)  # 35x35
        for name, branches in BLOCKS.items():
            x = Block(branches, name=name)(x)
        features = jnp.mean(x, axis=(1, 2))
        logits = nn.Dense(self.num_classes, use_bias=False, name="fc")(features)
        return features, logits


def parameter_shapes() -> dict[str, Any]:
    """Return the tree of parameters as shapes and types, without computing any."""
    x = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), x)["params"]
