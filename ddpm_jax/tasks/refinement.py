"""A scene's surface, refined through the images of its mesh: Magic3D's fine stage.

The volume that `tasks.scene` has made is taken over as a signed distance on a grid,
which with offsets of the grid's points and colors is optimized further, by score
distillation of the images of its mesh (`tasks.views`), at lower levels of noise:

    Surface -> marching tetrahedra -> rasterization, larger than the prior's images
            -> pooled -> x

What a volume does with fog, a mesh does with triangles: its outlines are sharp, and it
is what is written in the end. A mesh of more triangles than there is room for, and one
of none, end the run.

Source: Lin et al. 2023, "Magic3D: High-Resolution Text-to-3D Content Creation", section
    3.2. Theirs renders 512x512 for a prior of latents; the levels of noise are theirs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ddpm_jax import limits
from ddpm_jax.errors import UserError
from ddpm_jax.scenes import cameras, raster, surface
from ddpm_jax.scenes.cameras import Camera
from ddpm_jax.scenes.mesh import Mesh as Triangles
from ddpm_jax.scenes.mesh_file import ColoredMesh, components, weld, without_floaters
from ddpm_jax.scenes.surface import Surface
from ddpm_jax.scenes.tetrahedra import check_fits
from ddpm_jax.tasks import views
from ddpm_jax.tasks.views import Distilled, Look, Prior, Seen, Shot, ViewedModel
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Objective, Summary, Task, means

_ROOM_STEP = 512  # triangles: few sizes of arrays, so that few programs are compiled
# Of a mesh of N cells a side: a sphere as large as the grid has about 15 N^2.
_TRIANGLES_OF_A_CELL = 40


@dataclasses.dataclass(frozen=True)
class Refinement(Distilled):
    """The surface of a finished scene, refined through images of its mesh; Magic3D.

    Attributes:
        prior: the run of a diffusion model of RGB images; "" for that of the scene.
        coarse: the run of the scene.
        prompt: what the surface shows; None for the prompt of the scene.
        negative_prompt: what guidance leads away from; None for that of the scene.
        view_words: add to the prompt from where it is seen; None: as the scene did.
        num_cells: N, of the grid along each side.
        max_triangles: the room for triangles; None for half as many again as the
            surface has at the start.
        bending: weight of the bends between neighboring triangles, which smooths.
        offset_rate: learning rate of the offsets of the grid's points, of which 1.3 is
            half a cell nearly, as a multiple of that of distances, which is in cells;
            0 to keep the grid regular.
        color_rate: learning rate of the colors' log-odds, likewise; 0 to keep them.
    """

    options: ClassVar[tuple[str, ...]] = ("to",)

    coarse: str = ""
    prompt: str | None = None
    negative_prompt: str | None = None
    view_words: bool | None = None
    time_high: float = 0.5
    supersampling: int = 3
    num_cells: int = 24
    max_triangles: int | None = None
    bending: float = 0.1
    offset_rate: float = 1.0
    color_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.between(self, "num_cells", 4, 128)
        limits.between(self, "max_triangles", 24, 2**24)
        limits.at_least(self, 0, "bending", "offset_rate", "color_rate")

    def room_for(self, triangles: int) -> int:
        """Return for how many triangles there is room.

        Args:
            triangles: of the surface at the start.
        """
        if self.max_triangles is not None:
            return self.max_triangles
        return _rounded(triangles + triangles // 2)

    def open(self, params: Any, facts: Mapping[str, Any]) -> "SurfaceModel":
        """Make the surface of trained parameters; see `TaskSpec`."""
        return SurfaceModel(self, params, facts)


def _rounded(triangles: int) -> int:
    return max(1, -(-triangles // _ROOM_STEP)) * _ROOM_STEP


# --- Training -------------------------------------------------------------------------


def make_objective(
    spec: Refinement, prior: Prior, num_views: int, num_steps: int, room: int
) -> Objective:
    """Make the objective of a surface; see `views.make_objective`.

    Args:
        spec: of the surface.
        prior: opened.
        num_views: B, of a step.
        num_steps: of the run.
        room: for triangles.

    Returns:
        Of parameters {"sdf", "offsets", "colors"}, as in `Surface`.
    """

    def look(params: Any, shot: Shot) -> Look:
        kept = {
            "offsets": not spec.offset_rate,
            "colors": not spec.color_rate,
        }
        given = {
            name: jax.lax.stop_gradient(leaf) if kept.get(name) else leaf
            for name, leaf in params.items()
        }
        images, bending, mesh = surface.render(
            Surface(**given),
            shot.camera,
            shot.height,
            shot.width,
            room,
            background=views.WHITE,
            light=shot.light,
        )
        metrics = {
            "opacity": images.opacity.mean(),
            "bending": bending,
            "triangles": mesh.num_triangles.astype(jnp.float32),
        }
        return Look(images.color, spec.bending * bending, metrics)

    return views.make_objective(spec, prior, num_views, num_steps, look)


def _at_rates(spec: Refinement) -> optax.GradientTransformation:
    """Scale updates: distances by the width of a cell, the others by their rates."""
    rates = {
        "sdf": 2.0 / spec.num_cells,
        "offsets": spec.offset_rate,
        "colors": spec.color_rate,
    }

    def scale(updates: Any, params: Any) -> Any:
        del params
        return {name: rates[name] * leaf for name, leaf in updates.items()}

    return optax.stateless(scale)


def refinement_task(
    spec: Refinement, prior: Prior, start: Surface, fit: Fit, mesh: Mesh
) -> Task:
    """Build what `fit` trains.

    Args:
        spec: of the surface.
        prior: opened.
        start: what the scene has become, such as `SceneModel.to_surface` makes; of
            `spec.num_cells`.
        fit: how it is trained; a batch is the views of a step.
        mesh: the devices.

    Raises:
        UserError: there is no room for the triangles of the start.
    """
    first = SurfaceModel(spec, start._asdict(), {})
    room = spec.room_for(first.num_triangles)
    _check_room(first.num_triangles, room)

    def summarize(metrics: Sequence[Mapping[str, np.ndarray]]) -> Summary:
        for one in metrics:
            _check_room(int(one["triangles"]), room)
        return means(metrics)

    def model_of(state: TrainState) -> SurfaceModel:
        return SurfaceModel(spec, state.ema_params, {})

    return gradient_task(
        # Copies: a state is donated to its step, and the start is the caller's.
        lambda: jax.tree.map(jnp.copy, start._asdict()),
        make_objective(spec, prior, fit.batch_size, fit.num_steps, room),
        optax.chain(fit.transformation(), _at_rates(spec)),
        ema_target=fit.ema_decay,
        mesh=mesh,
        num_parts=fit.accumulate,
        summarize=summarize,
        shown=("loss", "opacity", "bending", "triangles"),
        preview=lambda state: {"samples": views.strip(model_of(state))},
        finish=lambda state: _facts(model_of(state)),
        unused=("ema_stds",),
    )


def _check_room(triangles: int, room: int) -> None:
    """Refuse a surface that is not there, or only in part.

    Raises:
        UserError: it has no triangles, or too many.
    """
    if not triangles:
        raise UserError(
            "the surface has vanished; use a lower config.training.learning_rate, or "
            "another config.seed, in another --workdir."
        )
    if triangles > room:
        raise UserError(
            f"the surface has {triangles:,} triangles, and there is room for {room:,}; "
            "use a larger config.max_triangles."
        )


def _facts(model: "SurfaceModel") -> dict[str, Any]:
    """Measure a finished surface."""
    opacity = model.render(cameras.orbit(views.PREVIEWED_VIEWS), 32).opacity
    _, shares = components(weld(*model.extracted))
    return {
        "opacity": round(float(opacity.mean()), 4),
        "triangles": model.num_triangles,
        "largest_piece": round(float(shares[0]), 4),
    }


# --- A trained surface ----------------------------------------------------------------

_extract = jax.jit(surface.to_mesh, static_argnums=1)


@partial(jax.jit, static_argnums=3)
def _render(mesh: Triangles, colors: jax.Array, camera: Camera, size: int) -> Seen:
    """Render views one after another, for little memory."""

    def one(camera: Camera) -> Seen:
        seen = raster.render(mesh, colors, camera, size, size, background=views.WHITE)
        return Seen(seen.color, seen.opacity, seen.depth, seen.normal)

    return jax.lax.map(one, camera)


class SurfaceModel(ViewedModel):
    """A trained surface; `ddpm_jax.load` makes it.

    Attributes:
        spec: how it was trained.
        params: {"sdf", "offsets", "colors"}, as in `Surface`.
        facts: what its run found, such as the share of the area in one piece.
        num_triangles: of its mesh.
    """

    def __init__(self, spec: Refinement, params: Any, facts: Mapping[str, Any]) -> None:
        """Extract the mesh of a surface.

        Args:
            spec: how it was trained.
            params: {"sdf", "offsets", "colors"}.
            facts: what its run found.

        Raises:
            UserError: there is no surface.
        """
        self.spec, self.facts = spec, facts
        self.params = {name: jnp.asarray(leaf) for name, leaf in params.items()}
        most = max(_TRIANGLES_OF_A_CELL * spec.num_cells**2, spec.max_triangles or 0)
        mesh, colors = _extract(Surface(**self.params), most)
        check_fits(mesh)
        self.num_triangles = int(mesh.num_triangles)
        _check_room(self.num_triangles, most)
        # Without most of the padding, each row of which costs as much as a triangle.
        room = _rounded(self.num_triangles)
        self._mesh = mesh._replace(
            vertices=mesh.vertices[: 5 * room // 8], triangles=mesh.triangles[:room]
        )
        self._colors = colors[: 5 * room // 8]

    def __repr__(self) -> str:
        """Say how large it is."""
        return f"<SurfaceModel of {self.num_triangles:,} triangles>"

    @property
    def extracted(self) -> tuple[Triangles, np.ndarray]:
        """The mesh, with padding, and colors of its vertices [V, 3]."""
        return self._mesh, np.asarray(self._colors)

    def render(self, camera: Camera, size: int = 64) -> Seen:
        """Render square views [N, H, W], on white; depths are along the view axis.

        Args:
            camera: leaves [N].
            size: H and W.

        Raises:
            UserError: the cameras have not one axis, or there are no pixels.
        """
        views.check_views(camera, size)
        return _render(self._mesh, self._colors, camera, size)

    def to_mesh(self) -> ColoredMesh:
        """Make the mesh as files have it: closed, with the colors of its vertices.

        Pieces with less than a hundredth of the area are left out.
        """
        return without_floaters(weld(*self.extracted))
