"""Training the two towers that find the text of a picture among others."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import build, conditioning, data
from ddpm_jax.build import retrieval as of
from ddpm_jax.build import weights_folder
from ddpm_jax.build.features import small_optimizer
from ddpm_jax.build.reader import reopen
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.same_run import refuse_diffusion_model
from ddpm_jax.commands.small_network import is_finished, keep, train_small
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.devices import describe
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate
from ddpm_jax.evaluation.features import extract
from ddpm_jax.evaluation.ranking import found_in_first, num_before
from ddpm_jax.models.match import Match
from ddpm_jax.training.loop import catch_interrupts
from ddpm_jax.training.owner import only_trainer
from ddpm_jax.training.state import TrainState

FIRST, AMONG = 5, 100  # the text of a picture is found in the first few of so many


def retrieval(cfg: ConfigDict, workdir: Path) -> int:
    """Train towers on the captions of `config.data`, and write them.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    source, test, held_out = with_test_split(cfg, workdir)
    info = build.data_info(source, cfg)
    of.check_retrieval(cfg, info)
    build.mesh(cfg)
    build.check_batch(cfg, "retrieval")
    _check_texts(cfg, info, test)
    if (workdir / of.ABOUT).exists():
        of.retrieval(workdir)  # refuses a damaged one
    if is_finished(cfg, workdir, of.KIND, info.fingerprint, _spell):
        return 0
    refuse_diffusion_model(workdir, "the retrieval network")
    make_folder(workdir)
    started = time.perf_counter()
    assert info.reader is not None  # `check_retrieval` has refused a model without
    net = of.match_network(cfg, info.reader)
    with only_trainer(workdir), catch_interrupts() as interrupted:
        state = _train(cfg, net, info, source, interrupted)
        if int(state.step) < cfg.retrieval.num_steps:
            print("Interrupted; nothing is kept of a retrieval network half trained.")
            return 128 + interrupted()
    weights = weights_folder.flat_weights(state.ema_params)
    about: dict[str, Any] = {
        "name": f"retrieval network of {source.name}",
        "fingerprint": weights_folder.fingerprint(weights),
        "data": source.name,
        "data_fingerprint": info.fingerprint,
        "image_shape": list(source.image_shape),
        "reader": dict(info.reader),
        "captions": list(info.captions[:1]),
    }
    towers = of.as_retrieval(net, state.ema_params, about)
    splits = {"train": source, held_out: test}
    about |= {
        "found": {name: _found(towers, one) for name, one in splits.items()},
        "num_images": {name: len(one) for name, one in splits.items()},
    }
    written = keep(cfg, workdir, of.KIND, weights, about, started)
    print(_spell(written, workdir))
    return 0


def _check_texts(cfg: ConfigDict, info: build.DataInfo, test: data.Dataset) -> None:
    """Refuse captions of the test that cannot be read, before the training."""
    try:
        reopen(info.reader or {}).tokenize(list(test.texts or ()))
    except UserError as error:
        raise UserError(
            f"config.model.text={cfg.model.text!r} cannot read a caption held out: "
            f"{error} Or let minilm or bytes read."
        ) from error


def _train(
    cfg: ConfigDict,
    net: Match,
    info: build.DataInfo,
    source: data.Dataset,
    interrupted: Callable[[], int],
) -> TrainState:
    assert info.reader is not None and source.texts is not None  # `retrieval` has seen
    params = of.init_match(cfg, net, info.reader, info)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"Training a retrieval network of {count:,} parameters on {len(source):,} "
        f"images of {source.name} and their captions, on {describe()}.",
        flush=True,
    )
    return train_small(
        cfg,
        "retrieval",
        objective=of.match_objective(cfg, net),
        optimizer=small_optimizer(cfg.retrieval),
        params=params,
        key=of.match_key(cfg),
        source=source,
        interrupted=interrupted,
        captions=build.captions(cfg, info, source.texts),
    )


def _found(towers: of.Retrieval, source: data.Dataset) -> dict[str, Any]:
    assert source.texts is not None  # as the towers' data have
    return found(towers, data.in_memory(source)[0], source.texts)


def found(
    towers: of.Retrieval, images: np.ndarray, texts: Sequence[str]
) -> dict[str, Any]:
    """Tell how often the text of a picture is the first, and in the first few.

    Args:
        towers: that look.
        images: uint8 [N, H, W, C].
        texts: N of them; those that differ are what there is to choose from.

    Returns:
        "first" and "in_first_5", estimates as plain data, and "among", the number of
        texts: 100, or as many as there are.

    Raises:
        UserError: there are too few texts that differ.
    """
    listed, own = conditioning.distinct(texts)
    seen = extract(towers.features, images).features
    before = num_before(seen, towers.of_texts(listed), own)
    among = min(AMONG, len(listed))

    def share(first: int) -> dict[str, float | None]:
        one: Estimate = found_in_first(before, len(listed), first=first, among=among)
        return one._asdict()

    return {"first": share(1), f"in_first_{FIRST}": share(FIRST), "among": among}


def _spell(about: dict[str, Any], workdir: Path) -> str:
    said = ", ".join(
        f"{found[f'in_first_{FIRST}']['value']:.1%} of {about['num_images'][name]:,} "
        f"({name})"
        for name, found in about["found"].items()
    )
    return (
        f"{about['name']}, weights {about['fingerprint']}: finds the caption in the "
        f"first {FIRST} of {about['found']['train']['among']} for {said}. Use it with "
        f"--config.evaluate.retrieval={workdir}."
    )
