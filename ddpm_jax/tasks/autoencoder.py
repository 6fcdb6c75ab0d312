"""KL autoencoder with an adversary: its losses, and one step of training.

With images x [B, H, W, C], posterior N(mu, s^2) over latents and reconstruction x',

    nll = mean_B [ sum_HWC |x - x'| + H W C w_p d(x, x') ]                           (1)
    KL  = mean_B sum_hwc (mu^2 + s^2 - 1 - log s^2) / 2                              (2)
    loss of the autoencoder  = nll + w_KL KL - lambda w_D mean D(x')                 (3)
    lambda = |grad nll| / (|grad (-mean D(x'))| + 1e-4), at most 1e4                 (4)
    loss of the discriminator = mean [(1 - D(x))+ + (1 + D(x'))+] / 2                (5)

Both (1) and (2) are sums over an image's numbers and means over the batch: w_KL = 1e-6
means what it does in the published code, and would mean H W C times more beside a mean
absolute error. The gradients of (4) are those by the decoder's last kernel. d is a
distance of feature maps, (6) in `perceptual_distance`.

Before a start step the discriminator is neither used nor trained. Autoencoder and
discriminator learn from the same reconstructions, where the published code reconstructs
again for the second: one forward pass fewer, and lambda apart the same gradients.

Sources:
    Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
    section 3.1 and appendix G, and their code for the constants.
    Esser, Rombach, Ommer 2021, "Taming Transformers", eq. (7), for lambda.
    Lim & Ye 2017, "Geometric GAN", for the hinge.
    Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", eq. (1), for d.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ddpm_jax import limits
from ddpm_jax.codecs.pixels import random_flip
from ddpm_jax.errors import UserError
from ddpm_jax.networks.discriminator import PatchDiscriminator
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder
from ddpm_jax.runtime.images import to_float
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import ema_decay
from ddpm_jax.training.task import Batch, Step, Task

_MAX_ADAPTIVE = 1e4
_SMALL_NORM = 1e-4
_SHOWN = ("absolute_error", "kl", "perceptual", "hinge", "adaptive_weight")

Maps = Callable[[jax.Array], Sequence[jax.Array]]
"""Images [B, H, W, C] in [-1, 1] -> feature maps, each [B, h, w, c]."""


class Networks(NamedTuple):
    """What is trained, as functions of its parameters.

    Attributes:
        encode: (params, x) -> mean and log-variance, each [B, h, w, c].
        decode: (params, z) -> x' [B, H, W, C].
        sample: (key, mean, log-variance) -> z.
        last: from the autoencoder's parameters to the kernel of its last layer.
        discriminate: (params, x) -> logits [B, ...]; None for no discriminator.
        maps: of the network that looks, for d; None for no such term.
        channel_weights: of each map, [c], for d as LPIPS; None for equal ones.
    """

    encode: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    decode: Callable[[Any, jax.Array], jax.Array]
    sample: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    last: Callable[[Any], jax.Array]
    discriminate: Callable[[Any, jax.Array], jax.Array] | None = None
    maps: Maps | None = None
    channel_weights: Sequence[Any] | None = None


class Weights(NamedTuple):
    """Of the terms beside the absolute error: w_KL, w_p and w_D."""

    kl: float = 1e-6
    perceptual: float = 1.0
    discriminator: float = 0.5


@dataclasses.dataclass(frozen=True)
class AutoencoderTask(TaskSpec):
    """A KL autoencoder, the first stage of latent diffusion.

    Attributes:
        network: the autoencoder.
        discriminator: the adversary.
        perceptual: the network whose maps are compared: the run of a classifier, or
            lpips:VGG16_FILE,LINEAR_FILE; "": none.
        kl_weight: of the KL, beside errors summed over an image's numbers.
        perceptual_weight: of the distance of feature maps.
        discriminator_weight: of the discriminator, beside the adaptive weight; 0: none.
        discriminator_start: steps before it is used and trained.
    """

    network: KLAutoencoder = dataclasses.field(default_factory=KLAutoencoder)
    discriminator: PatchDiscriminator = dataclasses.field(
        default_factory=PatchDiscriminator
    )
    perceptual: str = ""
    kl_weight: float = 1e-6
    perceptual_weight: float = 1.0
    discriminator_weight: float = 0.5
    discriminator_start: int = 25_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.perceptual_weight != 1 and not self.perceptual:
            raise UserError(
                f"perceptual_weight={self.perceptual_weight} does nothing without "
                "perceptual; name a network there, or leave it out."
            )
        limits.at_least(self, 0, "kl_weight", "perceptual_weight")
        limits.at_least(self, 0, "discriminator_weight", "discriminator_start")

    def weights(self) -> Weights:
        """Return the weights of the terms beside the absolute error."""
        return Weights(
            self.kl_weight, self.perceptual_weight, self.discriminator_weight
        )

    def adversary_start(self, num_steps: int) -> int | None:
        """Return the step at which the discriminator joins a run; None for never.

        Args:
            num_steps: of the run.
        """
        joins = self.discriminator_weight > 0 and self.discriminator_start < num_steps
        return self.discriminator_start if joins else None


# --- The losses -----------------------------------------------------------------------


def kl_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Return KL(N(mu, s^2) || N(0, 1)) [B] in nats, summed over all latents.

    Args:
        mean: [B, ...].
        log_variance: log s^2, [B, ...].

    Source: Kingma & Welling 2014, appendix B.
    """
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    return 0.5 * terms.reshape(len(terms), -1).sum(1)


def perceptual_distance(
    maps_a: Sequence[jax.Array],
    maps_b: Sequence[jax.Array],
    channel_weights: Sequence[Any] | None = None,
) -> jax.Array:
    """Compare two batches of images by what a network sees in them: [B].

    d = sum over maps of the mean over places of sum_c w_c (a / |a| - b / |b|)_c^2   (6)

    a and b being the vectors of channels at a place. With the weights that LPIPS has
    fitted to people's judgement it is LPIPS. Without, each is one over the number of
    maps, and d lies between 0 and 4.

    Args:
        maps_a: feature maps of the first, each [B, h, w, c].
        maps_b: of the second, of the same shapes.
        channel_weights: of each map, [c].

    Source: Zhang et al. 2018, eq. (1).
    """
    weights = channel_weights or [1.0 / len(maps_a)] * len(maps_a)

    def unit(vectors: jax.Array) -> jax.Array:
        square = jnp.square(vectors).sum(-1, keepdims=True)
        return vectors * jax.lax.rsqrt(square + 1e-10)  # also where all are zero

    distances = [
        (w * jnp.square(unit(a) - unit(b))).sum(-1).mean((1, 2))
        for a, b, w in zip(maps_a, maps_b, weights, strict=True)
    ]
    return jnp.stack(distances).sum(0)


def hinge_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Return the discriminator's loss (5), [], of logits [...] of either kind."""
    return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def adaptive_weight(of_nll: jax.Array, of_generator: jax.Array) -> jax.Array:
    """Return lambda (4), [], of two gradients by the same parameters [...]."""
    ratio = jnp.linalg.norm(of_nll) / (jnp.linalg.norm(of_generator) + _SMALL_NORM)
    return jnp.clip(ratio, 0.0, _MAX_ADAPTIVE)


# --- The step -------------------------------------------------------------------------


def init_autoencode_state(
    autoencoder: Any,
    discriminator: Any,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
) -> TrainState:
    """Start a run: the average starts as the autoencoder's parameters themselves.

    Args:
        autoencoder: its initial parameters.
        discriminator: those of the discriminator; () if there is none.
        optimizers: of the one and of the other.
    """
    of_autoencoder, of_discriminator = optimizers
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={"autoencoder": autoencoder, "discriminator": discriminator},
        # A copy, not an alias: the state is donated, and a buffer only once.
        ema_params=jax.tree.map(jnp.copy, autoencoder),
        opt_state={
            "autoencoder": of_autoencoder.init(autoencoder),
            "discriminator": of_discriminator.init(discriminator),
        },
    )


def make_gradients(
    networks: Networks, weights: Weights, *, adversarial: bool
) -> Callable[[Any, jax.Array, jax.Array], tuple[dict[str, Any], dict]]:
    """Compose the gradients of (3) and (5).

    The autoencoder is differentiated once for all its terms: they differ only in what
    they say of x'. Those of its last kernel alone, for (4), cost little besides.

    Args:
        networks: what is trained.
        weights: of the terms.
        adversarial: whether the discriminator takes part.

    Returns:
        (params, key, x) -> (gradients, metrics); params and gradients are of
        "autoencoder" and "discriminator", the latter None unless it takes part.
    """

    def gradients(params: Any, key: jax.Array, x: jax.Array) -> tuple:
        def reconstruct(of_autoencoder: Any) -> tuple[jax.Array, jax.Array]:
            mean, log_variance = networks.encode(of_autoencoder, x)
            z = networks.sample(key, mean, log_variance)
            kl = kl_divergence(mean, log_variance).mean()
            return networks.decode(of_autoencoder, z), kl

        def negative_log_likelihood(fake: jax.Array) -> tuple[jax.Array, dict]:
            size = x[0].size
            error = jnp.abs(x - fake).sum() / len(x)
            told = {"absolute_error": error / size}
            if networks.maps is not None and weights.perceptual:
                seen = perceptual_distance(
                    networks.maps(x), networks.maps(fake), networks.channel_weights
                ).mean()
                error = error + size * weights.perceptual * seen
                told["perceptual"] = seen
            return error, told

        (fake, kl), pull_back = jax.vjp(reconstruct, params["autoencoder"])
        nothing = jnp.zeros_like(kl)
        (nll, metrics), slope = jax.value_and_grad(
            negative_log_likelihood, has_aux=True
        )(fake)
        found = {"discriminator": None}
        if adversarial:
            assert networks.discriminate is not None  # else nobody asks for it
            discriminate = networks.discriminate

            def generator(fake: jax.Array) -> jax.Array:
                return -discriminate(params["discriminator"], fake).mean()

            def loss(of_discriminator: Any) -> jax.Array:
                real = discriminate(of_discriminator, x)
                return hinge_loss(real, discriminate(of_discriminator, fake))

            g, slope_of_g = jax.value_and_grad(generator)(fake)
            adaptive = adaptive_weight(
                networks.last(pull_back((slope, nothing))[0]),
                networks.last(pull_back((slope_of_g, nothing))[0]),
            )
            slope = slope + weights.discriminator * adaptive * slope_of_g
            hinge, found["discriminator"] = jax.value_and_grad(loss)(
                params["discriminator"]
            )
            metrics |= {"generator": g, "hinge": hinge, "adaptive_weight": adaptive}
        (found["autoencoder"],) = pull_back((slope, nothing + weights.kl))
        loss_of_x = nll + weights.kl * kl
        return found, {**metrics, "kl": kl, "loss": loss_of_x}

    return gradients


def make_autoencode_step(
    networks: Networks,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    weights: Weights,
    *,
    adversarial: bool,
    ema_target: float,
    flip: bool = False,
) -> Step:
    """Compose one step, in which two networks have an optimiser each.

    Args:
        networks: what is trained.
        optimizers: of the autoencoder and of the discriminator.
        weights: of the terms.
        adversarial: whether the discriminator takes part. If not, its parameters and
            its optimiser are as before.
        ema_target: decay of the moving average after its warm-up.
        flip: mirror half of the images.

    Returns:
        (state, key, batch) -> (state, metrics). The key is that of the run: the step
        folds its own number in. `metrics["loss"]` is (3) without the discriminator.
    """
    gradients = make_gradients(networks, weights, adversarial=adversarial)
    both = dict(zip(("autoencoder", "discriminator"), optimizers, strict=True))

    def train_step(
        state: TrainState, key: jax.Array, batch: Batch
    ) -> tuple[TrainState, dict]:
        key_flip, key_z = jax.random.split(jax.random.fold_in(key, state.step))
        x = to_float(batch["image"])
        if flip:
            x = random_flip(key_flip, x)
        found, metrics = gradients(state.params, key_z, x)
        params, opt_state = dict(state.params), dict(state.opt_state)
        for name, gradient in found.items():
            if gradient is not None:
                updates, opt_state[name] = both[name].update(
                    gradient, opt_state[name], params[name]
                )
                params[name] = optax.apply_updates(params[name], updates)
        decay = ema_decay(state.step, ema_target)
        ema_params = optax.incremental_update(
            params["autoencoder"], state.ema_params, 1.0 - decay
        )
        metrics["grad_norm"] = optax.tree.norm(found["autoencoder"])
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step


def autoencoder_task(
    draw: Callable[[], Any],
    networks: Networks,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    weights: Weights,
    *,
    adversary_start: int | None,
    ema_target: float,
    flip: bool,
) -> Task:
    """Compose the task.

    Args:
        draw: () -> the initial parameters of "autoencoder" and "discriminator".
        networks: what is trained.
        optimizers: of the autoencoder and of the discriminator.
        weights: of the terms.
        adversary_start: step, counted from 0, at which the discriminator joins; None
            for never.
        ema_target: decay of the moving average after its warm-up.
        flip: mirror half of the images.
    """

    def step(adversarial: bool) -> Step:
        return make_autoencode_step(
            networks,
            optimizers,
            weights,
            adversarial=adversarial,
            ema_target=ema_target,
            flip=flip,
        )

    return Task(
        draw=draw,
        start=lambda params: init_autoencode_state(
            params["autoencoder"], params["discriminator"], optimizers
        ),
        step=step(adversarial=False),
        later=() if adversary_start is None else ((adversary_start, step(True)),),
        shown=_SHOWN,
    )
