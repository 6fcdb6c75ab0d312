"""Diffusion: the loss of Algorithm 1, with augmentation and conditioning.

A batch is {"image": items [B, ...] as the data store them, "label": int32 [B],
"text": ...}, as far as there are labels and texts. The `start` of a codec makes x0 of
the items, on the device: see `codecs`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import limits
from ddpm_jax.codecs import AsStored, CodecSpec, Latents, Start, from_bytes
from ddpm_jax.conditioning.conditioner import ConditionerSpec
from ddpm_jax.conditioning.image_maps import ImageMap
from ddpm_jax.conditioning.text import TextSpec
from ddpm_jax.diffusion.few_steps import (
    JUMP,
    FewStepContext,
    FewStepLoss,
    FewStepSpec,
    MeanFlow,
    Networks,
)
from ddpm_jax.diffusion.losses import (
    Loss,
    LossContext,
    LossSpec,
    SelfConditioning,
    Simple,
    noise_data,
    training_loss,
)
from ddpm_jax.diffusion.preconditioning import edm
from ddpm_jax.diffusion.process import (
    PREDICTIONS,
    VARIANCES,
    NetworkInput,
    Parameterization,
    plain_input,
)
from ddpm_jax.diffusion.schedules import Linear, Schedule, ScheduleSpec, Straight
from ddpm_jax.diffusion.self_conditioning import ESTIMATE
from ddpm_jax.diffusion.time_sampling import UNIFORM, TimeSampler, TimesSpec, Uniform
from ddpm_jax.errors import UserError
from ddpm_jax.limits import brief
from ddpm_jax.networks.ports import Network
from ddpm_jax.networks.unet import UNet
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.task import Batch, Objective, Summary, means

Condition = Callable[[jax.Array, Batch, jax.Array], Any]
"""(key, batch, x0 [B, ...] as the network is to predict it) -> its condition."""

NUM_QUARTILES = 4
_TARGETS = 1  # folded into the key of levels and noise, for what targets draw


_PLAIN = from_bytes(flip=False)


@dataclasses.dataclass(frozen=True)
class Diffusion(TaskSpec):
    """A diffusion model: its data, its network, and the process it is to reverse.

    Attributes:
        codec: what the chain is made of.
        network: called (x_t, t, ports).
        conditioners: what the network is conditioned on, by name.
        condition_dropout: share of examples whose conditions are hidden, all of one
            together. Without it, and without that of a conditioner by itself, there is
            no classifier-free guidance.
        schedule: the noise schedule.
        prediction: what the network outputs: eps, x0, v, flow (eps - x0), or edm, a
            preconditioned network.
        data_std: standard deviation of x0, which edm scales by.
        variance: of the reverse step: small, large or learned.
        loss: the training objective.
        times: how training levels are drawn.
        init_from: a run to begin with, WORKDIR or WORKDIR@STEP; "" for new parameters.
        preview_steps: DDIM steps of the samples that are drawn while it trains.
    """

    codec: CodecSpec = dataclasses.field(default_factory=AsStored)
    network: Network = dataclasses.field(default_factory=UNet)
    conditioners: Mapping[str, ConditionerSpec] = dataclasses.field(
        default_factory=dict
    )
    condition_dropout: float = 0.1
    schedule: ScheduleSpec = dataclasses.field(default_factory=Linear)
    prediction: Literal["eps", "x0", "v", "flow", "edm"] = "eps"
    data_std: float = 0.5
    variance: Literal["small", "large", "learned"] = "large"
    loss: LossSpec = dataclasses.field(default_factory=Simple)
    times: TimesSpec = dataclasses.field(default_factory=Uniform)
    init_from: str = ""
    preview_steps: int = 100
    commands: ClassVar[tuple[str, ...]] = (
        *("plan", "sample", "cascade", "evaluate", "attributes", "rank", "likelihood"),
        *("edit inpaint", "edit image-to-image", "edit interpolate", "edit encode"),
        *("edit colorize", "edit upscale", "edit variations", "edit text-diff"),
        *("extend", "export"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.share(self, "condition_dropout")
        self._check_conditioners()
        limits.at_least(self, 1, "preview_steps")
        limits.positive(self, "data_std", such_as="0.5 for images in [-1, 1]")
        loss = f"loss={brief(self.loss)}"
        if self.learns_variance and not self.loss.trains_variance:
            raise UserError(
                f"{loss} does not train variance='learned'; use loss hybrid or bound."
            )
        if self.loss.needs_variance and not self.learns_variance:
            raise UserError(
                f"{loss} needs a learned variance, got {self.variance!r}; use variance "
                "learned, or loss simple."
            )
        if self.times.needs_table and not self.schedule.is_table:
            raise UserError(
                f"times={brief(self.times)} counts levels, and schedule "
                f"{brief(self.schedule)} is continuous; use one that is a table of "
                "betas, such as linear or cosine, or times stratified."
            )
        if self.prediction == "v" and not self.schedule.preserves_variance:
            raise UserError(
                f"prediction='v' is for alpha^2 + sigma^2 = 1, and schedule "
                f"{brief(self.schedule)} has others; use prediction flow."
            )
        if self.schedule.ends_in_noise:
            self._check_pure_noise()
        if isinstance(self.loss, FewStepSpec):
            self._check_few_steps(self.loss)
        if isinstance(self.loss, MeanFlow):
            self._check_mean_flow()
        elif JUMP in self.conditioners:
            raise UserError(
                f"conditioners.{JUMP} is of loss mean_flow, and this is {loss}; leave "
                "it out."
            )

    def _check_few_steps(self, loss: FewStepSpec) -> None:
        of = f"loss={brief(loss)}"
        if self.prediction == "eps":
            raise UserError(
                f"{of} is for steps from the noisiest level, where prediction='eps' "
                f"says next to nothing of x0; use prediction {self.velocity}: the "
                "parameters of a run that predicts eps are tuned to it."
            )
        if ESTIMATE in self.conditioners:
            raise UserError(
                f"{of} trains single steps, and conditioners.{ESTIMATE} is of the "
                "step before; use a run without it."
            )
        if loss.needs_teacher and not self.init_from:
            raise UserError(
                f"{of} has a teacher, the run of init_from, which is empty; name one."
            )

    def _check_mean_flow(self) -> None:
        of = f"loss={brief(self.loss)}"
        if not isinstance(self.schedule, Straight) or self.prediction != "flow":
            raise UserError(
                f"{of} is of average velocities on a straight path, and this is "
                f"schedule {brief(self.schedule)} with prediction "
                f"{self.prediction!r}; use a run with schedule straight and prediction "
                "flow, such as of configs/digits_flow.py."
            )
        if JUMP not in self.conditioners:
            raise UserError(
                f"{of} needs a network that is conditioned on how far a step goes; add "
                f"conditioners.{JUMP}, of kind {JUMP}."
            )

    def _check_conditioners(self) -> None:
        for name, spec in self.conditioners.items():
            rate = spec.condition_dropout
            option = f"conditioners.{name}.condition_dropout={rate}"
            if not 0 <= rate < 1:
                raise UserError(f"{option} is not in [0, 1); use 0 to switch it off.")
            if rate and not getattr(spec, "droppable", True):
                raise UserError(
                    f"{option} does nothing: it is never dropped; leave it out."
                )
            if spec.named not in ("", name):
                raise UserError(
                    f"conditioners.{name} is a {type(spec).__name__}; it is found by "
                    f"the name {spec.named}: call it so."
                )

        maps = self._maps
        if len(maps) > 1:
            raise UserError(
                f"conditioners.{maps[1]} is an image map beside {maps[0]}; use one."
            )

    def _check_pure_noise(self) -> None:
        ends = f"schedule={brief(self.schedule)} ends in pure noise,"
        if self.prediction == "eps":
            raise UserError(
                f"{ends} of which eps says nothing about x0; use prediction "
                f"{self.velocity} or x0."
            )
        if not self.loss.is_finite_at_noise:
            raise UserError(
                f"{ends} where the weight of the eps-error is infinite; use loss "
                "simple or mean."
            )

    @property
    def _maps(self) -> list[str]:
        return [n for n, s in self.conditioners.items() if isinstance(s, ImageMap)]

    @property
    def dropout_rates(self) -> dict[str, float]:
        """The shares of examples that lose one condition alone, by its name."""
        return {n: spec.condition_dropout for n, spec in self.conditioners.items()}

    @property
    def text(self) -> TextSpec | None:
        """How captions are read; None for a model without text."""
        found = self.conditioners.get("text")
        return found if isinstance(found, TextSpec) else None

    @property
    def map_name(self) -> str:
        """The name of the image map that the network is conditioned on, "" for none."""
        return next(iter(self._maps), "")

    @property
    def image_map(self) -> ImageMap | None:
        """The conditioner that makes maps of images, if there is one."""
        found = self.conditioners.get(self.map_name)
        return found if isinstance(found, ImageMap) else None

    @property
    def latents_run(self) -> str | None:
        """The folder of the autoencoder in whose latents it works; None for others."""
        return self.codec.run if isinstance(self.codec, Latents) else None

    @property
    def learns_variance(self) -> bool:
        """Whether the network outputs a variance as well."""
        return self.variance == "learned"

    @property
    def velocity(self) -> str:
        """The prediction along the path that this schedule takes: v or flow."""
        return "v" if self.schedule.preserves_variance else "flow"

    @property
    def parameterization(self) -> Parameterization:
        """What the output of the network means."""
        if self.prediction == "edm":
            return edm(self.data_std)
        return PREDICTIONS[self.prediction]

    def build_loss(self, schedule: Schedule) -> Loss:
        """Make the loss on the schedule that `schedule.build` made."""
        return self.loss.build(self._loss_context(schedule))

    def build_few_steps(
        self, schedule: Schedule, num_steps: int, null: Callable[[Any], Any]
    ) -> FewStepLoss | None:
        """Make the loss, if it is one of few steps; None for others.

        Args:
            schedule: what `schedule.build` made.
            num_steps: of training, over which its stages are spread.
            null: condition -> the unconditional one.
        """
        if not isinstance(self.loss, FewStepSpec):
            return None
        context = self._loss_context(schedule)
        return self.loss.few_steps(FewStepContext(context, num_steps, null))

    def _loss_context(self, schedule: Schedule) -> LossContext:
        return LossContext(
            self.parameterization,
            VARIANCES[self.variance],
            schedule,
            self.learns_variance,
        )

    def build_times(self) -> TimeSampler:
        """Make what draws training levels; its memory is part of the state."""
        return self.times.build(self.schedule.build())


def make_objective(
    network: Callable[..., jax.Array],
    schedule: Schedule,
    loss: Loss,
    *,
    start: Start = _PLAIN,
    condition: Condition | None = None,
    times: TimeSampler = UNIFORM,
    self_conditioning: SelfConditioning | None = None,
    network_input: NetworkInput = plain_input,
    few_steps: FewStepLoss | None = None,
) -> Objective:
    """Compose the objective of a run.

    Args:
        network: (params, x_t, t, cond, dropout_key) -> output.
        schedule: the forward process.
        loss: one of `diffusion.losses`; not looked at beside `few_steps`.
        start: makes x0 of the items of a batch, as a codec does; by default of images
            uint8, `codecs.from_bytes` without mirroring.
        condition: of a conditional model, with condition dropout, such as
            `conditioner.training_condition`; None for an unconditional one.
        times: how training levels are drawn; its memory is that of the objective.
        self_conditioning: of a self-conditioned network, `self_condition_half`.
        network_input: what the network is given, that of the `Parameterization`.
        few_steps: takes the place of `loss`. The objective then carries a pair, of
            `times` and of this loss, and a batch has the number of its step, "step"
            [B].

    Returns:
        The objective. It is the mean of the examples' losses, each times the weight of
        its draw, and so estimates the mean over even levels whatever `times` is, but
        for those that say that they re-weight the loss, such as `logit_normal`. Its
        metrics are this loss, and by quartile of t the sum of weight times loss and the
        sum of weights, `quartile_sum` and `quartile_count` [4]: their quotient is the
        mean over the levels of the quartile, again whatever `times` is. Without
        importance the weights are 1, and it is the plain mean of those examples.
    """

    def objective(params: Any, key: jax.Array, batch: Batch, memory: Any) -> tuple:
        key_loss, key_start, key_condition, key_dropout = jax.random.split(key, 4)
        x0 = start(key_start, batch["image"])
        cond = None if condition is None else condition(key_condition, batch, x0)
        networks = Networks(
            train=lambda *args: network(*args, key_dropout),
            plain=lambda *args: network(*args, None),
        )
        carry: Any = ()
        if few_steps is None:
            losses, noised = training_loss(
                key_loss,
                networks.train,
                params,
                x0,
                schedule=schedule,
                loss=loss,
                cond=cond,
                times=times,
                carry=memory,
                self_conditioning=self_conditioning,
                network_input=network_input,
            )
        else:
            memory, carry = memory
            noised = noise_data(key_loss, x0, schedule, times, memory)
            losses, carry = few_steps.evaluate(
                jax.random.fold_in(key_loss, _TARGETS),
                networks,
                params,
                noised,
                cond,
                batch["step"][0],
                carry,
            )
        weighted = noised.weight * losses
        # Continuous times begin at -1, within the first quartile.
        quartile = jnp.maximum(noised.index, 0) * NUM_QUARTILES // schedule.num_levels
        member = jax.nn.one_hot(
            quartile.astype(jnp.int32), NUM_QUARTILES, dtype=jnp.float32
        )  # [B, 4]
        metrics = {
            "loss": jnp.mean(weighted),
            "quartile_sum": jnp.sum(weighted[:, None] * member, axis=0),
            "quartile_count": jnp.sum((noised.weight * member.T).T, axis=0),
        }
        memory = times.update(memory, noised.index, jax.lax.stop_gradient(losses))
        if few_steps is not None:
            memory = (memory, carry)
        return metrics["loss"], (metrics, memory)

    return objective


def summarize(metrics: Sequence[Mapping[str, np.ndarray]]) -> Summary:
    """Average loss and gradient norm over steps, and the loss by quartile of t.

    Args:
        metrics: of each step, as the objective and the step give them; arrays [...].

    Returns:
        "loss", "loss_q0" (least noise) to "loss_q3" (nan where no level of the quartile
        was drawn), and the other scalars.
    """
    count = np.sum([one["quartile_count"] for one in metrics], axis=0)
    total = np.sum([one["quartile_sum"] for one in metrics], axis=0)
    by_quartile = np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)
    scalars = means(metrics)
    quartiles = {f"loss_q{i}": float(v) for i, v in enumerate(by_quartile)}
    return {"loss": scalars.pop("loss"), **quartiles, **scalars}
