"""Score distillation of views: what tasks of things in three dimensions share.

A thing is rendered from random cameras, and a trained model of images, the prior, says
how each render should change:

    views of a step -> cameras, lights -> the thing's renders -> x [B, H, W, 3]
    x, the prior conditioned on "PROMPT, seen from the VIEW" -> gradient in x -> in the
    parameters of the thing

What the thing is, and how it is rendered, is the task's: a volume (`tasks.scene`), or a
surface (`tasks.refinement`). A batch is the numbers of the views of a step; cameras,
lights, levels and noise follow from the key of the step, so that a run goes on bit for
bit. No loss falls by construction: what is reported as one is the mean square of the
gradient in x.

The prior is opened by the command that trains; here it is a denoiser with a row of its
condition for each view.

Source: Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion".
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.data.dataset import Dataset
from ddpm_jax.diffusion import distillation
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, shading
from ddpm_jax.scenes.cameras import Camera, CameraRange
from ddpm_jax.scenes.mesh_file import ColoredMesh
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.task import Batch, Metrics, Objective, Task

WHITE = 1.0
"""What is behind a thing."""
PREVIEWED_VIEWS = 8
SHOWN_SIZE = 64
"""Pixels of a preview's side."""

WEIGHTS: Mapping[str, distillation.LevelWeight] = {
    "noise_variance": distillation.noise_variance,
    "even": distillation.even,
}


class Prior(NamedTuple):
    """A trained model of images, as score distillation uses it.

    Attributes:
        denoise: with guidance.
        schedule: of its noise.
        image_size: (H, W) of its images, which have three channels.
        cond: leaves [K, ...], a row for each view; None for an unconditional prior.
        view: cameras of leaves [B] -> int32 [B], which of the K views they have: of
            `cameras.VIEWS`, unless it is given.
    """

    denoise: Denoiser
    schedule: Schedule
    image_size: tuple[int, int]
    cond: Cond = None
    view: Callable[[Camera], jax.Array] = cameras.view_of


@dataclasses.dataclass(frozen=True)
class Distilled(TaskSpec):
    """A thing that is made to look from all sides as a prior says.

    Attributes:
        data: none: it learns from its prior alone.
        prior: the run of a diffusion model of RGB images.
        guidance_scale: classifier-free guidance of the prior; 1 for none.
        weight: of the levels, w(t).
        time_low: the cleanest level, as a share of the schedule.
        time_high: the noisiest one.
        last_time_high: where that ends, linearly; None: where it began.
        cameras: where the views of a step are taken from.
        supersampling: K, by which each pixel of a view is the mean of K x K.
        lit_from: share of the run after which three views of four are lit from one
            direction, half of these without color; 1 for never.
    """

    commands: ClassVar[tuple[str, ...]] = ("export-mesh",)

    prior: str = ""
    guidance_scale: float = 3.0
    weight: Literal["noise_variance", "even"] = "noise_variance"
    time_low: float = 0.02
    time_high: float = 0.98
    last_time_high: float | None = None
    cameras: CameraRange = dataclasses.field(default_factory=CameraRange)
    supersampling: int = 1
    lit_from: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("time_low", "time_high", "last_time_high"):
            limits.between(self, name, 0, 1)
        if not self.time_low < min(self.time_high, self.last_high):
            raise UserError(
                f"time_low={self.time_low} is not below time_high={self.time_high} and "
                f"last_time_high={self.last_time_high}; use such as 0.02 and 0.98."
            )
        limits.between(self, "supersampling", 1, 16)
        limits.between(self, "guidance_scale", 0, 1000)
        limits.between(self, "lit_from", 0, 1)

    @property
    def last_high(self) -> float:
        """The noisiest level at the end, as a share of the schedule."""
        last = self.last_time_high
        return self.time_high if last is None else last

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Refuse to be built of data: its task is built of a prior.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{type(self).__name__} has no data to be built of; see what makes its task"
            " of a prior, in the same module."
        )


# --- Training -------------------------------------------------------------------------


class Shot(NamedTuple):
    """What a thing is rendered for, in a step.

    Attributes:
        camera: leaves [B].
        light: leaves [B, 1, 1, ...], or None.
        height: in pixels, K times that of the prior's images.
        width: likewise.
        keys: [2], of what is random in a render.
        done: [], share of the run.
    """

    camera: Camera
    light: shading.Light | None
    height: int
    width: int
    keys: jax.Array
    done: jax.Array


class Look(NamedTuple):
    """What is seen of a thing, and what it costs to be so.

    Attributes:
        color: [B, height, width, 3] in [0, 1], on white.
        penalty: [], the regularizers, weighted.
        metrics: of the step.
    """

    color: jax.Array
    penalty: jax.Array
    metrics: Metrics


def make_objective(
    spec: Distilled,
    prior: Prior,
    num_views: int,
    num_steps: int,
    look: Callable[[Any, Shot], Look],
) -> Objective:
    """Make the objective whose gradient is that of score distillation.

    Args:
        spec: of the thing.
        prior: opened.
        num_views: B, of a step.
        num_steps: of the run.
        look: parameters, shot -> how the thing looks.

    Returns:
        Of a batch {"view": int32 [B], "step": int32 [B]}: which views of the step these
        are, and the number of the step, in each row.
    """
    height, width = (side * spec.supersampling for side in prior.image_size)

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        of_cameras, *of_render, of_lights, of_levels = jax.random.split(key, 5)
        done = batch["step"][0].astype(jnp.float32) / max(num_steps - 1, 1)
        every = cameras.sample_cameras(
            of_cameras, num_views, spec.cameras, stratified=True
        )
        camera = jax.tree.map(lambda leaf: leaf[batch["view"]], every)
        light = None
        if spec.lit_from < 1:
            light = _random_light(of_lights, camera, done >= spec.lit_from)
        keys = jnp.stack(of_render)
        seen = look(params, Shot(camera, light, height, width, keys, done))
        x = 2.0 * _pooled(seen.color, spec.supersampling) - 1.0
        view = prior.view(camera)
        gradient = distillation.score_distillation(
            of_levels,
            prior.denoise,
            prior.schedule,
            x,
            jax.tree.map(lambda leaf: leaf[view], prior.cond),
            times=_times_at(spec, done),
            weight=WEIGHTS[spec.weight],
        )
        loss = distillation.with_gradient(x, gradient) / x.size + seen.penalty
        return loss, ({"loss": jnp.mean(gradient**2), **seen.metrics}, carry)

    return objective


def _times_at(spec: Distilled, done: jax.Array) -> tuple[float, jax.Array]:
    """Return the range of levels at a share of the run."""
    return spec.time_low, spec.time_high + (spec.last_high - spec.time_high) * done


def _random_light(key: jax.Array, camera: Camera, is_on: jax.Array) -> shading.Light:
    """Light three views of four, half of them without their color, if it is on.

    Source: Poole et al. 2022, section 3.1 and appendix; the shares are ours.
    """
    of_place, of_kind = jax.random.split(key)
    direction = shading.sample_directions(of_place, cameras.positions(camera))
    kind = jax.random.uniform(of_kind, camera.azimuth.shape, jnp.float32)
    is_lit = is_on & (kind < 0.75)
    ambient = jnp.where(is_lit, 0.1, 1.0)
    textureless = jnp.where(is_lit & (kind < 0.375), 1.0, 0.0)
    return shading.Light(direction, ambient, textureless)


def _pooled(image: jax.Array, factor: int) -> jax.Array:
    """Average K x K pixels of [B, H K, W K, 3]."""
    if factor == 1:
        return image
    rows, height, width, channels = image.shape
    blocks = (rows, height // factor, factor, width // factor, factor, channels)
    return image.reshape(blocks).mean((2, 4))


# --- A trained thing ------------------------------------------------------------------


class Seen(NamedTuple):
    """Views of a thing.

    Attributes:
        color: [N, H, W, 3] in [0, 1], on white.
        opacity: [N, H, W].
        depth: [N, H, W].
        normal: [N, H, W, 3], 0 where nothing is seen.
    """

    color: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array


class Orbit(NamedTuple):
    """Pictures of a thing from all around, each uint8 [N, H, W, 3].

    Attributes:
        color: on white.
        depth: bright where near, as seen through the opacity.
        normal: of world axes x, y, z as red, green, blue, on white.
    """

    color: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


class ViewedModel(abc.ABC):
    """A trained thing that can be rendered, turned around and written as a mesh."""

    @abc.abstractmethod
    def render(self, camera: Camera, size: int = 64) -> Seen:
        """Render square views [N, H, W], on white.

        Args:
            camera: leaves [N].
            size: H and W.
        """

    @abc.abstractmethod
    def to_mesh(self) -> ColoredMesh:
        """Make a mesh of the surface, with colors, as files have it."""

    def orbit(
        self, num_views: int = 36, *, elevation: float = 15.0, size: int = 128
    ) -> Orbit:
        """Picture the thing from all around: color, depth and normals.

        Args:
            num_views: N.
            elevation: degrees, of all.
            size: H and W.
        """
        away = 3.0
        seen = self.render(cameras.orbit(num_views, elevation, away), size)
        covered = np.asarray(seen.opacity)[..., None]
        # The ball is between 1 nearer and 1 farther than the origin.
        near = 0.5 * (away + 1.0 - np.asarray(seen.depth)[..., None])
        depth = np.broadcast_to(np.clip(near, 0, 1) * covered, seen.color.shape)
        normal = 0.5 * (np.asarray(seen.normal) + covered) + (1.0 - covered)
        return Orbit(*(_bytes(each) for each in (seen.color, depth, normal)))


def check_views(camera: Camera, size: int, num_samples: int = 1) -> None:
    """Refuse views that cannot be rendered.

    Args:
        camera: wants leaves [N].
        size: of the views, in pixels.
        num_samples: of a ray, where there are any.

    Raises:
        UserError: the cameras have not one axis, or there are no pixels or samples.
    """
    if jnp.ndim(camera.azimuth) != 1 or size < 1 or num_samples < 1:
        raise UserError(
            f"cameras of shape {list(jnp.shape(camera.azimuth))}, size={size} and "
            f"num_samples={num_samples}; want leaves [N], and 1 or more of each."
        )


def strip(model: ViewedModel) -> np.ndarray:
    """Show color, depth and normals from all around, a row each: uint8 [H, W, 3].

    Args:
        model: of a state of the run.
    """
    orbit = model.orbit(PREVIEWED_VIEWS, size=SHOWN_SIZE)
    return np.concatenate([np.concatenate(list(f), axis=1) for f in orbit])


def _bytes(image: Any) -> np.ndarray:
    """Round [0, 1] to bytes."""
    return np.rint(255.0 * np.clip(np.asarray(image), 0.0, 1.0)).astype(np.uint8)
