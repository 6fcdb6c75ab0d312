"""Normalizing flow: an invertible network whose log-determinant is cheap.

    a step:  x -> actnorm -> invertible 1x1, or reversed channels -> affine coupling
    images:  (squeeze -> steps -> half of the channels leave) x scales -> z

    log p(x) = log N(f(x); 0, I) + log |det df/dx|                                 (1)

Every layer maps (x, inverse) to what comes out and log |det| [B] of its forward map.
With mixing "reverse" it is a RealNVP, with "lu" a Glow; on vectors [B, D] as well as on
images [B, H, W, C], each place of which is a vector of channels.

Sources:
    Dinh, Sohl-Dickstein, Bengio 2017, "Density Estimation Using Real NVP": eq. (3) is
    (1) here, (7)-(8) the coupling, section 3.6 squeezing and scales.
    Kingma & Dhariwal 2018, "Glow": section 3 and table 1, for actnorm, the 1x1
    convolution by LU (eq. (10)-(11)), and the couplings' last layer at zero.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from flax import linen as nn
from jax.scipy.linalg import solve_triangular

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.networks.feed_forward import FeedForward
from ddpm_jax.networks.layers import Conv3x3, default_init, zero_init
from ddpm_jax.networks.ports import from_data

Mapped = tuple[jax.Array, jax.Array]
"""What comes out [B, ..., C], and log |det| of the forward map [B]."""

_LEAST_STD = 1e-6  # of a channel that does not vary in the first batch


def _places(x: jax.Array) -> int:
    """Count the places of an item, each a vector of channels."""
    return int(np.prod(x.shape[1:-1], dtype=int))


def _of_rows(x: jax.Array, log_det: jax.Array) -> jax.Array:
    """Return what all items have in common [] for each of them: [B]."""
    return jnp.broadcast_to(log_det, x.shape[:1])


class ActNorm(nn.Module):
    """A scale and a shift of each channel: y = (x + b) e^s.

    Initialized on a batch of data, `init` sees to it that they come out with mean 0 and
    standard deviation 1 in each channel.

    Source: Kingma & Dhariwal 2018, section 3.1.
    """

    @nn.compact
    def __call__(self, x: jax.Array, inverse: bool = False) -> Mapped:
        """Map [B, ..., C]; see `Mapped`."""
        axes = tuple(range(x.ndim - 1))

        def negative_mean(key: jax.Array) -> jax.Array:
            del key
            return -x.mean(axes)

        def negative_log_std(key: jax.Array) -> jax.Array:
            del key
            return -jnp.log(jnp.maximum(x.std(axes), _LEAST_STD))

        shift = self.param("shift", negative_mean)
        log_scale = self.param("log_scale", negative_log_std)
        y = (
            x * jnp.exp(-log_scale) - shift
            if inverse
            else (x + shift) * jnp.exp(log_scale)
        )
        return y, _of_rows(x, _places(x) * log_scale.sum())


@functools.lru_cache(maxsize=256)
def _rotation(size: int, number: int) -> tuple[np.ndarray, ...]:
    """Draw a rotation, and return P, L - I, U - diag U and diag U of it."""
    draw = np.random.default_rng([size, number]).standard_normal((size, size))
    permutation, lower, upper = scipy.linalg.lu(np.linalg.qr(draw)[0])
    return permutation, np.tril(lower, -1), np.triu(upper, 1), np.diag(upper)


class InvertibleDense(nn.Module):
    """y = W x for the channels x of each place, W = P L (U + diag(sign e^s)).

    P and the signs are those of a random rotation, with which W begins, and are never
    trained; log |det W| is the sum of s.

    Attributes:
        number: of the layer, which chooses the rotation.

    Source: Kingma & Dhariwal 2018, eq. (10) and (11).
    """

    number: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, inverse: bool = False) -> Mapped:
        """Map [B, ..., C]; see `Mapped`."""
        size = x.shape[-1]
        permutation, lower, upper, diagonal = _rotation(size, self.number)

        def begin(value: np.ndarray) -> Any:
            return lambda key: jnp.asarray(value, jnp.float32)

        below = jnp.tril(self.param("lower", begin(lower)), -1)
        above = jnp.triu(self.param("upper", begin(upper)), 1)
        log_scale = self.param("log_scale", begin(np.log(np.abs(diagonal))))
        identity = jnp.eye(size, dtype=x.dtype)
        left = below + identity
        right = above + jnp.diag(jnp.sign(diagonal) * jnp.exp(log_scale))
        vectors = x.reshape(-1, size).T  # [C, N]
        order = jnp.asarray(permutation, x.dtype)
        # Products in full float32 on every device: the inverse undoes their rounding.
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        if inverse:
            inner = solve_triangular(
                left, exact(order.T, vectors), lower=True, unit_diagonal=True
            )
            out = solve_triangular(right, inner)
        else:
            out = exact(order, exact(left, exact(right, vectors)))
        return out.T.reshape(x.shape), _of_rows(x, _places(x) * log_scale.sum())


class ReverseChannels(nn.Module):
    """The channels in reverse order: what a RealNVP has between its couplings."""

    @nn.compact
    def __call__(self, x: jax.Array, inverse: bool = False) -> Mapped:
        """Map [B, ..., C]; see `Mapped`."""
        del inverse
        return x[..., ::-1], _of_rows(x, jnp.zeros((), x.dtype))


class _CouplingMaps(nn.Module):
    """The network of a coupling on images: two convolutions around a 1x1."""

    out_features: int
    width: int

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, c] to [B, H, W, out_features], zero at first."""
        first = Conv3x3(self.width, dtype=x.dtype, name="conv_0")
        middle = nn.Dense(self.width, kernel_init=default_init, name="dense")
        last = Conv3x3(
            self.out_features, kernel_init=zero_init, dtype=x.dtype, name="conv_1"
        )
        return last(nn.swish(middle(nn.swish(first(x)))))


class AffineCoupling(nn.Module):
    """y_a = x_a, y_b = x_b e^s(x_a) + t(x_a), for two halves of the channels.

    Attributes:
        width: of the network that makes s and t; they are zero at first.
        depth: its hidden layers, on vectors; on images it has two.
        num_frequencies: of its Fourier features, on vectors.
        bound: of |s|, by a tanh; 0: none, and the inverse may overflow.

    Source: Dinh et al. 2017, eq. (7) and (8), section 3.4 for the tanh.
    """

    width: int
    depth: int
    num_frequencies: int = 0
    bound: float = 2.0

    @nn.compact
    def __call__(self, x: jax.Array, inverse: bool = False) -> Mapped:
        """Map [B, ..., C], C at least 2; see `Mapped`."""
        a, b = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        features = 2 * b.shape[-1]
        if x.ndim == 2:
            found = FeedForward(
                features,
                self.width,
                self.depth,
                self.num_frequencies,
                zero_init,
                name="network",
            )(a)
        else:
            found = _CouplingMaps(features, self.width, name="network")(a)
        s, t = jnp.split(found, 2, axis=-1)
        if self.bound:
            s = self.bound * jnp.tanh(s / self.bound)
        b = (b - t) * jnp.exp(-s) if inverse else b * jnp.exp(s) + t
        return jnp.concatenate([a, b], axis=-1), s.reshape(len(s), -1).sum(1)


def squeeze(x: jax.Array) -> jax.Array:
    """Move squares of 2x2 places to channels: [B, H, W, C] -> [B, H/2, W/2, 4 C]."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // 2, width // 2, 4 * channels
    )


def unsqueeze(x: jax.Array) -> jax.Array:
    """Undo `squeeze`: [B, h, w, 4 C] -> [B, 2 h, 2 w, C]."""
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height, width, 2, 2, channels // 4)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, 2 * height, 2 * width, channels // 4
    )


class Flow(nn.Module):
    """A normalizing flow between items and noise of as many numbers.

    Attributes:
        item_shape: (D,) of vectors, (H, W, C) of images.
        num_scales: of images: how often places become channels; between two, half of
            the channels leave for z. Vectors have one.
        num_steps: of each scale: normalization, mixing, coupling.
        width: of the networks of the couplings.
        depth: their hidden layers, on vectors; on images they have two.
        num_frequencies: of their Fourier features, on vectors; 0 for none.
        mixing: of the channels before a coupling: lu, an invertible dense layer (Glow),
            or reverse (RealNVP).
        bound: of a coupling's log-scale; 0: none.
    """

    item_shape: tuple[int, ...] = from_data((2,))
    num_scales: int = 1
    num_steps: int = 12
    width: int = 64
    depth: int = 2
    num_frequencies: int = 0
    mixing: Literal["lu", "reverse"] = "lu"
    bound: float = 2.0

    def for_items(self, shape: tuple[int, ...]) -> "Flow":
        """Return it for items of a shape.

        Raises:
            UserError: it cannot be built for them.
        """
        limits.between(self, "num_scales", 1, 16)
        limits.between(self, "num_steps", 1, 1000)
        limits.between(self, "width", 1, 65_536)
        limits.between(self, "depth", 0, 1000)
        limits.between(self, "num_frequencies", 0, 32)
        limits.between(self, "bound", 0, 100)
        text = "x".join(map(str, shape))
        if len(shape) == 1:
            if shape[0] < 2:
                raise UserError(
                    "a flow couples halves of a vector, and these have one number; "
                    "use items of two or more."
                )
            if self.num_scales > 1:
                raise UserError(
                    f"num_scales={self.num_scales} of a flow on vectors, which have no "
                    "places to become channels; use 1."
                )
        elif len(shape) != 3:
            raise UserError(
                f"a flow takes vectors or images, and these items are {text}; flatten "
                "them."
            )
        elif any(side % 2**self.num_scales for side in shape[:2]):
            raise UserError(
                f"num_scales={self.num_scales} halves images so often, and theirs are "
                f"{text}; use fewer."
            )
        elif self.num_frequencies:
            raise UserError(
                f"num_frequencies={self.num_frequencies} is for vectors, and these are "
                "images; leave it out."
            )
        return self.clone(item_shape=tuple(shape))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of z of items of a shape: (D,), as many numbers."""
        return (int(np.prod(shape)),)

    @nn.compact
    def __call__(self, x: jax.Array, inverse: bool = False) -> Mapped:
        """Map items [B, ...] to z [B, D] and log |det df/dx| [B]; or back.

        Args:
            x: the items; with `inverse` z.
            inverse: z to items; the second result is still log |det df/dx|, at them.
        """
        total = jnp.zeros(x.shape[:1], x.dtype)
        scales = range(self.num_scales)
        if not inverse:
            h, left = x, []
            for scale in scales:
                h, log_det = self._scale(scale, h, inverse)
                total = total + log_det
                if scale < self.num_scales - 1:
                    h, leaves = jnp.split(h, 2, axis=-1)
                    left.append(leaves.reshape(len(x), -1))
            return jnp.concatenate([*left, h.reshape(len(x), -1)], axis=1), total
        shapes = self._shapes()
        sizes = [int(np.prod(shape)) for shape in shapes]
        parts = jnp.split(x, np.cumsum(sizes)[:-1], axis=1)
        pieces = [
            part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        h = pieces[-1]
        for scale in reversed(scales):
            if scale < self.num_scales - 1:
                h = jnp.concatenate([h, pieces[scale]], axis=-1)
            h, log_det = self._scale(scale, h, inverse)
            total = total + log_det
        return h, total

    def _shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of what leaves at each scale, and of what is left."""
        if len(self.item_shape) == 1:
            return [self.item_shape]
        height, width, channels = self.item_shape
        shapes: list[tuple[int, ...]] = []
        for scale in range(self.num_scales):
            height, width, channels = height // 2, width // 2, 4 * channels
            if scale < self.num_scales - 1:
                channels //= 2
            shapes.append((height, width, channels))
        return shapes

    def _scale(self, scale: int, h: jax.Array, inverse: bool) -> Mapped:
        if not inverse and h.ndim == 4:
            h = squeeze(h)
        layers = []
        for step in range(self.num_steps):
            name = f"scale_{scale}_step_{step}"
            number = scale * self.num_steps + step
            mixing = (
                InvertibleDense(number, name=f"{name}_mixing")
                if self.mixing == "lu"
                else ReverseChannels(name=f"{name}_mixing")
            )
            coupling = AffineCoupling(
                self.width,
                self.depth,
                self.num_frequencies,
                self.bound,
                name=f"{name}_coupling",
            )
            layers += [ActNorm(name=f"{name}_norm"), mixing, coupling]
        total = jnp.zeros(h.shape[:1], h.dtype)
        for layer in reversed(layers) if inverse else layers:
            h, log_det = layer(h, inverse)
            total = total + log_det
        return (unsqueeze(h) if inverse and h.ndim == 4 else h), total
