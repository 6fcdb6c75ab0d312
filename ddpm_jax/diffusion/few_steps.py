r"""Few steps: losses that make a trained network jump where it has crept.

The probability-flow ODE carries x_t to x_s along one path, J(x_t; t -> s). DDIM follows
it in many short steps, because its slope is known at x_t alone. The losses here train
a network to end where the path ends. In levels of any schedule, with the share of noise

    (1)  u = sigma / (alpha + sigma),    the time of the straight path:

Consistency. f(x_t) = J(x_t; t -> 0) is the x_0 that the network predicts. Pairs of
levels t and a cleaner r have the same noise, and

    (2)  loss = d(f(x_t), f(x_r)) / (u_t - u_r),    f(x_r) a constant    [S], [G]
    (3)  u_r = (1 - 2^-k) u_t    at stage k = 0, 1, 2, ...                [G] section 4

At stage 0 r is the clean level, f(x_r) = x_0, and (2) is a diffusion loss: from there a
trained network is *tuned*. Below the first level of the schedule r is clean too, which
ties f to the data at every stage. [G] take the sigma / alpha of a path that adds noise
alone in the place of u; near the clean end the two are equal, and u is finite in pure
noise.

With x_r = alpha_r x_0 + sigma_r eps of the data (consistency training) the pair lies on
one path only on average: the gradient of (2) vanishes at the true f as r -> t, the loss
does not. With x_r a step of a teacher's ODE (consistency distillation) both vanish, and
the teacher may be guided.

Sources:
    [S] Song, Dhariwal, Chen, Sutskever 2023, "Consistency Models".
    [I] Song, Dhariwal 2024, "Improved Techniques for Training Consistency Models".
    [G] Geng, Pokle, Luo, Lin, Kolter 2025, "Consistency Models Made Easy".
    [M] Meng et al. 2023, "On Distillation of Guided Diffusion Models".
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import limits
from ddpm_jax.diffusion.denoisers import Cond, Denoiser, Network, from_network
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.losses import Loss, LossContext, LossSpec, Noised
from ddpm_jax.diffusion.process import add_noise, like
from ddpm_jax.diffusion.schedules import Level, Schedule

# --- Levels by their share of noise ---------------------------------------------------


def noise_share(level: Level) -> jax.Array:
    """Return u of eq. (1), in [0, 1], of the shape of the leaves."""
    return level.sigma / (level.alpha + level.sigma)


def at_share(schedule: Schedule, u: jax.Array) -> Level:
    """Return the level of a schedule with a share of noise, between its levels too.

    Args:
        schedule: any.
        u: of eq. (1), [] or [B]; 0 is the clean level.
    """
    found = schedule.at_logsnr(2.0 * (jnp.log1p(-u) - jnp.log(u)))
    is_clean = u <= 0
    return Level(
        jnp.where(is_clean, schedule.at(jnp.asarray(-1)).t, found.t),
        jnp.where(is_clean, 1.0, found.alpha),
        jnp.where(is_clean, 0.0, found.sigma),
    )


def cleaner_level(schedule: Schedule, t: Level, ratio: jax.Array | float) -> Level:
    """Return the level r of a pair, eq. (3); the clean one below the first level.

    Args:
        schedule: the forward process.
        t: leaves [B].
        ratio: u_r / u_t, [], in [0, 1).
    """
    with jax.ensure_compile_time_eval():
        least = float(noise_share(schedule.at(jnp.asarray(0))))
    u = ratio * noise_share(t)
    return at_share(schedule, jnp.where(u < least, 0.0, u))


# --- Distances ------------------------------------------------------------------------


def distance(difference: jax.Array, huber: float) -> jax.Array:
    """Measure differences [B, ...] as [B]: pseudo-Huber, or the mean square.

    sqrt(m + c^2) - c of the mean square m: like the root of m where that is above c,
    and like m / 2c below. [I], section 3.3, have c = 0.00054 in this scale.

    Args:
        difference: [B, ...].
        huber: c; 0 for m itself.
    """
    mean = jnp.mean(difference**2, axis=range(1, difference.ndim))
    return jnp.sqrt(mean + huber**2) - huber if huber else mean


# --- Consistency ----------------------------------------------------------------------


def heun_step(denoise: Denoiser, x_t: jax.Array, t: Level, r: Level, cond: Cond) -> Any:
    """Follow a teacher's ODE from t to r by Heun's rule, in sigma / alpha.

    dx'/d rho = eps for x' = x / alpha and rho = sigma / alpha, so that a step is
    alpha_r (x_t / alpha_t + (rho_r - rho_t) eps); its slope is the mean of those at
    both ends, and that of the start alone where r is clean: DDIM.

    Args:
        denoise: the teacher.
        x_t: [B, ...].
        t: leaves [B].
        r: leaves [B], cleaner.
        cond: what the teacher is conditioned on.

    Returns:
        x_r [B, ...]; its error is of order 3 in the length of the step.

    Source: Karras et al. 2022, Algorithm 1; [S], section 4.
    """
    start = denoise(x_t, t, cond)
    straight = like(r.alpha, x_t) * start.x0 + like(r.sigma, x_t) * start.eps
    is_clean = r.sigma <= 0
    # A level of noise for all rows, whose value is not used where r is clean.
    noisy = jax.tree.map(lambda a, b: jnp.where(is_clean, a, b), t, r)
    slope = denoise(straight, noisy, cond).eps
    # rho_r - rho_t times alpha_r, without a quotient by alpha_t where that is 0.
    length = r.sigma - r.alpha * t.sigma / jnp.where(t.alpha > 0, t.alpha, jnp.inf)
    bent = straight + like(0.5 * length, x_t) * (slope - start.eps)
    # From next to pure noise rho falls by more than the rule can bear.
    plain = is_clean | (r.sigma * t.alpha < 0.25 * t.sigma * r.alpha)
    return jnp.where(like(plain, x_t), straight, bent)


def consistency_losses(
    f: Denoiser,
    target: Denoiser,
    noised: Noised,
    r: Level,
    cond: Cond = None,
    *,
    huber: float = 0.0,
    teacher: Denoiser | None = None,
) -> jax.Array:
    """Compare f at both ends of pairs, eq. (2): [B].

    Args:
        f: the network in training, whose x0 is compared.
        target: the same network as a constant, with the same dropout.
        noised: the noisier ends.
        r: the cleaner ends, leaves [B]; from `cleaner_level`.
        cond: what all are conditioned on.
        huber: c of `distance`.
        teacher: whose ODE leads from t to r; None for the noise of the data.
    """
    t = noised.t
    if teacher is None:
        x_r = add_noise(noised.x0, noised.eps, r)
    else:
        x_r = heun_step(teacher, noised.x_t, t, r, cond)
    is_clean = r.sigma <= 0
    noisy = jax.tree.map(lambda a, b: jnp.where(is_clean, a, b), t, r)
    there = jnp.where(like(is_clean, x_r), x_r, target(x_r, noisy, cond).x0)
    difference = f(noised.x_t, t, cond).x0 - jax.lax.stop_gradient(there)
    return distance(difference, huber) / (noise_share(t) - noise_share(r))


# --- Specs ----------------------------------------------------------------------------


class FewStepContext(NamedTuple):
    """What a loss of few steps depends on beside its own options.

    Attributes:
        loss: what any loss depends on.
        num_steps: of training, over which stages are spread.
        null: cond -> the same pytree, unconditional, for a guided teacher.
    """

    loss: LossContext
    num_steps: int
    null: Callable[[Cond], Cond]


class Networks(NamedTuple):
    """A network as a function (params, x_t, t, cond) -> output.

    Attributes:
        train: with dropout, of the same key at each call.
        plain: without.
    """

    train: Network
    plain: Network


class FewStepLoss(NamedTuple):
    """A loss that evaluates the network itself, more than once.

    Attributes:
        init: parameters at the start -> carry, such as those of a frozen teacher.
        evaluate: (key, networks, params, noised, cond, step [], carry) -> losses [B],
            carry.
    """

    init: Callable[[Any], Any]
    evaluate: Callable[..., tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class FewStepSpec(LossSpec):
    """A loss that makes a network of few steps, by what makes it.

    Attributes:
        num_stages: equal parts of the run, each with steps of another length.
        guidance_scale: of a teacher, which is then part of the network; 1 for none.
    """

    num_stages: int = 8
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        limits.between(self, "num_stages", 1, 20)
        limits.between(self, "guidance_scale", -1000, 1000)

    @property
    def needs_teacher(self) -> bool:
        """Whether it begins with the parameters of a run."""
        return True

    def few_steps(self, context: FewStepContext) -> FewStepLoss:
        """Make the loss."""
        raise NotImplementedError


def stage_of(step: jax.Array, num_steps: int, num_stages: int) -> jax.Array:
    """Return which of equally long stages a step of training is in, [] int32."""
    stage = jnp.asarray(step, jnp.int32) * num_stages // num_steps
    return jnp.minimum(stage, num_stages - 1)


@dataclasses.dataclass(frozen=True)
class Consistency(FewStepSpec):
    """Consistency tuning, eq. (2) and (3); stages take equal shares of the run.

    The first stage is a diffusion loss, and each halves the distance of the pairs.

    Attributes:
        huber: c of the pseudo-Huber distance; 0 for the mean square.
        pairs: of what a pair is made: of the noise of the data, or by a step of the run
            that it begins with, as a frozen teacher.
    """

    huber: float = 0.001
    pairs: Literal["data", "teacher"] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.at_least(self, 0, "huber")

    @property
    def needs_teacher(self) -> bool:
        """Whether it begins with the parameters of a run."""
        return self.pairs == "teacher"

    def build(self, context: LossContext) -> Loss:
        """Make the loss of stage 0, of pairs of the data: that of x0 in `distance`."""

        def loss(output: jax.Array, noised: Noised) -> jax.Array:
            found = context.kind.predict(output, noised.x_t, noised.t)
            error = distance(found.x0 - noised.x0, self.huber)
            return error / noise_share(noised.t)

        return loss

    def few_steps(self, context: FewStepContext) -> FewStepLoss:
        """Make the loss; its carry are the parameters of the teacher, if there is one.

        See `FewStepSpec`.
        """
        kind, schedule = context.loss.kind, context.loss.schedule
        ratios = 1.0 - 2.0 ** -np.arange(self.num_stages, dtype=np.float32)

        def teacher_of(network: Network, params: Any) -> Denoiser:
            denoise = from_network(network, params, kind)
            if self.guidance_scale == 1:
                return denoise
            return classifier_free(denoise, self.guidance_scale, context.null)

        def evaluate(
            key: jax.Array,
            networks: Networks,
            params: Any,
            noised: Noised,
            cond: Cond,
            step: jax.Array,
            carry: Any,
        ) -> tuple[jax.Array, Any]:
            del key
            stage = stage_of(step, context.num_steps, self.num_stages)
            r = cleaner_level(schedule, noised.t, jnp.asarray(ratios)[stage])
            fixed = jax.lax.stop_gradient(params)
            losses = consistency_losses(
                from_network(networks.train, params, kind),
                from_network(networks.train, fixed, kind),
                noised,
                r,
                cond,
                huber=self.huber,
                teacher=teacher_of(networks.plain, carry)
                if self.needs_teacher
                else None,
            )
            return losses, carry

        def init(params: Any) -> Any:
            return jax.tree.map(jnp.copy, params) if self.needs_teacher else ()

        return FewStepLoss(init, evaluate)
