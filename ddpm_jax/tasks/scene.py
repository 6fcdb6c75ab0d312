"""A scene that a 2-D diffusion model is made to see: DreamFusion.

A field of density and color is rendered from random cameras, and score distillation by
a prior says how each render should change (`tasks.views`). Volume rendering makes x:

    cameras of a step -> rays -> samples along them -> density and color -> x

Source: Poole et al. 2022, "DreamFusion: Text-to-3D using 2D Diffusion", with the
    entropy of the opacity in the place of their penalty (see `scenes.volume`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.scenes import cameras, distance, shading, surface, volume
from ddpm_jax.scenes.cameras import Camera, Rays
from ddpm_jax.scenes.fields import FieldSpec, VoxelGrid
from ddpm_jax.scenes.mesh_file import ColoredMesh, weld, without_floaters
from ddpm_jax.scenes.surface import Surface
from ddpm_jax.scenes.tetrahedra import grid_points
from ddpm_jax.tasks import views
from ddpm_jax.tasks.views import Distilled, Look, Prior, Seen, Shot, ViewedModel
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Objective, Task

_INIT = 0  # the stream of the run's key
_SHOWN_SAMPLES = 128  # of a ray that is shown
# Of a mesh of N cells a side: a sphere as large as the grid has about 15 N^2.
_TRIANGLES_OF_A_CELL = 40


@dataclasses.dataclass(frozen=True)
class Scene(Distilled):
    """A field that looks from all sides as a prior says; DreamFusion.

    Attributes:
        prompt: what the scene shows; "" with an unconditional prior.
        negative_prompt: what guidance leads away from, in the place of no text.
        view_words: add to the prompt from where it is seen.
        field: what is optimized.
        num_samples: of each ray.
        entropy: weight of the opacity's entropy at the end, risen linearly from 0.
        orientation: weight of the orientation loss at the end, likewise.
    """

    options: ClassVar[tuple[str, ...]] = ("to", "cells")

    prompt: str = ""
    negative_prompt: str = ""
    view_words: bool = True
    field: FieldSpec = dataclasses.field(default_factory=VoxelGrid)
    num_samples: int = 32
    entropy: float = 0.01
    orientation: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_samples", 1, 4096)
        limits.at_least(self, 0, "entropy", "orientation")
        if self.negative_prompt and self.guidance_scale == 1:
            raise UserError(
                "negative_prompt does nothing with guidance_scale=1; use a larger one, "
                "or leave it out."
            )

    @property
    def has_normals(self) -> bool:
        """Whether the normals of the density are computed while it trains."""
        return bool(self.orientation) or self.lit_from < 1

    def open(self, params: Any, facts: Mapping[str, Any]) -> "SceneModel":
        """Make the scene of trained parameters; see `TaskSpec`."""
        return SceneModel(self, params, facts)


# --- Training -------------------------------------------------------------------------


def make_objective(
    spec: Scene, prior: Prior, num_views: int, num_steps: int
) -> Objective:
    """Make the objective of a scene; see `views.make_objective`.

    Args:
        spec: of the scene.
        prior: opened.
        num_views: B, of a step.
        num_steps: of the run.
    """

    def look(params: Any, shot: Shot) -> Look:
        of_pixels, of_rays = shot.keys
        shape = (*shot.camera.azimuth.shape, shot.height, shot.width)
        # A ray through a random place of each pixel: what is fine between pixels is
        # averaged over steps, and not missed.
        across, down = jax.random.uniform(of_pixels, (2, *shape), jnp.float32)
        rays = cameras.rays(shot.camera, shot.height, shot.width, (across, down))
        seen = volume.render(
            spec.field.apply,
            params,
            rays,
            of_rays,
            spec.num_samples,
            background=views.WHITE,
            light=None if shot.light is None else _of_pixels(shot.light),
            with_normals=spec.has_normals,
        )
        entropy = volume.opacity_entropy(seen.opacity).mean()
        penalty = shot.done * spec.entropy * entropy
        metrics = {"opacity": seen.opacity.mean(), "entropy": entropy}
        if seen.normals is not None:
            away = volume.orientation(seen.weights, seen.normals, rays.direction).mean()
            penalty += shot.done * spec.orientation * away
            metrics["orientation"] = away
        return Look(seen.color, penalty, metrics)

    return views.make_objective(spec, prior, num_views, num_steps, look)


def _of_pixels(light: shading.Light) -> shading.Light:
    """Give the leaves of a light of views axes for pixels."""
    ambient, textureless = (
        jnp.asarray(leaf)[:, None, None] for leaf in (light.ambient, light.textureless)
    )
    return shading.Light(light.direction[:, None, None], ambient, textureless)


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

    def model_of(state: TrainState) -> SceneModel:
        return SceneModel(spec, state.ema_params, {}, render=render)

    render = _renderer(spec.field)
    return gradient_task(
        draw,
        make_objective(spec, prior, fit.batch_size, fit.num_steps),
        fit.transformation(),
        ema_target=fit.ema_decay,
        mesh=mesh,
        num_parts=fit.accumulate,
        shown=("loss", "opacity", "orientation"),
        preview=lambda state: {"samples": views.strip(model_of(state))},
        finish=lambda state: _facts(model_of(state)),
        unused=("ema_stds",),
    )


def _facts(model: "SceneModel") -> dict[str, Any]:
    """Measure how much of its views a finished scene covers, which no loss says."""
    camera = cameras.orbit(views.PREVIEWED_VIEWS)
    opacity = model.render(camera, 32).opacity
    return {"opacity": round(float(opacity.mean()), 4)}


# --- A trained scene ------------------------------------------------------------------

_Render = Callable[[Any, Camera, int, int], Seen]


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
                background=views.WHITE,
                with_normals=True,
            )
            assert seen.normal is not None  # as it is asked for
            return Seen(seen.color, seen.opacity, seen.depth, seen.normal)

        return jax.lax.map(one, camera)

    compiled: _Render = jax.jit(render, static_argnums=(2, 3))
    return compiled


class SceneModel(ViewedModel):
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
        """Render square views [N, H, W], on white; depths are along the rays.

        Args:
            camera: leaves [N].
            size: H and W.
            num_samples: of a ray.

        Raises:
            UserError: the cameras have not one axis, or there are no pixels or samples.
        """
        views.check_views(camera, size, num_samples)
        return self._render(self.params, camera, size, num_samples)

    def _views(self) -> tuple[Rays, jax.Array]:
        """Return rays [N, H, W] all around, and the opacity that they see."""
        camera = jax.tree.map(
            lambda *leaves: jnp.concatenate(leaves),
            *(cameras.orbit(views.PREVIEWED_VIEWS, e) for e in (0.0, 45.0)),
        )
        size = views.SHOWN_SIZE
        return cameras.rays(camera, size, size), self.render(camera, size).opacity

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
        mesh, _, _ = distance.mesh_of(
            density.reshape((num_cells + 1,) * 3),
            *self._views(),
            max_triangles=_TRIANGLES_OF_A_CELL * num_cells**2,
        )
        _, colors = self._at(self.params, mesh.vertices)
        return without_floaters(weld(mesh, np.asarray(colors)))

    def to_surface(self, num_cells: int = 24) -> Surface:
        """Make what `tasks.refinement` starts from, of the same surface as `to_mesh`.

        Args:
            num_cells: of the grid along each side.

        Returns:
            Leaves [N+1, N+1, N+1, ...], with the colors of the field.

        Raises:
            UserError: the scene is empty, or full.
        """
        density, colors = self._at(self.params, grid_points(num_cells))
        taken, _ = surface.from_volume(
            density, colors, *self._views(), _TRIANGLES_OF_A_CELL * num_cells**2
        )
        return taken
