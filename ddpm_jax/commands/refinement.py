"""Training a refinement: the surface of a finished scene, through its mesh (Magic3D).

The run holds the surface alone. Scene and prior stay where they are; the run remembers
their fingerprints, and goes on with no others.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ddpm_jax.assembly import auxiliary
from ddpm_jax.commands import about
from ddpm_jax.commands.sampled import open_task
from ddpm_jax.commands.scene import Begun, num_parameters, open_prior, train_viewed
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Recipe, Refinement, Scene
from ddpm_jax.tasks.refinement import refinement_task
from ddpm_jax.tasks.scene import SceneModel
from ddpm_jax.training.state import TrainState


class Coarse(NamedTuple):
    """A finished scene that is refined.

    Attributes:
        model: the scene.
        fingerprint: of its parameters.
    """

    model: SceneModel
    fingerprint: str


def refinement(recipe: Recipe[Refinement], workdir: Path) -> int:
    """Refine the surface of a scene, or go on where it stopped.

    Args:
        recipe: of the refinement.
        workdir: of the run.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: scene, prior, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training

    def begin(mesh: Mesh) -> Begun:
        coarse = open_coarse(spec)
        seen_as = scene_of(spec, coarse.model.spec)
        opened = open_prior(seen_as)
        start = coarse.model.to_surface(spec.num_cells)

        def described(state: TrainState) -> str:
            height, width = opened.prior.image_size
            factor = spec.supersampling
            return (
                f"surface  {seen_as.prompt!r}, {num_parameters(state):,} parameters, "
                f"{fit.batch_size} views of {factor * height}x{factor * width} a step, "
                f"as {height}x{width}\n"
                f"scene    {spec.coarse}, {type(coarse.model.field).__name__}\n"
                f"prior    {opened.described}"
            )

        return Begun(
            refinement_task(spec, opened.prior, start, fit, mesh),
            {"prior": opened.fingerprint, "coarse": coarse.fingerprint},
            described,
        )

    # Padding changes nothing of a surface; where the others lie, see `scene`.
    free = ("prior:", "coarse:", "max_triangles:")
    return train_viewed(recipe, workdir, begin, free)


def open_coarse(spec: Refinement) -> Coarse:
    """Open the scene that is refined.

    Args:
        spec: of the refinement.

    Raises:
        UserError: there is none, it is not finished, or it is of another kind.
    """
    if not spec.coarse:
        raise UserError(
            "config.coarse='' names no run; give that of a finished scene, such as "
            "runs/dream."
        )
    folder = Path(spec.coarse).expanduser()
    found = about.trained_recipe(folder)
    if not isinstance(found.task, Scene):
        raise UserError(
            f"config.coarse={spec.coarse!r} is of kind {found.kind}; name the run of a "
            "scene."
        )
    model = open_task(folder, found.kind).model
    return Coarse(model, auxiliary.fingerprint(auxiliary.flat_params(model.params)))


def scene_of(spec: Refinement, coarse: Scene) -> Scene:
    """Return the scene as the prior of its refinement is asked to see it.

    Args:
        spec: of the refinement; what it leaves open is as in the scene.
        coarse: that is refined.

    Raises:
        UserError: the negative prompt would do nothing.
    """
    given = {
        "prior": spec.prior or None,
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "view_words": spec.view_words,
    }
    said: dict[str, Any] = {n: value for n, value in given.items() if value is not None}
    if spec.guidance_scale == 1 and spec.negative_prompt is None:
        said["negative_prompt"] = ""  # of the scene, which had guidance
    return dataclasses.replace(coarse, **said, guidance_scale=spec.guidance_scale)
