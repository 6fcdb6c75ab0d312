"""Generative adversarial network, non-saturating or relativistic, with R1 and R2.

With logits D(x) of real items and D(y) of y = G(z), z ~ N(0, I), and f(t) = softplus:

    non-saturating    D: mean f(-D(x)) + f(D(y))        G: mean f(-D(y))           (1)
    relativistic      D: mean f(D(y) - D(x))            G: mean f(D(x) - D(y))     (2)
    R1 = mean |grad D(x)|^2        R2 = mean |grad D(y)|^2                         (3)

The discriminator descends (1) + gamma/2 R1, or (2) + gamma/2 (R1 + R2); the textbook's
GAN is (1) with gamma 0. At equilibrium, D = 0, the loss of (1) is 2 log 2, and of (2)
log 2. Without a penalty the game circles around its equilibrium (Mescheder et al.
2018, section 2), with it it contracts.

One step is one of the discriminator, and then one of the generator against it, with
other noise.

Sources:
    Goodfellow et al. 2014, "Generative Adversarial Nets", section 3 and eq. (1).
    Mescheder, Geiger, Nowozin 2018, "Which Training Methods for GANs do actually
    Converge?", eq. (9) for R1.
    Jolicoeur-Martineau 2019, "The Relativistic Discriminator", for (2).
    Huang, Gokaslan, Kuleshov, Tompkin 2024, "The GAN is Dead; Long Live the GAN! A
    Modern Baseline GAN", for (2) with R1 and R2.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.networks.adversarial import (
    ImageDiscriminator,
    ImageGenerator,
    VectorDiscriminator,
    VectorGenerator,
)
from ddpm_jax.tasks.latent_model import LatentModel, LatentTask, Maps
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import ema_decay
from ddpm_jax.training.task import Batch, Step, Task

Loss = Literal["non_saturating", "relativistic"]


class Game(NamedTuple):
    """The two players as functions of their parameters.

    Attributes:
        generate: (params of the generator, z [B, ...]) -> items [B, ...].
        discriminate: (params of the discriminator, x [B, ...]) -> logits [B].
        loss: (1) or (2).
        gamma: of the penalties; 0 for none.
    """

    generate: Callable[[Any, jax.Array], jax.Array]
    discriminate: Callable[[Any, jax.Array], jax.Array]
    loss: Loss
    gamma: float


def discriminator_loss(real: jax.Array, fake: jax.Array, loss: Loss) -> jax.Array:
    """Return the discriminator's part of (1) or (2), [], of logits [B] of each kind."""
    if loss == "relativistic":
        return jax.nn.softplus(fake - real).mean()
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


def generator_loss(real: jax.Array, fake: jax.Array, loss: Loss) -> jax.Array:
    """Return the generator's part of (1) or (2), [], of logits [B] of each kind."""
    if loss == "relativistic":
        return jax.nn.softplus(real - fake).mean()
    return jax.nn.softplus(-fake).mean()


def gradient_penalty(
    discriminate: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
    """Return the mean of |grad D|^2 over items, (3): [].

    Args:
        discriminate: x -> logits [B], that of a row of x being of that row alone.
        x: [B, ...].
    """
    slopes = jax.grad(lambda rows: discriminate(rows).sum())(x)
    return jnp.square(slopes).reshape(len(x), -1).sum(1).mean()


def discriminator_objective(
    game: Game, params: Any, real: jax.Array, fake: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return what the discriminator descends, [], and its parts.

    Args:
        game: the players.
        params: of the discriminator.
        real: items of the data, [B, ...].
        fake: items of the generator, as many.
    """

    def discriminate(x: jax.Array) -> jax.Array:
        return game.discriminate(params, x)

    found = discriminator_loss(discriminate(real), discriminate(fake), game.loss)
    parts = {"discriminator": found}
    if game.gamma:
        parts["r1"] = gradient_penalty(discriminate, real)
        penalty = parts["r1"]
        if game.loss == "relativistic":
            parts["r2"] = gradient_penalty(discriminate, fake)
            penalty = penalty + parts["r2"]
        found = found + 0.5 * game.gamma * penalty
    return found, parts


def generator_objective(
    game: Game, params: Mapping[str, Any], real: jax.Array, z: jax.Array
) -> jax.Array:
    """Return what the generator descends, [].

    Args:
        game: the players.
        params: of "generator" and "discriminator".
        real: items of the data, [B, ...].
        z: noise, [B, ...].
    """
    of_discriminator = params["discriminator"]
    fake = game.discriminate(of_discriminator, game.generate(params["generator"], z))
    real_logits = fake  # of which (1) takes no notice
    if game.loss == "relativistic":
        real_logits = game.discriminate(of_discriminator, real)
    return generator_loss(real_logits, fake, game.loss)


def make_step(
    game: Game,
    optimizer: optax.GradientTransformation,
    start: Callable[[jax.Array, jax.Array], jax.Array],
    latent_shape: tuple[int, ...],
    *,
    ema_target: float,
) -> Step:
    """Compose one step: the discriminator's, and then the generator's.

    Args:
        game: the players.
        optimizer: of each of them, with a state of its own.
        start: (key, stored items) -> x [B, ...].
        latent_shape: of z.
        ema_target: decay of the generator's moving average after its warm-up.

    Returns:
        (state, key, batch) -> (state, metrics). The key is that of the run: the step
        folds its own number in.
    """

    def train_step(
        state: TrainState, key: jax.Array, batch: Batch
    ) -> tuple[TrainState, dict]:
        key_start, key_d, key_g = jax.random.split(
            jax.random.fold_in(key, state.step), 3
        )
        real = start(key_start, batch["image"])
        params, opt_state = dict(state.params), dict(state.opt_state)

        def descend(name: str, gradient: Any) -> None:
            updates, opt_state[name] = optimizer.update(
                gradient, opt_state[name], params[name]
            )
            params[name] = optax.apply_updates(params[name], updates)

        shape = (len(real), *latent_shape)
        fake = game.generate(
            params["generator"], jax.random.normal(key_d, shape, jnp.float32)
        )
        gradient, metrics = jax.grad(
            lambda p: discriminator_objective(game, p, real, fake), has_aux=True
        )(params["discriminator"])
        descend("discriminator", gradient)
        z = jax.random.normal(key_g, shape, jnp.float32)
        loss, slopes = jax.value_and_grad(
            lambda p: generator_objective(game, {**params, "generator": p}, real, z)
        )(params["generator"])
        descend("generator", slopes)
        decay = ema_decay(state.step, ema_target)
        ema_params = optax.incremental_update(
            params["generator"], state.ema_params, 1.0 - decay
        )
        metrics |= {"loss": loss, "grad_norm": optax.tree.norm(slopes)}
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step


@dataclasses.dataclass(frozen=True)
class GAN(LatentTask):
    """A generative adversarial network, of points or of images.

    Attributes:
        network: the generator: vector_generator, or of images image_generator.
        discriminator: vector_discriminator, or of images image_discriminator.
        loss: relativistic, or non_saturating.
        gamma: weight of the gradient penalties, R1 of either loss and R2 of the
            relativistic one; 0: none.
    """

    network: VectorGenerator | ImageGenerator = dataclasses.field(
        default_factory=VectorGenerator
    )
    discriminator: VectorDiscriminator | ImageDiscriminator = dataclasses.field(
        default_factory=VectorDiscriminator
    )
    loss: Loss = "relativistic"
    gamma: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.at_least(self, 0, "gamma")

    def maps(self, network: Any) -> Maps:
        """Return what samples; there is neither an encoder nor a likelihood."""

        def decode(params: Any, keys: jax.Array, z: jax.Array) -> jax.Array:
            del keys
            found: jax.Array = network.apply({"params": params}, z)
            return found

        return Maps(decode)

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Build the task; see `TaskSpec`."""
        del mesh
        network = self.network.for_items(source.shape)
        judge = self.discriminator.for_items(source.shape)
        latent_shape = network.latent_shape(source.shape)
        optimizer = fit.transformation()

        def run(net: Any) -> Callable[[Any, jax.Array], jax.Array]:
            return lambda params, x: net.apply({"params": params}, x)

        def draw() -> Any:
            keys = jax.random.split(self.init_key())
            z = jnp.zeros((1, *latent_shape), jnp.float32)
            x = jnp.zeros((1, *source.shape), jnp.float32)
            return {
                "generator": jax.jit(network.init)(keys[0], z)["params"],
                "discriminator": jax.jit(judge.init)(keys[1], x)["params"],
            }

        def begin(params: Any) -> TrainState:
            return TrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                # A copy, not an alias: the state is donated, and a buffer only once.
                ema_params=jax.tree.map(jnp.copy, params["generator"]),
                opt_state={name: optimizer.init(p) for name, p in params.items()},
            )

        return Task(
            draw=draw,
            start=begin,
            step=make_step(
                Game(run(network), run(judge), self.loss, self.gamma),
                optimizer,
                self.start_of(source),
                latent_shape,
                ema_target=fit.ema_decay,
            ),
            shown=("loss", "discriminator", "r1", "r2"),
            preview=self.previewer(source, latent_shape, self.maps(network)),
            finish=lambda state: self.facts(source),
            unused=("accumulate", "ema_stds"),
        )

    def open(self, params: Any, facts: Mapping[str, Any]) -> LatentModel:
        """Make the model of trained parameters; see `TaskSpec`."""
        shape = tuple(facts["item_shape"])
        network = self.network.for_items(shape)
        maps = self.maps(network)
        return LatentModel("gan", params, maps, network.latent_shape(shape), facts)
