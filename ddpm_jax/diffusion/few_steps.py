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

Progressive distillation. One DDIM step of the student, from t to s, is to land on the
x_s of two steps of its teacher. The x_0 that does so is

    (4)  x~ = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)
                                                                         [P] appendix G

Then the student is the next teacher, of half as many steps.

Mean flow. On the straight path, of velocity v = dx/du, the average velocity from t to r

    (5)  w(x_t, t, r) = (x_t - J(x_t; t -> r)) / (u_t - u_r)
    (6)  w = v - (u_t - u_r) dw/du_t,    along the path                [F] eq. (6)

is what a network that is given both levels learns by (6), whose right side, a constant,
is its own derivative forwards. At r = t it is flow matching. A step with an average
velocity is DDIM's: a network of `flow` is sampled by it, with the level s beside t.

Sources:
    [S] Song, Dhariwal, Chen, Sutskever 2023, "Consistency Models".
    [I] Song, Dhariwal 2024, "Improved Techniques for Training Consistency Models".
    [G] Geng, Pokle, Luo, Lin, Kolter 2025, "Consistency Models Made Easy".
    [P] Salimans, Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion
        Models".
    [F] Geng, Deng, Bai, Kolter, He 2025, "Mean Flows for One-step Generative Modeling".
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
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.guidance import classifier_free
from ddpm_jax.diffusion.losses import Loss, LossContext, LossSpec, Noised, simple_loss
from ddpm_jax.diffusion.picklable import picklable
from ddpm_jax.diffusion.process import Prediction, add_noise, eps_from_x0, like
from ddpm_jax.diffusion.samplers import BoundDenoiser, Info, Sampler, State
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError

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


# --- Progressive distillation ---------------------------------------------------------


def ddim_step(prediction: Prediction, s: Level) -> jax.Array:
    """Go to level s with a prediction, [B, ...]: DDIM without noise."""
    x0, eps = prediction.x0, prediction.eps
    return like(s.alpha, x0) * x0 + like(s.sigma, x0) * eps


def two_step_target(
    teacher: Denoiser, x_t: jax.Array, t: Level, m: Level, s: Level, cond: Cond = None
) -> Prediction:
    """Return what a student is to predict at x_t, eq. (4): x~, and its eps.

    Args:
        teacher: takes two steps of DDIM, t to m and m to s.
        x_t: [B, ...].
        t: leaves [B].
        m: leaves [B], cleaner.
        s: leaves [B], cleaner still.
        cond: what the teacher is conditioned on.

    Returns:
        x0 and eps [B, ...], with which one step of DDIM from t lands at the same x_s.
    """
    x_m = ddim_step(teacher(x_t, t, cond), m)
    x_s = ddim_step(teacher(x_m, m, cond), s)
    ratio = s.sigma / t.sigma
    x0 = (x_s - like(ratio, x_t) * x_t) / like(s.alpha - ratio * t.alpha, x_t)
    return Prediction(x0, eps_from_x0(x0, x_t, t))


# --- Mean flow ------------------------------------------------------------------------

JUMP = "jump"
"""The key, in `cond`, of how far a step goes: t of its start minus that of its end."""


def mean_flow_target(
    average: Callable[[jax.Array, jax.Array], jax.Array],
    x_t: jax.Array,
    time: jax.Array,
    velocity: jax.Array,
    share: Callable[[jax.Array], jax.Array],
    length: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Evaluate an average velocity and the right side of eq. (6) by one `jax.jvp`.

    Args:
        average: (x [B, ...], time [B]) -> w [B, ...], for the ends r of its steps.
        x_t: [B, ...].
        time: [B], by which paths are counted, such as the t of a schedule.
        velocity: v = dx/du at x_t, [B, ...].
        share: time -> u of eq. (1), rising and differentiable.
        length: u_t - u_r, [B].

    Returns:
        w and its target, [B, ...]; the target is a constant.
    """
    _, rate = jax.jvp(share, (time,), (jnp.ones_like(time),))  # du / dtime
    along = like(rate, x_t) * velocity
    w, change = jax.jvp(average, (x_t, time), (along, jnp.ones_like(time)))
    target = velocity - like(length / rate, x_t) * change
    return w, jax.lax.stop_gradient(target)


@picklable
def jumping(sampler: Sampler, clean_t: float | None = None) -> Sampler:
    """Give the network of a sampler how far the step goes, as `JUMP`.

    Args:
        sampler: DDIM, whose step with an average velocity ends where the path does; or
            `consistency`.
        clean_t: the t of the clean level, for a sampler that wants the x_0 at the end
            of the path; None for the end of the step.
    """

    def step(
        keys: jax.Array, denoise: BoundDenoiser, state: State, t: Level, s: Level
    ) -> tuple[State, Info]:
        def with_jump(
            x: jax.Array, level: Level, also: dict[str, Any] | None = None
        ) -> Prediction:
            end = s.t if clean_t is None else clean_t
            rows = jnp.broadcast_to(level.t - end, x.shape[:1])
            return denoise(x, level, {JUMP: rows, **(also or {})})

        return sampler.step(keys, with_jump, state, t, s)

    return Sampler(sampler.init, step)


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
        guidance_scale: of a teacher, which is then part of the network; 1 for none.
    """

    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        limits.between(self, "guidance_scale", -1000, 1000)

    @property
    def needs_teacher(self) -> bool:
        """Whether it begins with the parameters of a run."""
        return True

    @property
    def least_steps(self) -> int:
        """How many steps of training it has a use for, at the least."""
        return 1

    def check_levels(self, num_levels: int) -> None:
        """Refuse schedules with too few levels.

        Raises:
            UserError: this one has.
        """

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
        num_stages: equal parts of the run, each with closer pairs.
        huber: c of the pseudo-Huber distance; 0 for the mean square.
        pairs: of what a pair is made: of the noise of the data, or by a step of the run
            that it begins with, as a frozen teacher.
    """

    num_stages: int = 8
    huber: float = 0.001
    pairs: Literal["data", "teacher"] = "data"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_stages", 1, 20)
        limits.at_least(self, 0, "huber")

    @property
    def needs_teacher(self) -> bool:
        """Whether it begins with the parameters of a run."""
        return self.pairs == "teacher"

    @property
    def least_steps(self) -> int:
        """How many steps of training it has a use for, at the least."""
        return self.num_stages

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


class _Teaching(NamedTuple):
    """What progressive distillation carries.

    Attributes:
        teacher: parameters of the stage's teacher.
        average: of the student's parameters, over about the last tenth of a stage.
    """

    teacher: Any
    average: Any


@dataclasses.dataclass(frozen=True)
class Progressive(FewStepSpec):
    """Progressive distillation, eq. (4): each stage halves the steps.

    The student of a stage has final_steps 2^k steps on the spacing `trailing`, and no
    other: it is sampled by DDIM in `final_steps` steps.

    Attributes:
        num_stages: equal parts of the run, of which each halves the steps.
        final_steps: steps of the student of the last stage.
        plain_stages: first stages with the diffusion loss, for a network whose output
            has another meaning than in the run that it begins with.
    """

    num_stages: int = 5
    final_steps: int = 1
    plain_stages: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_stages", 1, 20)
        limits.at_least(self, 1, "final_steps")
        limits.at_least(self, 0, "plain_stages")
        if self.plain_stages >= self.num_stages:
            raise UserError(
                f"plain_stages={self.plain_stages} leaves nothing to distil of "
                f"num_stages={self.num_stages}; use fewer."
            )

    @property
    def least_steps(self) -> int:
        """How many steps of training it has a use for, at the least."""
        return self.num_stages

    @property
    def teacher_steps(self) -> int:
        """Steps of the first teacher, the run that is distilled."""
        return self.final_steps * 2 ** (self.num_stages - self.plain_stages)

    def check_levels(self, num_levels: int) -> None:
        """Refuse more steps than the schedule has levels.

        Raises:
            UserError: it is.
        """
        if self.teacher_steps > num_levels:
            raise UserError(
                f"num_stages={self.num_stages} that halve to "
                f"final_steps={self.final_steps} begin with {self.teacher_steps} "
                f"steps, and there are {num_levels} levels; use fewer stages."
            )

    def build(self, context: LossContext) -> Loss:
        """Make the loss of a plain stage; the others have it with x~ for x_0."""
        return simple_loss(context.kind)

    def few_steps(self, context: FewStepContext) -> FewStepLoss:
        """Make the loss; it carries a `_Teaching`. See `FewStepSpec`."""
        kind, schedule = context.loss.kind, context.loss.schedule
        simple, plain = simple_loss(kind), self.plain_stages
        most = self.teacher_steps // 2
        counts = [max(most >> max(k - plain, 0), 1) for k in range(self.num_stages)]
        with jax.ensure_compile_time_eval():
            tables = [_steps_of(schedule, count, most) for count in counts]
            levels = jax.tree.map(lambda *leaves: np.stack(leaves), *tables)
        decay = 1.0 - 10.0 / max(10.0, context.num_steps / self.num_stages)

        def evaluate(
            key: jax.Array,
            networks: Networks,
            params: Any,
            noised: Noised,
            cond: Cond,
            step: jax.Array,
            carry: _Teaching,
        ) -> tuple[jax.Array, _Teaching]:
            del key
            stage, before = (
                stage_of(step - back, context.num_steps, self.num_stages)
                for back in (0, 1)
            )
            carry = _next(carry, params, stage != before, decay)
            is_plain, is_first = stage < plain, stage == plain
            count = jnp.asarray(counts)[stage]
            share = (noised.index + 1.0) / schedule.num_levels
            place = jnp.clip((1.0 - share) * count, 0, count - 1).astype(jnp.int32)
            t, m, s = (
                jax.tree.map(lambda leaf: jnp.asarray(leaf)[stage, place], level)
                for level in levels
            )
            t = jax.tree.map(lambda a, b: jnp.where(is_plain, a, b), noised.t, t)
            x_t = add_noise(noised.x0, noised.eps, t)
            teacher = from_network(networks.plain, carry.teacher, kind)
            if self.guidance_scale != 1:
                scale = jnp.where(is_first, self.guidance_scale, 1.0)
                teacher = classifier_free(teacher, scale, context.null)
            found = jax.lax.stop_gradient(two_step_target(teacher, x_t, t, m, s, cond))
            x0 = jnp.where(is_plain, noised.x0, found.x0)
            eps = jnp.where(is_plain, noised.eps, found.eps)
            x, time = kind.network_input(x_t, t)
            output = networks.train(params, x, time, cond)
            return simple(output, noised._replace(x0=x0, eps=eps, x_t=x_t, t=t)), carry

        def init(params: Any) -> _Teaching:
            return _Teaching(*(jax.tree.map(jnp.copy, params) for _ in range(2)))

        return FewStepLoss(init, evaluate)


def _steps_of(schedule: Schedule, count: int, most: int) -> tuple[Level, ...]:
    """Return start, middle and end of the steps of a student, leaves [most]."""
    levels = grid(schedule, 2 * count)

    def every_second(first: int) -> Level:
        def take(leaf: jax.Array) -> np.ndarray:
            found = np.asarray(leaf)[first::2][:count]
            return np.pad(found, (0, most - count), mode="edge")

        taken: Level = jax.tree.map(take, levels)
        return taken

    return every_second(0), every_second(1), every_second(2)


def _next(carry: _Teaching, params: Any, begins: jax.Array, decay: float) -> _Teaching:
    """Let the student become the teacher where a stage begins, and average it."""
    params = jax.lax.stop_gradient(params)
    teacher = jax.tree.map(
        lambda old, new: jnp.where(begins, new, old), carry.teacher, carry.average
    )
    average = jax.tree.map(
        lambda old, new: old + (1.0 - decay) * (new - old), carry.average, params
    )
    return _Teaching(teacher, average)


@dataclasses.dataclass(frozen=True)
class MeanFlow(FewStepSpec):
    """Mean flow, eq. (6), of a network that is conditioned on `JUMP`.

    Attributes:
        jump_share: share of examples with r before t; the others are flow matching.
        power: p of the weight (m + 0.01)^-p of an example with the mean square m; 0 for
            none.
    """

    jump_share: float = 0.75
    power: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "jump_share", 0, 1)
        limits.between(self, "power", 0, 1)

    @property
    def needs_teacher(self) -> bool:
        """Whether it begins with the parameters of a run: to guide its velocity."""
        return self.guidance_scale != 1

    def build(self, context: LossContext) -> Loss:
        """Make the loss of examples with r = t, without its weight: flow matching."""
        return simple_loss(context.kind)

    def few_steps(self, context: FewStepContext) -> FewStepLoss:
        """Make the loss; its carry are the parameters of the teacher, if there is one.

        See `FewStepSpec`.
        """
        kind, schedule = context.loss.kind, context.loss.schedule

        def evaluate(
            key: jax.Array,
            networks: Networks,
            params: Any,
            noised: Noised,
            cond: Cond,
            step: jax.Array,
            carry: Any,
        ) -> tuple[jax.Array, Any]:
            del step
            t, x_t = noised.t, noised.x_t
            r = self._ends(key, schedule, noised)
            velocity = noised.eps - noised.x0
            if self.needs_teacher:
                teacher = from_network(networks.plain, carry, kind)
                guided = classifier_free(teacher, self.guidance_scale, context.null)
                found = guided(x_t, t, cond)
                velocity = jax.lax.stop_gradient(found.eps - found.x0)

            def average(x: jax.Array, time: jax.Array) -> jax.Array:
                level = schedule.at(time)
                told = {**(cond or {}), JUMP: level.t - r.t}
                return networks.train(params, x, level.t, told)

            def share(time: jax.Array) -> jax.Array:
                return noise_share(schedule.at(time))

            length = noise_share(t) - noise_share(r)
            w, target = mean_flow_target(
                average, x_t, noised.index, velocity, share, length
            )
            square = jnp.mean((target - w) ** 2, axis=range(1, w.ndim))
            weight = (jax.lax.stop_gradient(square) + 0.01) ** -self.power
            return (square * weight if self.power else square), carry

        def init(params: Any) -> Any:
            return jax.tree.map(jnp.copy, params) if self.needs_teacher else ()

        return FewStepLoss(init, evaluate)

    def _ends(self, key: jax.Array, schedule: Schedule, noised: Noised) -> Level:
        """Draw the ends r: t itself, or evenly in u from t to the clean level."""
        key_share, key_jumps = jax.random.split(key)
        share = jax.random.uniform(key_share, noised.index.shape, jnp.float32)
        jumps = jax.random.bernoulli(key_jumps, self.jump_share, noised.index.shape)
        r = at_share(schedule, share * noise_share(noised.t))
        return jax.tree.map(lambda a, b: jnp.where(jumps, a, b), r, noised.t)
