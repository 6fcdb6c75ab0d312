"""The CLIP-style dual encoder that finds an image's caption: of a spec, or a folder.

The folder is that of any run; see `auxiliary`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.features import check_training, small_task
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.conditioning import reopen
from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.data.dataset import CaptionRule
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.networks.dual_encoder import DualEncoder
from ddpm_jax.recipe import ContrastiveTask, Fit
from ddpm_jax.specs import located
from ddpm_jax.tasks.contrastive import make_contrastive_objective
from ddpm_jax.training.task import Task

KIND = auxiliary.Kind(
    name="contrastive",
    mode="retrieval",
    noun="a retrieval network",
    verb="train",
    facts={  # that are read here or by the command
        *("name", "fingerprint", "data_fingerprint", "image_shape", "tokenizer"),
        *("captions", "found", "num_images", "config"),
    },
)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """A dual encoder, opened.

    Attributes:
        features: of pictures: vectors of length 1.
        encode_texts: texts, N of them -> vectors of length 1, float32 [N, D].
    """

    features: FeatureExtractor
    encode_texts: Callable[[Sequence[str]], np.ndarray]


def match_network(spec: ContrastiveTask, info: DataInfo) -> DualEncoder:
    """Build the image encoder and the text encoder, for captions as the data read them.

    Args:
        spec: what is trained.
        info: of the data; its `tokenizer` is enough.
    """
    return DualEncoder(spec.network, spec.text.for_data(info).encoder)


def _example(
    tokenizer: Mapping[str, Any], image_shape: Sequence[int], captions: Sequence[str]
) -> tuple[jax.Array, Any]:
    """Make an image, and a text as it is read."""
    image = jnp.zeros((1, *image_shape), jnp.float32)
    return image, reopen(tokenizer).read(captions[:1])


def contrastive_task(
    spec: ContrastiveTask,
    fit: Fit,
    info: DataInfo,
    mesh: Mesh,
    rule: CaptionRule | None = None,
) -> Task:
    """Build the task of a dual encoder; see `small_task`.

    Args:
        spec: what is trained.
        fit: how.
        info: of the data.
        mesh: the devices.
        rule: of the captions, if the data have one: a batch has its "facts".
    """
    net = match_network(spec, info)
    assert info.tokenizer is not None  # `data_info` has refused data without captions
    example = _example(info.tokenizer, info.image_shape, info.captions)
    objective = make_contrastive_objective(
        lambda params, images, text: cast(
            Any, net.apply({"params": params}, images, text)
        ),
        max_shift=spec.max_shift,
        flip=spec.data.flip,
        holds=None if rule is None else rule.holds,
    )
    return small_task(spec, fit, KIND.name, net, example, objective, mesh)


def as_clip(
    spec: ContrastiveTask, info: DataInfo, params: Any, about: Mapping[str, Any]
) -> Clip:
    """Make an opened dual encoder of its parameters and the metadata of its folder.

    Args:
        spec: that it was trained by.
        info: of the data; its `tokenizer` is enough.
        params: of its network.
        about: what describes it.
    """
    return Clip(
        name=about["name"],
        fingerprint=about["fingerprint"],
        image_shape=tuple(about["image_shape"]),
        token_width=spec.text.for_data(info).width,
        net=match_network(spec, info),
        params=params,
        tokenizer=reopen(about["tokenizer"]),
        facts={name: about[name] for name in sorted(KIND.facts & about.keys())},
    )


def as_retrieval(clip: Clip) -> Retrieval:
    """Make a retrieval model of an opened dual encoder."""
    features = FeatureExtractor(
        name=clip.name,
        fingerprint=clip.fingerprint,
        num_features=clip.width,
        label_names=None,
        resize="none",
        image_shape=clip.image_shape,
        params=clip.params,
        apply=lambda params, images: Outputs(clip.embed(params, images), None),
    )
    return Retrieval(features, clip.encode_texts)


def retrieval(workdir: Path) -> Retrieval:
    """Open the dual encoder that was trained in a folder, to look for captions.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return as_retrieval(clip(workdir))


def clip(workdir: Path) -> Clip:
    """Open the dual encoder that was trained in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    # Refuses a tokenizer that is not on this machine.
    reopen(auxiliary.about(workdir, KIND)["tokenizer"])

    def network(about: dict[str, Any]) -> tuple[DualEncoder, tuple[Any, Any]]:
        spec, info = _described(about)
        example = _example(about["tokenizer"], info.image_shape, about["captions"])
        return match_network(spec, info), example

    _, params, about = auxiliary.open_network(workdir, KIND, network)
    return as_clip(*_described(about), params, about)


def _described(about: Mapping[str, Any]) -> tuple[ContrastiveTask, DataInfo]:
    """Read by what a dual encoder was trained, and what it knows of its data."""
    spec, _ = specs.from_recipe(about["config"], ContrastiveTask)
    return spec, DataInfo("", tuple(about["image_shape"]), None, "", about["tokenizer"])


def write_copy(place: Path, clip: Clip) -> None:
    """Lay a dual encoder into the folder of a model that uses it.

    Args:
        place: where to.
        clip: by `clip` above.

    Raises:
        UserError: it cannot be written.
    """
    auxiliary.write(place, KIND, clip.params, {"copy": True}, dict(clip.facts))


def check_retrieval(spec: ContrastiveTask, fit: Fit, info: DataInfo) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    with located("config.network"):
        spec.network.check()
    check_training(fit, info, KIND.name, "ema_stds")
