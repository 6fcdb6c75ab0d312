"""Training the small classifier whose last hidden layer is used as features."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import build, data
from ddpm_jax.build import features as of
from ddpm_jax.build import weights_folder
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.same_run import refuse_diffusion_model
from ddpm_jax.commands.small_network import is_finished, keep, train_small
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.data.pipeline import gather
from ddpm_jax.devices import describe
from ddpm_jax.evaluation.features import Features, extract
from ddpm_jax.training.loop import catch_interrupts
from ddpm_jax.training.owner import only_trainer
from ddpm_jax.training.state import TrainState


def features(cfg: ConfigDict, workdir: Path) -> int:
    """Train a classifier on `config.data` and write it, with its accuracy.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    source, test, held_out = with_test_split(cfg, workdir)
    info = build.data_info(source)
    of.check_features(cfg, info)
    build.mesh(cfg)
    build.check_batch(cfg, "features")
    if (workdir / of.ABOUT).exists():
        of.classifier_features(workdir)  # refuses a damaged one
    if is_finished(cfg, workdir, of.KIND, source.fingerprint, _spell):
        return 0
    refuse_diffusion_model(workdir, "the features network")
    make_folder(workdir)
    net = of.classifier(cfg, info)
    started = time.perf_counter()
    with only_trainer(workdir), catch_interrupts() as interrupted:
        state = _train(cfg, net, info, source, interrupted)
        if int(state.step) < cfg.features.num_steps:
            print("Interrupted; nothing is kept of a features network half trained.")
            return 128 + interrupted()
    weights = weights_folder.flat_weights(state.ema_params)
    about = {
        "name": f"classifier of {source.name}",
        "fingerprint": weights_folder.fingerprint(weights),
        "data": source.name,
        "data_fingerprint": source.fingerprint,
        "image_shape": list(source.image_shape),
        "label_names": list(source.label_names or ()),
        "num_features": cfg.features.num_features,
    }
    seen = of.as_features(net, state.ema_params, about)
    about |= {
        "accuracy": {
            "train": _accuracy(seen, source),
            held_out: _accuracy(seen, test),
        },
        "num_images": {"train": len(source), held_out: len(test)},
    }
    written = keep(cfg, workdir, of.KIND, weights, about, started)
    print(_spell(written, workdir))
    return 0


def _train(
    cfg: ConfigDict,
    net: Any,
    info: build.DataInfo,
    source: data.Dataset,
    interrupted: Callable[[], int],
) -> TrainState:
    params = of.init_classifier(cfg, net, info)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"Training a classifier of {count:,} parameters on {len(source):,} images of "
        f"{source.name}, {len(source.label_names or ())} classes, on {describe()}.",
        flush=True,
    )
    return train_small(
        cfg,
        "features",
        objective=of.classify_objective(cfg, net),
        optimizer=of.small_optimizer(cfg.features),
        params=params,
        key=of.classify_key(cfg),
        source=source,
        interrupted=interrupted,
    )


def _accuracy(seen: Features, source: data.Dataset) -> float:
    """Return the share of images that the classifier reads right."""
    batch = gather(source, np.arange(len(source)))
    logits = extract(seen, batch["image"], batch_size=256).logits
    assert logits is not None  # of a classifier
    return float((logits.argmax(1) == batch["label"]).mean())


def _spell(about: dict[str, Any], workdir: Path) -> str:
    said = ", ".join(
        f"{share:.2%} of {about['num_images'][name]:,} ({name})"
        for name, share in about["accuracy"].items()
    )
    return (
        f"{about['name']}, weights {about['fingerprint']}: reads {said} right. Use it "
        f"with --config.evaluate.features={workdir}."
    )
