"""The small classifier that serves as a features network: from a spec, from a folder.

The folder is that of any run; see `auxiliary`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import specs
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.idle import check_warmup, refuse_unused
from ddpm_jax.assembly.sizes import check_batch_memory
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.recipe import Classifier, ClassifierTask, Fit
from ddpm_jax.runtime.images import to_float
from ddpm_jax.runtime.keys import root_key
from ddpm_jax.specs import located
from ddpm_jax.tasks.classifier import make_classify_objective
from ddpm_jax.training.state import TrainState
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
_INIT, _TRAIN = 10, 11  # streams of `config.seed`, apart from those of a diffusion run


def classifier(spec: ClassifierTask, info: DataInfo) -> Classifier:
    """Build the network, for the classes of the data."""
    return spec.network.clone(num_classes=info.num_classes)


def init_classifier(spec: ClassifierTask, net: Classifier, info: DataInfo) -> Any:
    """Draw its initial parameters."""
    key = jax.random.fold_in(root_key(spec.seed), _INIT)
    images = jnp.zeros((1, *info.image_shape), jnp.float32)
    return jax.jit(net.init)(key, images)["params"]


def classify_objective(spec: ClassifierTask, net: Classifier) -> Objective:
    """Build what it is trained on."""
    return make_classify_objective(
        lambda params, images: cast(Any, net.apply({"params": params}, images)),
        label_smoothing=spec.label_smoothing,
        max_shift=spec.max_shift,
        flip=spec.data.flip,
    )


def small_task(
    fit: Fit,
    draw: Callable[[], Any],
    objective: Objective,
    mesh: Mesh,
    finish: Callable[[TrainState], Mapping[str, Any]],
) -> Task:
    """Build the task of an auxiliary model with one loss.

    Args:
        fit: how it is trained.
        draw: () -> the initial parameters.
        objective: with "loss" and "accuracy", the latter of the batch, as metrics.
        mesh: the devices.
        finish: see `Task`.
    """
    return gradient_task(
        draw,
        objective,
        fit.transformation(),
        ema_target=fit.ema_decay,
        mesh=mesh,
        num_parts=fit.accumulate,
        shown=("loss", "accuracy"),
        finish=finish,
    )


def classifier_task(
    spec: ClassifierTask,
    fit: Fit,
    net: Classifier,
    info: DataInfo,
    mesh: Mesh,
    finish: Callable[[TrainState], Mapping[str, Any]],
) -> Task:
    """Build the task of a classifier; see `small_task`."""
    return small_task(
        fit,
        lambda: init_classifier(spec, net, info),
        classify_objective(spec, net),
        mesh,
        finish,
    )


def classify_key(spec: ClassifierTask) -> jax.Array:
    """Return the key of its shifts and flips."""
    return jax.random.fold_in(root_key(spec.seed), _TRAIN)


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
    about, weights = auxiliary.read(workdir, KIND)
    if auxiliary.fingerprint(weights) != about["fingerprint"]:
        raise UserError(
            f"the weights in {workdir} are not those that its result describes; train "
            "the network again, in another folder."
        )
    net = _described(about, weights)
    if net is None:
        raise UserError(
            f"the weights in {workdir} do not fit its network; train it again with "
            "this version, in another folder."
        )
    return net, auxiliary.as_params(weights), about


def _described(
    about: dict[str, Any], weights: dict[str, np.ndarray]
) -> Classifier | None:
    """Build the network that a folder describes; None if these are not its weights."""
    try:
        spec: Classifier = specs.from_config(about["config"]["network"], Classifier)
        net = spec.clone(num_classes=len(about["label_names"]))
        shapes = auxiliary.parameter_shapes(net, about["image_shape"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # no such network can be made
    return net if shapes == {n: leaf.shape for n, leaf in weights.items()} else None


def check_features(spec: ClassifierTask, fit: Fit, info: DataInfo) -> None:
    """Refuse options that cannot work, before any compile.

    Raises:
        UserError: for the first rule that does not hold.
    """
    check_batch_memory("training", fit.batch_size, info.item_shape)
    if info.label_names is None:
        raise UserError(
            f"{info.name} has no labels, and a features network learns to tell classes "
            "apart; sort the images into one folder per class."
        )
    with located("config.network"):
        spec.network.check()
    check_warmup(fit)
    refuse_unused(fit, KIND.name, "ema_stds")
