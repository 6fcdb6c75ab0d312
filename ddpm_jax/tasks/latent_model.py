"""Generative models of one call: noise of a known law, and a map from it to items.

    z ~ N(0, I)    x = decode(z)

A variational autoencoder, a GAN's generator and a normalizing flow are such. Their
tasks derive from `LatentTask`, and `ddpm_jax.load` returns a `LatentModel`, which is
sampled, interpolated, scored and shown by the commands that do so for diffusion.

Source: Shoemake 1985, "Animating Rotation with Quaternion Curves", for the great circle
    between two latents.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.codecs import as_they_are, display_of, from_bytes
from ddpm_jax.codecs.codec import Start
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.editing import slerp
from ddpm_jax.diffusion.generate import fold_each, image_keys, initial_noise
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import arguments
from ddpm_jax.runtime.images import to_float, to_uint8
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.state import TrainState

_DECODER, _LIKELIHOOD = 1, 2  # streams of an item's key, beside that of z
_INIT = 0  # of the run's
_CHECKED = 100  # items, for the values that they have
_PREVIEWED = 64  # images; of points
_PREVIEWED_POINTS = 1000


Terms = dict[str, jax.Array]
"""Nats of items, each [B]: "log_likelihood", and whatever else there is by name."""


class Maps(NamedTuple):
    """What a latent model is made of: functions of its parameters.

    Attributes:
        decode: (params, keys [B], z [B, ...]) -> x [B, ...]; the keys are of what is
            drawn besides z.
        encode: (params, x [B, ...]) -> z [B, ...]; None for a model without.
        likelihood: (params, keys [B], x [B, ...], K) -> terms: "log_likelihood" is the
            logarithm of the probability of bytes, or of the density of floating point.
            None for a model without.
        is_bound: it is a lower bound from K draws of each item, and has the terms
            "rate" and "distortion" too; else K is 1.
    """

    decode: Callable[[Any, jax.Array, jax.Array], jax.Array]
    encode: Callable[[Any, jax.Array], jax.Array] | None = None
    likelihood: Callable[[Any, jax.Array, jax.Array, int], Terms] | None = None
    is_bound: bool = False


class LatentModel:
    """A trained latent model; `ddpm_jax.load` makes it.

    Attributes:
        kind: of its task: vae, gan or flow.
        params: a tree of arrays.
        item_shape: of what it makes, (H, W, C) of images.
        dtype: of the data's items, uint8 or float32.
        latent_shape: of z.
        num_params: numbers in `params`.
    """

    def __init__(
        self,
        kind: str,
        params: Any,
        maps: Maps,
        latent_shape: tuple[int, ...],
        facts: Mapping[str, Any],
    ) -> None:
        """Put a model together.

        Args:
            kind: of its task.
            params: its parameters.
            maps: what they are parameters of.
            latent_shape: of z.
            facts: `item_shape` and `dtype`, as `LatentTask.facts` has them.
        """
        self.kind, self.params = kind, jax.tree.map(jnp.asarray, params)
        self.item_shape = tuple(facts["item_shape"])
        self.dtype: str = facts["dtype"]
        self.latent_shape = tuple(latent_shape)
        self.num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        self._maps = maps
        self._decode = jax.jit(maps.decode)
        self._encode = None if maps.encode is None else jax.jit(maps.encode)
        self._likelihood = (
            None
            if maps.likelihood is None
            else jax.jit(maps.likelihood, static_argnums=3)
        )

    def __repr__(self) -> str:
        """Say what it is."""
        shape = "x".join(map(str, self.item_shape))
        return f"<LatentModel, a {self.kind} of items of {shape}>"

    def sample(self, key: jax.Array, num_items: int, first: int = 0) -> jax.Array:
        """Sample items; item i depends on the key and on i alone.

        Args:
            key: [].
            num_items: N.
            first: number of the first item, of a set that is made in parts.

        Returns:
            float32 [N, ...]; images in [-1, 1].

        Raises:
            UserError: it is no key, or these are no numbers of items.
        """
        return self._items(_item_keys(key, num_items, first))

    def latents(self, key: jax.Array, num_items: int, first: int = 0) -> jax.Array:
        """Return the z [N, ...] of the items that `sample` makes; the key is [].

        Raises:
            UserError: as `sample`.
        """
        keys = _item_keys(key, num_items, first)
        return initial_noise(keys, self.latent_shape)

    def _items(self, keys: jax.Array) -> jax.Array:
        z = initial_noise(keys, self.latent_shape)
        x = self._decode(self.params, fold_each(keys, _DECODER), z)
        return self._in_range(x)

    def decode(self, z: Any, key: jax.Array | None = None) -> jax.Array:
        """Map latents to items.

        Args:
            z: [N, ...].
            key: [], of what is drawn besides z, if anything is; None for a fixed one.

        Returns:
            float32 [N, ...]; images in [-1, 1].

        Raises:
            UserError: these are no such latents, or it is no key.
        """
        z = arguments.floats("z", z, self.latent_shape)
        keys = _keys(jax.random.key(0) if key is None else key, jnp.arange(len(z)))
        return self._in_range(self._decode(self.params, keys, z))

    def encode(self, items: Any) -> jax.Array:
        """Map items to latents: of a flow exactly, of a VAE the posterior's means.

        Args:
            items: [N, ...], as the data have them or floating point.

        Returns:
            float32 [N, ...].

        Raises:
            UserError: the model has no encoder, or they are other items.
        """
        if self._encode is None:
            raise UserError(
                f"a {self.kind} has no encoder, so that items have no latents; "
                "interpolate between those of samples, as `latents` has them."
            )
        return self._encode(self.params, self._as_float(items))

    def interpolate(self, start: Any, end: Any, num_points: int) -> jax.Array:
        """Walk between latents on a great circle, and decode.

        Args:
            start: z [N, ...], as of `encode` or `latents`.
            end: as many.
            num_points: P, with both ends.

        Returns:
            float32 [N, P, ...].

        Raises:
            UserError: they are fewer than two points, or no such latents.
        """
        num_points = arguments.whole("num_points", num_points, 2)  # both ends
        a = arguments.floats("start", start, self.latent_shape)
        b = arguments.floats("end", end, self.latent_shape)
        if len(a) != len(b):
            raise UserError(
                f"start has {len(a)} latents and end {len(b)}; give as many of each."
            )
        shares = jnp.linspace(0.0, 1.0, num_points)
        walks = jnp.stack(
            [slerp(a, b, jnp.full(len(a), share)) for share in shares], axis=1
        )
        found = self.decode(walks.reshape(-1, *self.latent_shape))
        return found.reshape(len(a), num_points, *self.item_shape)

    @property
    def has_likelihood(self) -> bool:
        """Whether it knows how likely an item is, or a bound on that."""
        return self._likelihood is not None

    @property
    def is_bounded(self) -> bool:
        """Whether its likelihood is bounded by draws, as of a VAE, or exact."""
        return self._maps.is_bound

    def log_likelihood(
        self, key: jax.Array, items: Any, num_samples: int = 1
    ) -> jax.Array:
        """Compute log p(x) of a flow, or a lower bound on it of a VAE: nats [N].

        Of bytes it is the logarithm of a probability (a flow's is bounded by
        dequantization, with one draw), of floating point that of a density.

        Args:
            key: [].
            items: [N, ...], as the data have them or floating point.
            num_samples: K, draws of the importance-weighted bound of a VAE; its mean
                never falls with K. 1 of a flow.

        Raises:
            UserError: the model has no likelihood, no use for K draws, or they are
                other items; or it is no key.
        """
        return self.likelihood_terms(key, items, num_samples)["log_likelihood"]

    def likelihood_terms(
        self, key: jax.Array, items: Any, num_samples: int = 1, first: int = 0
    ) -> Terms:
        """Compute "log_likelihood", and what the bound of a VAE consists of: nats [N].

        A VAE's "rate" is the KL from the prior, and "distortion" -E log p(x|z), the
        mean of K draws; the negative ELBO is rate + distortion.

        Args:
            key: []; the draws of item i depend on it and on i alone.
            items: [N, ...].
            num_samples: K; see `log_likelihood`.
            first: number of the first item, of a set that is measured in parts.

        Raises:
            UserError: as there.
        """
        if self._likelihood is None:
            raise UserError(
                f"a {self.kind} has no likelihood; score its samples with evaluate."
            )
        num_samples = arguments.whole("num_samples", num_samples, 1)
        if num_samples != 1 and not self.is_bounded:
            raise UserError(
                f"num_samples={num_samples} does nothing in a {self.kind}, whose "
                "likelihood is exact; leave it out."
            )
        x = self._as_float(items)
        first = arguments.whole("first", first, 0)
        keys = fold_each(_keys(key, first + jnp.arange(len(x))), _LIKELIHOOD)
        with jax.default_matmul_precision("highest"):
            return self._likelihood(self.params, keys, x, num_samples)

    def bits_per_dim(
        self, key: jax.Array, items: Any, num_samples: int = 1
    ) -> jax.Array:
        """Compute -log2 p(x) per dimension [N]; see `log_likelihood`.

        Args:
            key: [].
            items: [N, ...].
            num_samples: see there.

        Raises:
            UserError: as there.
        """
        nats = self.log_likelihood(key, items, num_samples)
        return -nats / (np.log(2.0) * np.prod(self.item_shape))

    def _as_float(self, items: Any) -> jax.Array:
        x = arguments.array("items", items)
        if x.ndim != len(self.item_shape) + 1 or x.shape[1:] != self.item_shape:
            raise UserError(
                f"items of shape {list(x.shape[1:])}; this model is of "
                f"{list(self.item_shape)}, and an axis for them goes before."
            )
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(jnp.float32)
        if x.dtype != jnp.uint8 or self.dtype != "uint8":
            also = "uint8, or " if self.dtype == "uint8" else ""
            raise UserError(f"items are {x.dtype}; want {also}floating point.")
        return to_float(x)

    def _in_range(self, x: jax.Array) -> jax.Array:
        return jnp.clip(x, -1.0, 1.0) if self.dtype == "uint8" else x

    def store(self, items: Any) -> np.ndarray:
        """Map items [..., *item_shape] to what files hold: images to bytes.

        Raises:
            UserError: they are no items of this model, or not finite.
        """
        found = np.asarray(arguments.array("items", items))
        if found.shape[-len(self.item_shape) :] != self.item_shape:
            raise UserError(
                f"items of shape {list(found.shape)}; this model is of "
                f"{list(self.item_shape)}."
            )
        with arguments.located("items"):
            return to_uint8(found) if self.dtype == "uint8" else found


def _item_keys(key: Any, num_items: Any, first: Any) -> jax.Array:
    count = arguments.whole("num_items", num_items, 1)
    if not isinstance(first, jax.Array):  # which may be traced
        first = arguments.whole("first", first, 0)
    return _keys(key, first + jnp.arange(count))


def _keys(key: Any, indices: jax.Array) -> jax.Array:
    return image_keys(arguments.key(key), indices)


# --- Their tasks ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LatentTask(TaskSpec):
    """A task whose model is a `LatentModel`."""

    commands: ClassVar[tuple[str, ...]] = ("sample", "evaluate", "edit interpolate")

    def init_key(self) -> jax.Array:
        """Return the key of the initial parameters."""
        return jax.random.fold_in(root_key(self.seed), _INIT)

    def start_of(self, source: Dataset) -> Start:
        """Return what makes x of a batch: pixels in [-1, 1], or items as they are.

        Args:
            source: the data.

        Raises:
            UserError: the task is not for them.
        """
        if str(source.dtype) != "uint8":
            return as_they_are
        return from_bytes(flip=self.data.flip and len(source.shape) == 3)

    def facts(self, source: Dataset) -> dict[str, Any]:
        """Return what `open` has to know of the data, for `Task.finish`."""
        return {"item_shape": list(source.shape), "dtype": str(source.dtype)}

    def previewer(
        self, source: Dataset, latent_shape: tuple[int, ...], maps: Maps
    ) -> Callable[[TrainState], Mapping[str, np.ndarray]]:
        """Make what samples a few items with the averaged parameters while training.

        Args:
            source: the data.
            latent_shape: of z.
            maps: of the model.
        """
        facts, show = self.facts(source), display_of(source.shape)
        count = _PREVIEWED if len(source.shape) > 1 else _PREVIEWED_POINTS

        def preview(state: TrainState) -> Mapping[str, np.ndarray]:
            model = LatentModel("", state.ema_params, maps, latent_shape, facts)
            drawn = model.store(model.sample(jax.random.key(0), count))
            return {"samples": show.sheet(drawn, None)}

        return preview


@dataclasses.dataclass(frozen=True)
class LikelihoodTask(LatentTask):
    """A latent task whose model has a likelihood, in true bits of bytes.

    Attributes:
        num_values: of bytes, how many values the data have, evenly from 0 to 255; 17 of
            the digits of 8x8.
    """

    commands: ClassVar[tuple[str, ...]] = (*LatentTask.commands, "likelihood")

    num_values: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.num_values <= 256:
            raise UserError(
                f"num_values={self.num_values} is not in 2 to 256; bytes have no more."
            )

    def start_of(self, source: Dataset) -> Start:
        """Return what makes x of a batch, the bytes on their grid; see `LatentTask`.

        Raises:
            UserError: `num_values` is not what the data have.
        """
        start = super().start_of(source)
        if str(source.dtype) != "uint8":
            if self.num_values != 256:
                raise UserError(
                    f"num_values={self.num_values} is of bytes, and {source.name} has "
                    f"{source.dtype}; leave it out."
                )
            return start
        grid = np.round(np.linspace(0, 255, self.num_values)).astype(np.uint8)
        if not np.isin(examples(source, _CHECKED), grid).all():
            raise UserError(
                f"num_values={self.num_values}, and {source.name} has bytes between "
                "them; use 256, or as many as the data have."
            )
        return lambda key, items: self.on_grid(start(key, items))

    def on_grid(self, x: jax.Array) -> jax.Array:
        """Move pixels [...] in [-1, 1], rounded to bytes, to the even grid of values.

        Of 17 values, stored as 0, 16, 32, ..., 255, the steps are not quite even.
        """
        if self.num_values == 256:
            return x
        steps = self.num_values - 1
        return jnp.round((x + 1.0) * (steps / 2)) * (2.0 / steps) - 1.0


def examples(source: Dataset, count: int) -> np.ndarray:
    """Return items [N, ...] from all over a data set, at most `count`."""
    places = np.linspace(0, len(source) - 1, min(count, len(source)))
    return np.stack([source.source[int(i)]["image"] for i in places.round()])
