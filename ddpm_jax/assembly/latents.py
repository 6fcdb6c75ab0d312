"""The codec of a model, and the autoencoder in the workdir of a model of latents."""

from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.source import DataInfo, codec_spec, latents_run
from ddpm_jax.codecs import Autoencoder, Codec, latents
from ddpm_jax.errors import UserError

COPY = "autoencoder"  # the folder in a workdir


def codec(config: ConfigDict, info: DataInfo, workdir: Path) -> Codec:
    """Open the codec of the model of a workdir.

    Raises:
        UserError: its autoencoder is not there, or is another.
    """
    if info.latents is None:
        return codec_spec(config).build(info.item_shape, info.dtype)
    check_copy(info, workdir)
    return latents(folder.load(workdir / COPY), info.image_shape)


# --- The autoencoder of a workdir -----------------------------------------------------


def check_copy(info: DataInfo, workdir: Path) -> None:
    """Refuse a workdir without its autoencoder, reading no weights.

    Raises:
        UserError: saying which it was.
    """
    known = info.latents
    if known is None:
        return
    found = fingerprint_in(workdir / COPY)
    if found != known.fingerprint:
        now = "holds none" if found is None else f"holds another, {found}"
        raise UserError(
            f"the model in {workdir} works in the latents of {known.name}, weights "
            f"{known.fingerprint}, and {workdir / COPY} {now}; copy the folder of that "
            "autoencoder there."
        )


def fingerprint_in(place: Path) -> str | None:
    """Read which autoencoder a folder says it holds; None if it holds none."""
    if not auxiliary.is_finished(place):
        return None
    return auxiliary.about(place, folder.KIND)["fingerprint"]


def keep_copy(autoencoder: Autoencoder, workdir: Path) -> None:
    """Lay an autoencoder beside the model that works in its latents.

    A checkpoint is then enough to draw from, wherever its folder is moved.

    Args:
        autoencoder: which one.
        workdir: of the model.

    Raises:
        UserError: it cannot be written.
    """
    place = workdir / COPY
    if fingerprint_in(place) == autoencoder.fingerprint:
        return
    folder.write(place, autoencoder, {"copy": True})


# --- What cannot work -----------------------------------------------------------------


def check_latents(config: ConfigDict, info: DataInfo) -> None:
    """Refuse what has no meaning in latents, and latents of a model of pixels.

    Raises:
        UserError: for the first rule that does not hold.
    """
    options = config.sample
    if info.dtype != "uint8" and (options.clip or options.dynamic_percentile):
        name = "clip" if options.clip else "dynamic_percentile"
        raise UserError(
            f"config.sample.{name}={options[name]} clamps to [-1, 1], the range of "
            f"pixels, and {info.name} holds {info.dtype}; use "
            "--config.sample.clip=False and "
            "dynamic_percentile=0."
        )
    if info.latents is None:
        if latents_run(config) is not None:
            raise UserError(
                f"config.codec.run={latents_run(config)!r}, but this model works in "
                "pixels; leave it out."
            )
        return
    if latents_run(config) is None:
        raise UserError(
            f"config.codec.kind={config.codec.kind!r}, but this model works in the "
            f"latents of {info.latents.name}; leave the option out."
        )
    if options.dynamic_percentile:
        raise UserError(
            f"config.sample.dynamic_percentile={options.dynamic_percentile} is for "
            "pixels, which have a range; latents have none, so use 0."
        )
    if options.classifier_scale:
        raise UserError(
            f"config.sample.classifier_scale={options.classifier_scale} guides by the "
            "noised pixels, and this model works in latents; use guidance_scale."
        )


def refuse_latents(config: ConfigDict, what: str) -> None:
    """Refuse a mode that is defined on pixels alone.

    Args:
        config: of the model.
        what: is asked for, such as "edit colorize".

    Raises:
        UserError: the model works in latents.
    """
    if latents_run(config) is not None:
        raise UserError(
            f"{what} is of pixels, and this model works in latents; use a model of "
            "pixels, trained without config.codec latents."
        )
