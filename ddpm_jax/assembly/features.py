"""The small classifier that serves as a features network: from a spec, from a folder.

The folder is that of any run; see `auxiliary`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from ddpm_jax import specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.idle import check_warmup, refuse_unused
from ddpm_jax.assembly.keys import init_key
from ddpm_jax.assembly.sizes import check_batch_memory
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.recipe import Classifier, ClassifierTask, Fit, TaskSpec
from ddpm_jax.runtime.images import to_float
from ddpm_jax.specs import located
from ddpm_jax.tasks.classifier import make_classify_objective
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Objective, Task

KIND = auxiliary.Kind(
    name="classifier",
    mode="features",
    noun="a features network",
    verb="train",
    facts={  # that are read here or by the command
        *("name", "fingerprint", "data_fingerprint", "image_shape", "label_names"),
        *("accuracy", "num_images", "config"),
    },
)


def classifier(spec: ClassifierTask, info: DataInfo) -> Classifier:
    """Build the network, for the classes of the data."""
    return spec.network.clone(num_classes=info.num_classes)


def small_task(
    spec: TaskSpec,
    fit: Fit,
    kind: str,
    net: nn.Module,
    inputs: Sequence[Any],
    objective: Objective,
    mesh: Mesh,
) -> Task:
    """Build the task of an auxiliary model with one loss.

    Args:
        spec: what is trained.
        fit: how.
        kind: of the model.
        net: its network.
        inputs: of the network, one row each.
        objective: with "loss" and "accuracy", the latter of the batch, as metrics.
        mesh: the devices.
    """
    return gradient_task(
        lambda: jax.jit(net.init)(init_key(spec.seed, kind), *inputs)["params"],
        objective,
        fit.transformation(),
        ema_target=fit.ema_decay,
        mesh=mesh,
        num_parts=fit.accumulate,
        shown=("loss", "accuracy"),
    )


def classifier_task(spec: ClassifierTask, fit: Fit, info: DataInfo, mesh: Mesh) -> Task:
    """Build the task of a classifier; see `small_task`."""
    net, images = classifier(spec, info), jnp.zeros((1, *info.image_shape), jnp.float32)
    objective = make_classify_objective(
        lambda params, images: cast(Any, net.apply({"params": params}, images)),
        label_smoothing=spec.label_smoothing,
        max_shift=spec.max_shift,
        flip=spec.data.flip,
    )
    return small_task(spec, fit, KIND.name, net, (images,), objective, mesh)


def as_features(
    net: Classifier, params: Any, about: dict[str, Any]
) -> FeatureExtractor:
    """Make a features network of a classifier and what its folder says of it."""

    def apply(params: Any, images: jax.Array) -> Outputs:
        return Outputs(*net.apply({"params": params}, to_float(images)))

    return FeatureExtractor(
        name=about["name"],
        fingerprint=about["fingerprint"],
        num_features=net.num_features,
        label_names=tuple(about["label_names"]),
        resize="none",
        image_shape=tuple(about["image_shape"]),
        params=params,
        apply=apply,
    )


def classifier_features(workdir: Path) -> FeatureExtractor:
    """Open the network that was trained in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return as_features(*_open(workdir))


def classifier_maps(
    workdir: Path, image_shape: tuple[int, ...]
) -> Callable[[jax.Array], list[jax.Array]]:
    """Open such a network for its maps, one a level, finest first.

    Args:
        workdir: its folder.
        image_shape: (H, W, C) of what it will be shown.

    Returns:
        Images in [-1, 1] -> maps, each [B, h, w, c].

    Raises:
        UserError: there is none, it is damaged, or it takes images of another size.
    """
    net, params, about = _open(workdir)
    if tuple(about["image_shape"]) != tuple(image_shape):
        wanted, given = (
            "x".join(map(str, shape)) for shape in (about["image_shape"], image_shape)
        )
        raise UserError(
            f"the features network in {workdir} takes images of {wanted}, and these "
            f"are {given}; train one on the same data."
        )

    def maps(images: jax.Array) -> list[jax.Array]:
        _, kept = net.apply({"params": params}, images, mutable="intermediates")
        found = kept["intermediates"]  # a tuple of one for each name
        return [found[name][0] for name in sorted(found, key=_level)]

    return maps


def _level(name: str) -> int:
    return int(name.removeprefix("level_"))


def _open(workdir: Path) -> tuple[Classifier, Any, dict[str, Any]]:
    def network(about: dict[str, Any]) -> tuple[Classifier, list[Any]]:
        spec: Classifier = specs.from_config(about["config"]["network"], Classifier)
        net = spec.clone(num_classes=len(about["label_names"]))
        return net, [auxiliary.images_like(about["image_shape"])]

    return auxiliary.open_network(workdir, KIND, network)


def check_features(spec: ClassifierTask, fit: Fit, info: DataInfo) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    if info.label_names is None:
        raise UserError(
            f"{info.name} has no labels, and a features network learns to tell classes "
            "apart; sort the images into one folder per class."
        )
    with located("config.network"):
        spec.network.check()
    check_training(fit, info, KIND.name, "ema_stds")


def check_training(fit: Fit, info: DataInfo, kind: str, *unused: str) -> None:
    """Refuse options of the training of an auxiliary model, before any compile.

    Args:
        fit: how it is trained.
        info: of its data.
        kind: of the model.
        unused: options that its training does not look at.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_batch_memory("training", fit.batch_size, info.item_shape)
    check_warmup(fit)
    refuse_unused(fit, kind, *unused)
