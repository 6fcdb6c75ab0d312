"""A scene that a 2-D diffusion model is made to see: DreamFusion.

A field of density and color is rendered from random cameras, and score distillation by
a trained model of images, the prior, says how each render should change:

    views of a step -> rays -> volume rendering -> x [B, H, W, 3] in [-1, 1]
    x, the prior conditioned on "PROMPT, seen from the VIEW" -> gradient in x -> in the
    parameters of the field

A batch is the numbers of the views of a step; cameras, samples along rays, levels and
noise follow from the key of the step, so that a run goes on bit for bit. No loss falls
by construction: what is reported as one is the mean square of the gradient in x.

The prior is opened by the command that trains; this file takes it as a denoiser with a
row of its condition for each view.

Source: Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion", with the
    entropy of the opacity in the place of their penalty (see `scenes.volume`).
"""

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
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.scenes import cameras, distance, shading, volume
from ddpm_jax.scenes.cameras import Camera, CameraRange
from ddpm_jax.scenes.fields import FieldSpec, VoxelGrid
from ddpm_jax.scenes.mesh_file import ColoredMesh, weld, without_floaters
from ddpm_jax.scenes.tetrahedra import grid_points
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Batch, Metrics, Objective, Task

_INIT = 0  # the stream of the run's key
_WHITE = 1.0
_PREVIEWED_VIEWS = 8
_SHOWN_SIZE = 64  # pixels of a preview's side
_SHOWN_SAMPLES = 128  # of a ray that is shown
# Of a mesh of N cells a side: a sphere as large as the grid has about 15 N^2.
_TRIANGLES_OF_A_CELL = 40

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
        cond: leaves [len(VIEWS), ...], a row for each view of `cameras.VIEWS`; None for
            an unconditional prior.
    """

    denoise: Denoiser
    schedule: Schedule
    image_size: tuple[int, int]
    cond: Cond = None


@dataclasses.dataclass(frozen=True)
class Scene(TaskSpec):
    """A field that looks from all sides as a prior says; DreamFusion.

    Attributes:
        data: none: a scene learns from its prior alone.
        prior: the run of a diffusion model of RGB images.
        prompt: what the scene shows; "" with an unconditional prior.
        negative_prompt: what guidance leads away from, in the place of no text.
        view_words: add to the prompt from where it is seen.
        guidance_scale: classifier-free guidance of the prior; 1 for none.
        weight: of the levels, w(t).
        time_low: the cleanest level, as a share of the schedule.
        time_high: the noisiest one.
        last_time_high: where that ends, linearly; None: where it began.
        field: what is optimized.
        cameras: where the views of a step are taken from.
        num_samples: of each ray.
        supersampling: K, by which each pixel is the mean of K x K rays.
        entropy: weight of the opacity's entropy at the end, risen linearly from 0.
        orientation: weight of the orientation loss at the end, likewise.
        lit_from: share of the run after which three views of four are lit from one
            direction, half of these without color; 1 for never.
    """

    commands: ClassVar[tuple[str, ...]] = ("export-mesh",)
    options: ClassVar[tuple[str, ...]] = ("to", "cells")

    prior: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    view_words: bool = True
    guidance_scale: float = 3.0
    weight: Literal["noise_variance", "even"] = "noise_variance"
    time_low: float = 0.02
    time_high: float = 0.98
    last_time_high: float | None = None
    field: FieldSpec = dataclasses.field(default_factory=VoxelGrid)
    cameras: CameraRange = dataclasses.field(default_factory=CameraRange)
    num_samples: int = 32
    supersampling: int = 1
    entropy: float = 0.01
    orientation: float = 0.0
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
        limits.between(self, "num_samples", 1, 4096)
        limits.between(self, "supersampling", 1, 16)
        limits.between(self, "guidance_scale", 0, 1000)
        limits.between(self, "lit_from", 0, 1)
        limits.at_least(self, 0, "entropy", "orientation")
        if self.negative_prompt and self.guidance_scale == 1:
            raise UserError(
                "negative_prompt does nothing with guidance_scale=1; use a larger one, "
                "or leave it out."
            )

    @property
    def last_high(self) -> float:
        """The noisiest level at the end, as a share of the schedule."""
        last = self.last_time_high
        return self.time_high if last is None else last

    @property
    def has_normals(self) -> bool:
        """Whether the normals of the density are computed while it trains."""
        return bool(self.orientation) or self.lit_from < 1

    def build(self, source: Dataset, fit: Fit, mesh: Mesh) -> Task:
        """Refuse to be built of data; `scene_task` builds it of a prior.

        Raises:
            UserError: always.
        """
        raise UserError(
            "a scene has no data to be built of; use tasks.scene.scene_task with its "
            "prior."
        )

    def open(self, params: Any, facts: Mapping[str, Any]) -> "SceneModel":
        """Make the scene of trained parameters; see `TaskSpec`."""
        return SceneModel(self, params, facts)


# --- Training -------------------------------------------------------------------------


def make_objective(
    spec: Scene, prior: Prior, num_views: int, num_steps: int
) -> Objective:
    """Make the objective whose gradient is that of score distillation.

    Args:
        spec: of the scene.
        prior: opened.
        num_views: B, of a step.
        num_steps: of the run.

    Returns:
        Of a batch {"view": int32 [B], "step": int32 [B]}: which views of the step these
        are, and the number of the step, in each row.
    """
    height, width = (side * spec.supersampling for side in prior.image_size)

    def objective(
        params: Any, key: jax.Array, batch: Batch, carry: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        of_cameras, of_pixels, of_rays, of_lights, of_levels = jax.random.split(key, 5)
        done = batch["step"][0].astype(jnp.float32) / max(num_steps - 1, 1)
        every = cameras.sample_cameras(
            of_cameras, num_views, spec.cameras, stratified=True
        )
        camera = jax.tree.map(lambda leaf: leaf[batch["view"]], every)
        shape = (*camera.azimuth.shape, height, width)
        # A ray through a random place of each pixel: what is fine between pixels is
        # averaged over steps, and not missed.
        across, down = jax.random.uniform(of_pixels, (2, *shape), jnp.float32)
        rays = cameras.rays(camera, height, width, (across, down))
        light = None
        if spec.lit_from < 1:
            light = _random_light(of_lights, camera, done >= spec.lit_from)
        seen = volume.render(
            spec.field.apply,
            params,
            rays,
            of_rays,
            spec.num_samples,
            background=_WHITE,
            light=light,
            with_normals=spec.has_normals,
        )
        x = 2.0 * _pooled(seen.color, spec.supersampling) - 1.0
        view = cameras.view_of(camera)
        gradient = distillation.score_distillation(
            of_levels,
            prior.denoise,
            prior.schedule,
            x,
            jax.tree.map(lambda leaf: leaf[view], prior.cond),
            times=_times_at(spec, done),
            weight=WEIGHTS[spec.weight],
        )
        loss = distillation.with_gradient(x, gradient) / x.size
        entropy = volume.opacity_entropy(seen.opacity).mean()
        metrics = {
            "loss": jnp.mean(gradient**2),
            "opacity": seen.opacity.mean(),
            "entropy": entropy,
        }
        loss += done * spec.entropy * entropy
        if seen.normals is not None:
            away = volume.orientation(seen.weights, seen.normals, rays.direction).mean()
            loss += done * spec.orientation * away
            metrics["orientation"] = away
        return loss, (metrics, carry)

    return objective


def _times_at(spec: Scene, done: jax.Array) -> tuple[float, jax.Array]:
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
    return shading.Light(
        direction[:, None, None], ambient[:, None, None], textureless[:, None, None]
    )


def _pooled(image: jax.Array, factor: int) -> jax.Array:
    """Average K x K pixels of [B, H K, W K, 3]."""
    if factor == 1:
        return image
    rows, height, width, channels = image.shape
    blocks = (rows, height // factor, factor, width // factor, factor, channels)
    return image.reshape(blocks).mean((2, 4))


def scene_task(spec: Scene, prior: Prior, fit: Fit, mesh: Mesh) -> Task:
    """Build what `fit` trains.

    Args:
        spec: of the scene.
        prior: opened.
        fit: how it is trained; a batch is the views of a step.
        mesh: the devices.
    """

    def draw() -> Any:
        return spec.field.init(jax.random.fold_in(root_key(spec.seed), _INIT))

    def preview(state: TrainState) -> Mapping[str, np.ndarray]:
        model = SceneModel(spec, state.ema_params, {}, render=render)
        orbit = model.orbit(_PREVIEWED_VIEWS, size=_SHOWN_SIZE)
        return {"samples": np.concatenate([_strip(frames) for frames in orbit])}

    render = _renderer(spec.field)
    return gradient_task(
        draw,
        make_objective(spec, prior, fit.batch_size, fit.num_steps),
        fit.transformation(),
        ema_target=fit.ema_decay,
        mesh=mesh,
        num_parts=fit.accumulate,
        shown=("loss", "opacity", "orientation"),
        preview=preview,
        finish=lambda state: _facts(
            SceneModel(spec, state.ema_params, {}, render=render)
        ),
        unused=("ema_stds",),
    )


def _strip(frames: np.ndarray) -> np.ndarray:
    """Lay images [N, H, W, C] side by side."""
    return np.concatenate(list(frames), axis=1)


def _facts(model: "SceneModel") -> dict[str, Any]:
    """Measure how much of its views a finished scene covers, which no loss says."""
    camera = cameras.orbit(_PREVIEWED_VIEWS)
    opacity = model.render(camera, 32).opacity
    return {"opacity": round(float(opacity.mean()), 4)}


# --- A trained scene ------------------------------------------------------------------


class Seen(NamedTuple):
    """Views of a scene, without the samples of their rays; see `volume.Rendered`.

    Attributes:
        color: [N, H, W, 3] in [0, 1], on white.
        opacity: [N, H, W].
        depth: [N, H, W].
        normal: [N, H, W, 3].
    """

    color: jax.Array
    opacity: jax.Array
    depth: jax.Array
    normal: jax.Array


_Render = Callable[[Any, Camera, int, int], Seen]


class Orbit(NamedTuple):
    """Pictures of a scene from all around, each uint8 [N, H, W, 3].

    Attributes:
        color: on white.
        depth: bright where near, as seen through the opacity.
        normal: of world axes x, y, z as red, green, blue, on white.
    """

    color: np.ndarray
    depth: np.ndarray
    normal: np.ndarray


def _renderer(field: FieldSpec) -> _Render:
    """Compile what renders views one after another, for little memory."""

    def render(params: Any, camera: Camera, size: int, num_samples: int) -> Seen:
        def one(camera: Camera) -> Seen:
            seen = volume.render(
                field.apply,
                params,
                cameras.rays(camera, size, size),
                None,
                num_samples,
                background=_WHITE,
                with_normals=True,
            )
            assert seen.normal is not None  # as it is asked for
            return Seen(seen.color, seen.opacity, seen.depth, seen.normal)

        return jax.lax.map(one, camera)

    compiled: _Render = jax.jit(render, static_argnums=(2, 3))
    return compiled


class SceneModel:
    """A trained scene; `ddpm_jax.load` makes it.

    Attributes:
        spec: how it was trained.
        field: the spec of its field, whose `apply` has density and color.
        params: of the field.
        facts: what its run found, such as the mean opacity of its views.
    """

    def __init__(
        self,
        spec: Scene,
        params: Any,
        facts: Mapping[str, Any],
        *,
        render: _Render | None = None,
    ) -> None:
        """Put a scene together.

        Args:
            spec: how it was trained.
            params: of its field.
            facts: what its run found.
            render: compiled before; None to compile it.
        """
        self.spec, self.field = spec, spec.field
        self.params = jax.tree.map(jnp.asarray, params)
        self.facts = facts
        self._render = _renderer(spec.field) if render is None else render
        self._at = jax.jit(spec.field.apply)

    def __repr__(self) -> str:
        """Say what it shows."""
        return f"<SceneModel of {self.spec.prompt!r}, {type(self.field).__name__}>"

    def render(
        self, camera: Camera, size: int = 64, num_samples: int = _SHOWN_SAMPLES
    ) -> Seen:
        """Render square views [N, H, W], on white.

        Args:
            camera: leaves [N].
            size: H and W.
            num_samples: of a ray.

        Raises:
            UserError: the cameras have not one axis, or there are no pixels or samples.
        """
        if jnp.ndim(camera.azimuth) != 1 or size < 1 or num_samples < 1:
            raise UserError(
                f"cameras of shape {list(jnp.shape(camera.azimuth))}, size={size} and "
                f"num_samples={num_samples}; want leaves [N], and 1 or more of each."
            )
        return self._render(self.params, camera, size, num_samples)

    def to_mesh(self, num_cells: int = 48) -> ColoredMesh:
        """Make a mesh of the surface, at the density whose silhouettes fit its views.

        Pieces with less than a hundredth of the area are left out.

        Args:
            num_cells: of the grid along each side.

        Returns:
            Closed, with the colors of the field at its vertices.

        Raises:
            UserError: the scene is empty, or full.
        """
        points = grid_points(num_cells).reshape(-1, 3)
        density, _ = self._at(self.params, points)
        camera = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves),
            *(cameras.orbit(_PREVIEWED_VIEWS, elevation) for elevation in (0.0, 45.0)),
        )
        mesh, _, _ = distance.mesh_of(
            density.reshape((num_cells + 1,) * 3),
            cameras.rays(camera, _SHOWN_SIZE, _SHOWN_SIZE),
            self.render(camera, _SHOWN_SIZE).opacity,
            max_triangles=_TRIANGLES_OF_A_CELL * num_cells**2,
        )
        _, colors = self._at(self.params, mesh.vertices)
        return without_floaters(weld(mesh, np.asarray(colors)))

    def orbit(
        self, num_views: int = 36, *, elevation: float = 15.0, size: int = 128
    ) -> Orbit:
        """Picture the scene from all around: color, depth and normals.

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


def _bytes(image: Any) -> np.ndarray:
    """Round [0, 1] to bytes."""
    return np.rint(255.0 * np.clip(np.asarray(image), 0.0, 1.0)).astype(np.uint8)
