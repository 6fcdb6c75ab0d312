"""Variational autoencoder, with a decoder whose width is learned.

    log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || N(0, I))                       (1)
    log p(x) >= E[log 1/K sum_k p(x, z_k) / q(z_k|x)],  z_k ~ q(z|x)               (2)

q(z|x) is a Gaussian of independent coordinates, and p(x|z) one of mean decode(z) and of
one standard deviation s for all. On floating point its density is taken, on bytes its
probability over the bin of each value, so that (1) is a bound in true bits.

Training maximizes (1), the KL being multiplied by a weight that rises from 0 to 1 over
`kl_warmup` steps. Without, and with an s that begins wide, the decoder may learn to do
without z: the KL falls to 0, and s to the deviation of the data ("posterior collapse").

Sources:
    Kingma & Welling 2014, "Auto-Encoding Variational Bayes", eq. (3) and appendix B.
    Bowman et al. 2016, "Generating Sentences from a Continuous Space", section 3.1, for
    the warm-up.
    Burda, Grosse, Salakhutdinov 2016, "Importance Weighted Autoencoders", eq. (8), for
    (2), whose mean never falls with K.
    Rybkin, Daniilidis, Levine 2021, "Simple and Effective VAE Training with Calibrated
    Decoders", for a learned s.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion.generate import fold_each
from ddpm_jax.diffusion.process import noise_like
from ddpm_jax.diffusion.variational_bound import discretized_log_likelihood
from ddpm_jax.networks.feed_forward import VectorAutoencoder
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder, sample_posterior
from ddpm_jax.tasks.autoencoder import kl_divergence
from ddpm_jax.tasks.latent_model import LatentModel, LikelihoodTask, Maps, Terms
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Batch, Objective, Task

LOG_STD = "decoder_log_std"
"""Where the parameters have log s; the rest are the network's."""


class Networks(NamedTuple):
    """A VAE as functions of its parameters.

    Attributes:
        encode: (params, x [B, ...]) -> mean and log-variance of q, each [B, ...].
        decode: (params, z [B, ...]) -> mean of p(x|z) [B, ...].
        log_std: params -> log s, [].
        num_values: of bytes, how many values x has on its grid; 0: x is continuous.
    """

    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    log_std: Callable[[Any], jax.Array]
    num_values: int = 0


def _sum(terms: jax.Array) -> jax.Array:
    """Add up all numbers of each item: [B, ...] -> [B]."""
    return terms.reshape(len(terms), -1).sum(1)


def log_normal(
    x: jax.Array, mean: jax.Array | float, log_std: jax.Array | float
) -> jax.Array:
    """Return the log-density of N(mean, std^2) at x, elementwise."""
    standard = (x - mean) * jnp.exp(-log_std)
    return -0.5 * jnp.square(standard) - log_std - 0.5 * math.log(2.0 * math.pi)


def reconstruction(
    networks: Networks, params: Any, x: jax.Array, z: jax.Array
) -> jax.Array:
    """Return log p(x|z) in nats [B], of bytes on their grid a log-probability.

    Args:
        networks: the model.
        params: its parameters.
        x: [B, ...].
        z: [B, ...].
    """
    mean, log_std = networks.decode(params, z), networks.log_std(params)
    if not networks.num_values:
        return _sum(log_normal(x, mean, log_std))
    std = jnp.exp(log_std)
    return _sum(discretized_log_likelihood(x, mean, std, networks.num_values))


def evidence_bound(
    networks: Networks, params: Any, key: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Estimate the two terms of (1) with one z of each item: nats, each [B].

    Args:
        networks: the model.
        params: its parameters.
        key: [].
        x: [B, ...].

    Returns:
        log p(x|z), and the KL in closed form; the bound is their difference.
    """
    mean, log_variance = networks.encode(params, x)
    z = sample_posterior(key, mean, log_variance)
    return reconstruction(networks, params, x, z), kl_divergence(mean, log_variance)


class Bounds(NamedTuple):
    """Both bounds of some items, of the same draws: nats.

    Attributes:
        importance: (2), [B].
        rate: the KL of (1), in closed form [B].
        distortion: -E log p(x|z), the mean of K draws [B]; the negative of (1) is
            rate + distortion.
    """

    importance: jax.Array
    rate: jax.Array
    distortion: jax.Array


def bounds(
    networks: Networks, params: Any, keys: jax.Array, x: jax.Array, num_samples: int
) -> Bounds:
    """Estimate (1) and (2), the importance-weighted bound, with K draws of each item.

    Args:
        networks: the model.
        params: its parameters.
        keys: typed keys [B], one of each item.
        x: [B, ...].
        num_samples: K.

    Source: Alemi et al. 2018, "Fixing a Broken ELBO", section 2, for the names of the
        two terms of (1).
    """
    mean, log_variance = networks.encode(params, x)

    def draw(_: None, number: jax.Array) -> tuple[None, tuple[jax.Array, jax.Array]]:
        noise = noise_like(fold_each(keys, number), mean)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        log_q = _sum(log_normal(z, mean, 0.5 * log_variance))
        log_prior = _sum(log_normal(z, 0.0, 0.0))
        log_p = reconstruction(networks, params, x, z)
        return None, (log_p, log_p + log_prior - log_q)

    _, (log_p, log_weights) = jax.lax.scan(draw, None, jnp.arange(num_samples))
    return Bounds(
        importance=jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples),
        rate=kl_divergence(mean, log_variance),
        distortion=-log_p.mean(0),
    )


def make_objective(
    networks: Networks,
    start: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    kl_warmup: int,
    num_parts: int = 1,
) -> Objective:
    """Compose the loss: minus (1) per dimension in nats, the KL weighted.

    It carries how many steps it has seen, float32 [].

    Args:
        networks: the model.
        start: (key, stored items) -> x [B, ...].
        kl_warmup: steps over which the weight of the KL rises from 0 to 1.
        num_parts: parts of a batch; each counts for a part of a step.
    """

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        key_start, key_z = jax.random.split(key)
        x = start(key_start, batch["image"])
        log_p, kl = evidence_bound(networks, params, key_z, x)
        weight = jnp.minimum(1.0, carry / kl_warmup) if kl_warmup else 1.0
        size = x[0].size
        metrics = {
            "loss": (kl - log_p).mean() / size,
            "kl": kl.mean(),
            "decoder_std": jnp.exp(networks.log_std(params)),
        }
        if networks.num_values:
            metrics["bits_per_dim"] = metrics["loss"] / math.log(2.0)
        loss = (weight * kl - log_p).mean() / size
        return loss, (metrics, carry + 1.0 / num_parts)

    return objective


@dataclasses.dataclass(frozen=True)
class VAE(LikelihoodTask):
    """A variational autoencoder, of points or of images.

    Attributes:
        network: vector_autoencoder, or of images kl_autoencoder.
        kl_warmup: steps over which the weight of the KL rises from 0 to 1; 0: it is 1.
        initial_std: s of the decoder at first, in units of the data.
        learn_std: whether s is trained.
        samples: full: of p(x|z), with the decoder's noise; mean: its mean, as images
            are usually shown.
    """

    options: ClassVar[tuple[str, ...]] = ("num_samples", "likelihood_num_samples")

    network: VectorAutoencoder | KLAutoencoder = dataclasses.field(
        default_factory=VectorAutoencoder
    )
    kl_warmup: int = 0
    initial_std: float = 1.0
    learn_std: bool = True
    samples: Literal["full", "mean"] = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "kl_warmup", 0, 10**9)
        limits.positive(self, "initial_std")

    def networks(self, network: Any, dtype: str) -> Networks:
        """Return the model as functions.

        Args:
            network: that of the recipe, for the items of the data.
            dtype: of the items.
        """

        def call(method: str) -> Callable[[Any, jax.Array], Any]:
            def run(params: Any, x: jax.Array) -> Any:
                return network.apply({"params": params["network"]}, x, method=method)

            return run

        def log_std(params: Any) -> jax.Array:
            learned: jax.Array = params[LOG_STD]
            return learned if self.learn_std else jax.lax.stop_gradient(learned)

        return Networks(
            encode=call("encode"),
            decode=call("decode"),
            log_std=log_std,
            num_values=self.num_values if dtype == "uint8" else 0,
        )

    def maps(self, networks: Networks) -> Maps:
        """Return what samples, encodes and bounds the likelihood."""

        def decode(params: Any, keys: jax.Array, z: jax.Array) -> jax.Array:
            mean = networks.decode(params, z)
            if self.samples == "mean":
                return mean
            return mean + jnp.exp(networks.log_std(params)) * noise_like(keys, mean)

        def likelihood(
            params: Any, keys: jax.Array, x: jax.Array, num_samples: int
        ) -> Terms:
            if networks.num_values:
                x = self.on_grid(x)
            found = bounds(networks, params, keys, x, num_samples)
            return {
                "log_likelihood": found.importance,
                "rate": found.rate,
                "distortion": found.distortion,
            }

        return Maps(
            decode=decode,
            encode=lambda params, x: networks.encode(params, x)[0],
            likelihood=likelihood,
            is_bound=True,
        )

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Build the task; see `TaskSpec`."""
        network = self.network.for_items(source.shape)
        networks = self.networks(network, str(source.dtype))
        maps, latent_shape = self.maps(networks), network.latent_shape(source.shape)
        start = self.start_of(source)

        def draw() -> Any:
            items = jnp.zeros((1, *source.shape), jnp.float32)
            params = jax.jit(network.init)(self.init_key(), items)["params"]
            return {"network": params, LOG_STD: jnp.log(jnp.float32(self.initial_std))}

        def finish(state: TrainState) -> Mapping[str, Any]:
            std = float(jnp.exp(state.ema_params[LOG_STD]))
            return {**self.facts(source), "decoder_std": std}

        return gradient_task(
            draw,
            make_objective(
                networks, start, kl_warmup=self.kl_warmup, num_parts=fit.accumulate
            ),
            fit.transformation(),
            ema_target=fit.ema_decay,
            mesh=mesh,
            carry=jnp.zeros((), jnp.float32),
            num_parts=fit.accumulate,
            shown=("loss", "kl", "decoder_std"),
            preview=self.previewer(source, latent_shape, maps),
            finish=finish,
            unused=("ema_stds",),
        )

    def open(self, params: Any, facts: Mapping[str, Any]) -> LatentModel:
        """Make the model of trained parameters; see `TaskSpec`."""
        shape = tuple(facts["item_shape"])
        network = self.network.for_items(shape)
        maps = self.maps(self.networks(network, facts["dtype"]))
        if isinstance(network, KLAutoencoder):
            # Rounding in between would be charged in bits.
            exact = self.networks(network.clone(dtype="float32"), facts["dtype"])
            maps = maps._replace(likelihood=self.maps(exact).likelihood)
        return LatentModel("vae", params, maps, network.latent_shape(shape), facts)
