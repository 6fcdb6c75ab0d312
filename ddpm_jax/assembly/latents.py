"""The codec of a model, and the autoencoder in the workdir of a model of latents."""

from pathlib import Path

from ddpm_jax.assembly import autoencoder as folder
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.codecs import Autoencoder, Codec, latents
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion
from ddpm_jax.requests import Sample
from ddpm_jax.specs import kind_of

COPY = "autoencoder"  # the folder in a workdir


def codec(spec: Diffusion, info: DataInfo, workdir: Path) -> Codec:
    """Open the codec of the model of a workdir.

    Raises:
        UserError: its autoencoder is not there, or is another.
    """
    if info.latents is None:
        return spec.codec.build(info.item_shape, info.dtype)
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


def check_latents(spec: Diffusion, info: DataInfo) -> None:
    """Refuse another codec than that which a model was trained with.

    Raises:
        UserError: the one is of latents, and the other is not.
    """
    if info.latents is None and spec.latents_run is not None:
        raise UserError(
            f"config.codec.run={spec.latents_run!r}, but this model works in pixels; "
            "leave it out."
        )
    if info.latents is not None and spec.latents_run is None:
        raise UserError(
            f"config.codec.kind={kind_of(spec.codec)!r}, but this model works in the "
            f"latents of {info.latents.name}; leave the option out."
        )


def check_range(info: DataInfo, asked: Sample) -> None:
    """Refuse what is done to pixels alone, where the chain is of something else.

    Raises:
        UserError: for the first rule that does not hold.
    """
    in_items = info.latents is None  # else nothing is clipped, whatever is asked for
    if info.dtype != "uint8" and in_items and (asked.clip or asked.dynamic_percentile):
        name = "dynamic_percentile" if asked.dynamic_percentile else "clip"
        raise UserError(
            f"config.sample.{name}={getattr(asked, name)} clamps to [-1, 1], the range "
            f"of pixels, and {info.name} holds {info.dtype}; use "
            "--config.sample.clip=False and dynamic_percentile=0."
        )
    if not in_items and asked.classifier_scale:
        raise UserError(
            f"config.sample.classifier_scale={asked.classifier_scale} guides by the "
            "noised pixels, and this model works in latents; use guidance_scale."
        )


def refuse_latents(spec: Diffusion, what: str) -> None:
    """Refuse a mode that is defined on pixels alone.

    Args:
        spec: of the model.
        what: is asked for, such as "edit colorize".

    Raises:
        UserError: the model works in latents.
    """
    if spec.latents_run is not None:
        raise UserError(
            f"{what} is of pixels, and this model works in latents; use a model of "
            "pixels, trained without config.codec latents."
        )
