"""Training the KL autoencoder that a latent diffusion model works in.

WORKDIR/
    unfinished/          config.json and checkpoints, while it trains; then gone
    reconstructions.png  held-out images, and below each its reconstruction
    weights.npz, autoencoder.json
"""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

import ddpm_jax
from ddpm_jax import build, config, data, files
from ddpm_jax.build import autoencode as of
from ddpm_jax.build import autoencoder as folder
from ddpm_jax.build.autoencoder import Autoencoder
from ddpm_jax.commands.feed import make_feed
from ddpm_jax.commands.model import make_folder
from ddpm_jax.commands.reconstructions import Latents, draw, latents, psnr
from ddpm_jax.commands.same_run import refuse_another, refuse_diffusion_model
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.devices import check_batch_size, describe, replicated
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.loop import Pace, catch_interrupts
from ddpm_jax.training.owner import only_trainer
from ddpm_jax.training.state import TrainState

UNFINISHED, BEGUN = "unfinished", "config.json"
# A run may be taken up again with other values of these, and stays the same run.
_FREE = (
    *("data.data_dir", "data.cache", "data.on_device_mb"),
    *("autoencoder.report_every", "autoencoder.checkpoint_every"),
)


def autoencoder(cfg: ConfigDict, workdir: Path) -> int:
    """Train an autoencoder on `config.data` and write it, with what it measures.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    source, test, held_out = with_test_split(cfg, workdir)
    info = build.data_info(source)
    of.check_autoencode(cfg, info)
    build.mesh(cfg)
    check_batch_size(
        "config.autoencoder.batch_size", cfg.autoencoder.batch_size, jax.device_count()
    )
    if _is_finished(cfg, workdir, source.fingerprint):
        return 0
    refuse_diffusion_model(workdir, "the autoencoder")
    make_folder(workdir)
    source, test = data.ready(source), data.ready(test)
    started = time.perf_counter()
    with only_trainer(workdir), catch_interrupts() as interrupted:
        state = _train(cfg, info, source, workdir / UNFINISHED, interrupted)
        if int(state.step) < cfg.autoencoder.num_steps:
            print(
                f"Interrupted at step {int(state.step)} of {cfg.autoencoder.num_steps};"
                " saved. The same command goes on from here."
            )
            return 128 + interrupted()
    finished, told = _measured(cfg, info, state.ema_params, source, test, held_out)
    draw(workdir / "reconstructions.png", finished, test)
    told |= {
        "data": source.name,
        "data_fingerprint": source.fingerprint,
        "seconds": round(time.perf_counter() - started, 1),
        "device": describe(),
        "versions": {"ddpm_jax": ddpm_jax.__version__, "jax": jax.__version__},
        "config": config.to_json(cfg),
    }
    folder.save(workdir, finished, told)
    if jax.process_index() == 0:
        shutil.rmtree(workdir / UNFINISHED, ignore_errors=True)
    print(_spell(json.loads((workdir / folder.ABOUT).read_text()), workdir))
    return 0


def _is_finished(cfg: ConfigDict, workdir: Path, fingerprint: str) -> bool:
    path = workdir / folder.ABOUT
    if not path.exists():
        return False
    folder.load(workdir)  # refuses a damaged one
    about = json.loads(path.read_text())
    if "config" not in about:
        raise UserError(
            f"{workdir} holds an autoencoder that was not trained here; use another "
            "--workdir."
        )
    _check_same(cfg, workdir, about, fingerprint)
    print(f"{_spell(about, workdir)} It is finished. Nothing to do.")
    return True


def _check_same(
    cfg: ConfigDict, workdir: Path, about: dict[str, Any], fingerprint: str
) -> None:
    refuse_another(
        cfg,
        workdir,
        about,
        fingerprint,
        section="autoencoder",
        noun=folder.KIND.noun,
        free=_FREE,
    )


# --- The run --------------------------------------------------------------------------


def _train(
    cfg: ConfigDict,
    info: build.DataInfo,
    source: data.Dataset,
    unfinished: Path,
    interrupted: Any,
) -> TrainState:
    """Train to the end or a signal, from where a run before this was stopped."""
    fresh = of.autoencode_state(cfg, info)
    state = jax.device_put(fresh, replicated(build.mesh(cfg)))
    noted = {
        "config": config.to_json(cfg),
        "data_fingerprint": source.fingerprint,
    }
    if store.latest_step(unfinished) is not None:
        before = _read_begun(unfinished / BEGUN)
        _check_same(cfg, unfinished.parent, before, source.fingerprint)
    files.write_json(unfinished / BEGUN, noted)
    with store.open_checkpoints(unfinished, keep_last=2) as checkpoints:
        restored = store.restore_latest(checkpoints, state)
        if restored is not None:
            state = restored[0]
        _announce(source, state)
        state = _advance(cfg, info, source, state, interrupted, checkpoints, noted)
        store.save(checkpoints, state, noted, wait=True)
    return state


def _read_begun(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {name: found[name] for name in ("config", "data_fingerprint")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove the folder {path.parent} to "
            "begin again."
        ) from error


def _announce(source: data.Dataset, state: TrainState) -> None:
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(params))
        for name, params in state.params.items()
    }
    judged = f" and a discriminator of {counts['discriminator']:,}"
    print(
        f"Training an autoencoder of {counts['autoencoder']:,} parameters"
        f"{judged if counts['discriminator'] else ''} on {len(source):,} images of "
        f"{source.name}, on {describe()}"
        f"{f', from step {int(state.step)}' if state.step else ''}.",
        flush=True,
    )


def _advance(
    cfg: ConfigDict,
    info: build.DataInfo,
    source: data.Dataset,
    state: TrainState,
    interrupted: Any,
    checkpoints: store.Checkpoints,
    noted: dict[str, Any],
) -> TrainState:
    options, mesh = cfg.autoencoder, build.mesh(cfg)
    step_of, key = of.autoencode_steps(cfg, info, mesh), of.autoencode_key(cfg)
    start = int(state.step)
    feed = make_feed(
        source,
        options.batch_size,
        seed=cfg.seed,
        mesh=mesh,
        max_mb_on_device=cfg.data.on_device_mb,
    )
    numbers = range(start + 1, options.num_steps + 1)
    bar = tqdm(
        total=options.num_steps,
        initial=start,
        unit="step",
        disable=None,
        dynamic_ncols=True,
    )
    pace = Pace()
    with bar:
        for number, batch in zip(numbers, feed(start), strict=False):
            state, metrics = step_of(number - 1)(state, key, batch)
            pace(metrics["loss"])
            bar.update()
            stopped = interrupted() and number < options.num_steps
            last = stopped or number == options.num_steps
            if last or number % options.report_every == 0:
                said = _progress(number, jax.device_get(metrics))
                bar.set_postfix_str(said)
                if bar.disable:
                    print(f"step {number}/{options.num_steps}: {said}", flush=True)
            if number % options.checkpoint_every == 0 and not last:
                _progress(number, jax.device_get(metrics))  # nothing broken is kept
                store.save(checkpoints, state, noted)
            if last:
                break
    return state


def _progress(number: int, metrics: dict[str, Any]) -> str:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise UserError(
                f"{name} is {metrics[name]} at step {number}; lower "
                "config.autoencoder.learning_rate, in another --workdir."
            )
    said = f"error {metrics['absolute_error']:.4f}, KL {metrics['kl']:.0f}"
    if "perceptual" in metrics:
        said += f", perceptual {metrics['perceptual']:.4f}"
    if "hinge" in metrics:
        said += (
            f", hinge {metrics['hinge']:.3f}, adaptive weight "
            f"{metrics['adaptive_weight']:.2g}"
        )
    return said


def _measured(
    cfg: ConfigDict,
    info: build.DataInfo,
    params: Any,
    source: data.Dataset,
    test: data.Dataset,
    held_out: str,
) -> tuple[Autoencoder, dict[str, Any]]:
    """Scale the latents by what they are on the images learnt from; test on others."""
    net = of.autoencoder_network(cfg, info)
    name = f"autoencoder of {info.name}"
    raw = latents(folder.make(name, net, params, info.image_shape), source)
    finished = folder.make(name, net, params, info.image_shape, scale=1.0 / raw.std)
    seen = latents(finished, test)
    return finished, {
        "psnr": {held_out: psnr(finished, test)},
        "latents": {"train": _scaled(raw), held_out: seen._asdict()},
        "num_images": {"train": len(source), held_out: len(test)},
    }


def _scaled(raw: Latents) -> dict[str, float]:
    return {name: value / raw.std for name, value in raw._asdict().items()}


def _spell(about: dict[str, Any], workdir: Path) -> str:
    ((split, psnr_of_test),) = about["psnr"].items()
    shape = "x".join(map(str, about["latent_shape"]))
    return (
        f"{about['name']}, weights {about['fingerprint']}: latents of {shape}; on "
        f"{about['num_images'][split]:,} images ({split}) PSNR {psnr_of_test:.2f} dB, "
        f"latents with standard deviation {about['latents'][split]['std']:.3f}; see "
        f"{workdir / 'reconstructions.png'}."
    )
