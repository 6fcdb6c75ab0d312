"""Recipes: what is trained, and the options that may be asked of it, as one config.

A file of configs/ composes the specs of the things themselves:

    from ddpm_jax.recipe import Cosine, Data, Diffusion, Fit, Label, UNet, recipe

    def get_config():
        return recipe(
            Diffusion(
                data=Data(source="digits", flip=False),
                network=UNet(channels=32, channel_multipliers=(1, 2)),
                conditioners={"label": Label()},
                schedule=Cosine(1000),
            ),
            Fit(num_steps=800, learning_rate=1e-3),
            sample={"num_images": 100},
        )

The fields of the task are options without a section, `--config.schedule.num_levels`;
`training` and `devices` say how it is trained; the other sections hold defaults of what
commands are asked for, such as `sample`, and are no part of what is trained.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from ml_collections import ConfigDict

from ddpm_jax import requests, specs
from ddpm_jax.codecs.embeddings import Embeddings
from ddpm_jax.codecs.points import Plane
from ddpm_jax.codecs.spec import AsStored, CodecSpec, Latents
from ddpm_jax.conditioning.clip_text import ClipText
from ddpm_jax.conditioning.conditioner import Conditioner, ConditionerSpec
from ddpm_jax.conditioning.grey import Grey
from ddpm_jax.conditioning.image_embedding import ImageEmbedding
from ddpm_jax.conditioning.jump import Jump
from ddpm_jax.conditioning.known_frames import KnownFrames
from ddpm_jax.conditioning.label import Label
from ddpm_jax.conditioning.low_res import LowRes
from ddpm_jax.conditioning.masked import Masked
from ddpm_jax.conditioning.self_conditioning import SelfConditioning
from ddpm_jax.conditioning.text import BytesText, MiniLMText, WordsText
from ddpm_jax.data.spec import Data
from ddpm_jax.diffusion.few_steps import Consistency, MeanFlow, Progressive
from ddpm_jax.diffusion.loss_weights import (
    P2,
    MinSNR,
    SigmoidSNR,
    TruncatedSNR,
    Velocity,
)
from ddpm_jax.diffusion.losses import Bound, Hybrid, Mean, Simple, Weighted
from ddpm_jax.diffusion.schedules import (
    Constant,
    Cosine,
    CosineLogSNR,
    Jsd,
    Linear,
    LinearLogSNR,
    Quadratic,
    Sigmoid,
    Straight,
    Warmup,
)
from ddpm_jax.diffusion.time_sampling import (
    Antithetic,
    Importance,
    LogitNormal,
    LogNormal,
    Shifted,
    Stratified,
    Uniform,
)
from ddpm_jax.errors import UserError
from ddpm_jax.networks.adversarial import (
    ImageDiscriminator,
    ImageGenerator,
    VectorDiscriminator,
    VectorGenerator,
)
from ddpm_jax.networks.discriminator import PatchDiscriminator
from ddpm_jax.networks.dit import DiT
from ddpm_jax.networks.feed_forward import VectorAutoencoder
from ddpm_jax.networks.flow import Flow
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder
from ddpm_jax.networks.mlp import MLP
from ddpm_jax.networks.ports import Network
from ddpm_jax.networks.prior import PriorTransformer
from ddpm_jax.networks.residual_classifier import Classifier
from ddpm_jax.networks.unet import UNet
from ddpm_jax.networks.video_unet import VideoUNet
from ddpm_jax.requests import sections as of_requests
from ddpm_jax.requests.flags import sections_of
from ddpm_jax.runtime.devices import Devices
from ddpm_jax.scenes.cameras import CameraRange
from ddpm_jax.scenes.fields import FieldSpec, FourierField, HashGrid, VoxelGrid
from ddpm_jax.specs import differences, register
from ddpm_jax.tasks.autoencoder import AutoencoderTask
from ddpm_jax.tasks.classifier import ClassifierTask
from ddpm_jax.tasks.contrastive import ContrastiveTask
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.tasks.flow import FlowTask
from ddpm_jax.tasks.gan import GAN
from ddpm_jax.tasks.refinement import Refinement
from ddpm_jax.tasks.scene import Scene
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.tasks.vae import VAE
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.optimizers import Adam, AdamW

# --- Kinds ----------------------------------------------------------------------------

for _spec in (
    *(Linear, Quadratic, Warmup, Constant, Jsd, Cosine, Sigmoid, Straight),
    *(Simple, Weighted, Mean, Bound, Hybrid, TruncatedSNR, MinSNR, P2, SigmoidSNR),
    *(Velocity, Consistency, Progressive, MeanFlow, Jump),
    *(Uniform, Stratified, Antithetic, Importance, LogitNormal, Shifted),
    *(Label, LowRes, Grey, Masked, KnownFrames, SelfConditioning),
    *(ClipText, ImageEmbedding),
    *(AsStored, Latents, Plane, Embeddings, PriorTransformer),
    *(Data, Devices, Fit, Adam, Diffusion, VAE, GAN, Scene, Refinement),
    *(MLP, KLAutoencoder, PatchDiscriminator, ImageGenerator, ImageDiscriminator),
    *(VectorAutoencoder, VectorGenerator, VectorDiscriminator, CameraRange),
):
    register(_spec)
for _kind, _named in {
    "dit": DiT,
    "unet": UNet,
    "video_unet": VideoUNet,
    "coupling_flow": Flow,
    "residual_classifier": Classifier,
    "voxels": VoxelGrid,
    "fourier": FourierField,
    "hash": HashGrid,
    "words": WordsText,
    "bytes": BytesText,
    "minilm": MiniLMText,
    "linear_logsnr": LinearLogSNR,
    "cosine_logsnr": CosineLogSNR,
    "lognormal": LogNormal,
    "adamw": AdamW,
    "autoencoder": AutoencoderTask,
    "classifier": ClassifierTask,
    "contrastive": ContrastiveTask,
    "flow": FlowTask,
}.items():
    register(_named, _kind)

# --- Sections of defaults -------------------------------------------------------------


def _section(section: str) -> type:
    """Make the dataclass of a section, of the fields of requests that it has."""
    fields: dict[str, tuple[str, Any, Any]] = {}
    lines = [f"Defaults of what is asked for: the section `{section}`.", ""]
    lines.append("Attributes:")
    for request in requests.COMMANDS.values():
        types = typing.get_type_hints(request)
        for field in dataclasses.fields(request):
            where, _, name = field.metadata.get("of", "").partition(".")
            if where == section and name not in fields:
                fields[name] = (name, types[field.name], field.default)
                lines.append(f"    {name}: {field.metadata['help']}")
    made = dataclasses.make_dataclass(
        f"{section.capitalize()}Defaults",
        fields.values(),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "\n".join(lines), "__module__": __name__},
    )
    return register(made, f"{section}_defaults")


SECTIONS: Mapping[str, type] = {name: _section(name) for name in of_requests.SECTIONS}
"""Sections of a recipe that hold nothing but defaults of requests."""


# --- Recipes --------------------------------------------------------------------------

T = TypeVar("T", bound=TaskSpec, covariant=True)
R = TypeVar("R", bound=requests.Request)


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[T]):
    """A recipe, read: what is trained, how, and defaults of what may be asked for.

    Attributes:
        task: what is trained.
        training: how.
        devices: how they share the work.
        defaults: defaults of requests, by their section, of the classes in `SECTIONS`.
    """

    task: T
    training: Fit
    devices: Devices
    defaults: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of what is trained."""
        return specs.kind_of(self.task)

    def request(self, request: type[R], **given: Any) -> R:
        """Make a request of the defaults, and what is given.

        Args:
            request: its class.
            given: values of its fields.

        Raises:
            UserError: a value cannot be.
        """
        return of_requests.request_of(request, self.defaults, given)


def recipe(
    task: Any,
    training: Any = None,
    *,
    devices: Devices | None = None,
    **sections: Mapping[str, Any],
) -> ConfigDict:
    """Compose a recipe: a locked ConfigDict whose nodes carry their `kind`.

    Args:
        task: what is trained, such as a `Diffusion`.
        training: how, a `Fit`; None for its defaults.
        devices: how they share the work; None: each has a copy of everything.
        sections: defaults of what commands are asked for, by their names in
            `SECTIONS`; of a diffusion model all of them, else those of its `commands`.

    Raises:
        UserError: a value is of a wrong type, or a section is not known.
    """
    others: dict[str, Any] = {
        "training": Fit() if training is None else training,
        "devices": Devices() if devices is None else devices,
    }
    if not isinstance(task, TaskSpec):
        raise UserError(
            f"a recipe is of a task, and {type(task).__name__} is none; derive it from "
            "ddpm_jax.recipe.TaskSpec."
        )
    return specs.recipe(task, **others, **_defaults(task, sections))


def _defaults(task: TaskSpec, sections: Mapping[str, Mapping[str, Any]]) -> dict:
    """Read the sections of a task's recipe; those that are left out have defaults."""
    known = _sections_of(task)
    for name in sections:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UserError(f"a recipe has no section {name!r}; it has {listed}.")
    return {
        name: specs.from_config(
            {specs.KIND: specs.kind_of(cls), **sections.get(name, {})},
            cls,
            f"config.{name}",
        )
        for name, cls in known.items()
    }


def _sections_of(task: TaskSpec) -> Mapping[str, type]:
    """Return the sections that hold defaults of what a task's model is asked for."""
    options = {
        option
        for command in task.commands
        for option in sections_of(requests.COMMANDS[command])
    }
    names = {option.partition(".")[0] for option in options}
    return {name: cls for name, cls in SECTIONS.items() if name in names}


def from_json(stored: Mapping[str, Any] | ConfigDict) -> Recipe:
    """Read what `recipe` composed, or `to_json` gave; what is newer has its default.

    Raises:
        UserError: it holds an option that this version does not know, or what cannot
            be.
    """
    task, others = specs.from_recipe(stored, TaskSpec)
    training, devices = others.pop("training", Fit()), others.pop("devices", Devices())
    named = {name: specs.to_json(other) for name, other in others.items()}
    return Recipe(task, training, devices, _defaults(task, named))


def to_json(recipe: Recipe | ConfigDict) -> dict[str, Any]:
    """Return a recipe as plain JSON data."""
    if not isinstance(recipe, Recipe):
        return dict(specs.to_json(recipe))
    parts = {"training": recipe.training, "devices": recipe.devices}
    return {**specs.to_json(recipe.task), **specs.to_json({**parts, **recipe.defaults})}
