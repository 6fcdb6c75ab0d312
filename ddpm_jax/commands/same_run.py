"""What a mode that trains one network into a folder may find there."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import config
from ddpm_jax.commands.about import SPELLING
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoints as store


def refuse_another(
    cfg: ConfigDict,
    workdir: Path,
    about: dict[str, Any],
    fingerprint: str,
    *,
    section: str,
    noun: str,
    free: tuple[str, ...],
) -> None:
    """Refuse a folder whose network was trained by other options or on other data.

    Args:
        cfg: the options of now.
        workdir: the folder.
        about: what it says of itself: "config" and "data_fingerprint".
        fingerprint: of the data of now.
        section: the section of the config that describes such a network.
        noun: what it holds, with its article.
        free: options that may differ.

    Raises:
        UserError: naming what differs.
    """
    changed = [
        line
        for line in config.differences(config.from_json(about["config"]), cfg)
        if line.startswith((f"{section}.", "data.", "seed"))
        and not line.startswith(free)
    ]
    if about["data_fingerprint"] != fingerprint:
        changed.append("the data themselves")
    else:
        changed = [line for line in changed if not line.startswith(SPELLING)]
    if changed:
        raise UserError(
            f"{workdir} holds {noun} of another config ({'; '.join(changed)}); use "
            "another --workdir."
        )


def refuse_diffusion_model(workdir: Path, network: str) -> None:
    """Refuse to train a network, such as "the autoencoder", beside a diffusion model.

    Raises:
        UserError: the folder holds one.
    """
    if store.latest_step(workdir) is not None:
        raise UserError(
            f"{workdir} holds a diffusion model; give {network} another --workdir."
        )
