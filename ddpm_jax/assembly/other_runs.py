"""Frozen models of other runs that a model uses: opened, copied, known by fingerprint.

The spec of a codec or of a conditioner may name a run in its field `run`, and say with
`opens` of what kind its model has to be: an autoencoder, in whose latents the model
works, or a CLIP-style dual encoder, on whose embeddings it is conditioned. When a run
of the model begins, the named one is opened, from the folder as it is spelled, relative
to where the program runs. A copy is laid into the model's folder, which from then on is
enough, wherever it is moved, and the checkpoints remember the fingerprint:

    WORKDIR/autoencoder/    of kind autoencoder
    WORKDIR/clip/           of kind contrastive

A copy that is missing or another is refused, and so is a run whose named folder holds
another model by now than when it began.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from ddpm_jax import data
from ddpm_jax.assembly import autoencoder, auxiliary, retrieval
from ddpm_jax.assembly.parts import Model, model
from ddpm_jax.assembly.source import CLIP
from ddpm_jax.codecs import Codec, latents
from ddpm_jax.conditioning.clip import is_open, keep
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.data.info import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import CodecSpec, ConditionerSpec, Diffusion, Embeddings

AUTOENCODER = autoencoder.KIND.name

Opened = Mapping[str, Any]
"""Kind -> the opened model: a `codecs.Autoencoder`, a `conditioning.clip.Clip`."""


class _Kind(NamedTuple):
    """How models of a kind are opened and copied."""

    kind: auxiliary.Kind
    copy: str  # the folder in a workdir
    noun: str
    load: Callable[[Path], Any]
    write: Callable[[Path, Any], None]


_KINDS = {
    AUTOENCODER: _Kind(
        autoencoder.KIND,
        "autoencoder",
        "autoencoder",
        autoencoder.load,
        lambda place, model: autoencoder.write(place, model, {"copy": True}),
    ),
    CLIP: _Kind(
        retrieval.KIND,
        "clip",
        "dual encoder",
        lambda folder: keep(retrieval.clip(folder)),
        retrieval.write_copy,
    ),
}


def named_runs(spec: Diffusion) -> dict[str, dict[str, str]]:
    """List the runs that a model names: kind -> option -> folder."""
    parts: dict[str, CodecSpec | ConditionerSpec] = {"codec": spec.codec}
    parts |= {f"conditioners.{name}": one for name, one in spec.conditioners.items()}
    listed: dict[str, dict[str, str]] = {}
    for path, part in parts.items():
        if part.opens:
            listed.setdefault(part.opens, {})[f"{path}.run"] = getattr(part, "run", "")
    return listed


def open_runs(spec: Diffusion, workdir: Path, known: DataInfo | None) -> Opened:
    """Open what a run of this model works with.

    A run that has begun has its own copies, and needs the folders no more; but if
    another model has taken the place of one, that is refused.

    Args:
        spec: of the model.
        workdir: of the run.
        known: what a run that has begun knows of its data; None if none has.

    Raises:
        UserError: a model is not there, is damaged, or is not that of the run; or two
            options name different models of a kind.
    """
    return {
        kind: _open(kind, folders, workdir, known)
        for kind, folders in named_runs(spec).items()
    }


def _open(
    kind: str, folders: Mapping[str, str], workdir: Path, known: DataInfo | None
) -> Any:
    of, given = _KINDS[kind], {}
    for option, run in folders.items():
        given[option] = fingerprint_in(Path(run).expanduser(), kind)
    if known is None:
        option, run = next(iter(folders.items()))
        opened = of.load(Path(run).expanduser())
        for other, fingerprint in given.items():
            if fingerprint != opened.fingerprint:
                raise UserError(
                    f"config.{option}={run!r} holds the {of.noun} {opened.fingerprint} "
                    f"and config.{other}={folders[other]!r} holds {fingerprint}; all "
                    "parts of a model have to be of one: name the same."
                )
        return opened
    _check_copy(kind, known, workdir)
    opened = of.load(workdir / of.copy)
    for option, fingerprint in given.items():
        if fingerprint not in (None, opened.fingerprint):
            raise UserError(
                f"config.{option}={folders[option]!r} holds another {of.noun}, "
                f"weights {fingerprint}, than the run in {workdir}, which works with "
                f"{opened.fingerprint}; use another --workdir."
            )
    return opened


def fingerprint_in(place: Path, kind: str) -> str | None:
    """Read which model of a kind a folder says it holds; None if it holds none."""
    if not auxiliary.is_finished(place):
        return None
    return auxiliary.about(place, _KINDS[kind].kind)["fingerprint"]


def keep_copies(opened: Opened, workdir: Path) -> None:
    """Lay the models that a model works with beside it.

    Args:
        opened: by `open_runs`.
        workdir: of the model.

    Raises:
        UserError: one cannot be written.
    """
    for kind, frozen in opened.items():
        place = workdir / _KINDS[kind].copy
        if fingerprint_in(place, kind) != frozen.fingerprint:
            _KINDS[kind].write(place, frozen)


def with_copies(spec: Diffusion, workdir: Path) -> Diffusion:
    """Name the copies that a run has in the place of the runs that its model names.

    Args:
        spec: of the model.
        workdir: of its run.
    """

    def of_copy(part: Any) -> Any:
        if not part.opens:
            return part
        place = workdir / _KINDS[part.opens].copy
        has_run = hasattr(part, "run")
        return dataclasses.replace(part, run=str(place)) if has_run else part

    named = {name: of_copy(one) for name, one in spec.conditioners.items()}
    return dataclasses.replace(spec, codec=of_copy(spec.codec), conditioners=named)


def use_copies(info: DataInfo, workdir: Path) -> None:
    """Check the models that the model of a workdir uses, and open a dual encoder.

    An autoencoder's weights are not read yet.

    Raises:
        UserError: one is not there, is another, or is damaged.
    """
    for kind in _used(info):
        _check_copy(kind, info, workdir)
    if CLIP in info.runs and not is_open(info.runs[CLIP].fingerprint):
        _KINDS[CLIP].load(workdir / _KINDS[CLIP].copy)


def copy_of(info: DataInfo, workdir: Path, kind: str) -> Any:
    """Open the copy of a model that the model of a workdir uses.

    Raises:
        UserError: it is not there, is another, or is damaged.
    """
    _check_copy(kind, info, workdir)
    return _KINDS[kind].load(workdir / _KINDS[kind].copy)


def _used(info: DataInfo) -> dict[str, tuple[str, str]]:
    """List kind -> name and fingerprint of what a model uses."""
    used = {kind: (run.name, run.fingerprint) for kind, run in info.runs.items()}
    if info.latents is not None:
        used[AUTOENCODER] = (info.latents.name, info.latents.fingerprint)
    return used


def _check_copy(kind: str, info: DataInfo, workdir: Path) -> None:
    """Refuse a workdir without the model that its own uses, reading no weights."""
    used, of = _used(info), _KINDS[kind]
    if kind not in used:
        return
    name, fingerprint = used[kind]
    place = workdir / of.copy
    now = fingerprint_in(place, kind)
    if now != fingerprint:
        held = "holds none" if now is None else f"holds another, {now}"
        does = "works in the latents of" if kind == AUTOENCODER else "uses"
        raise UserError(
            f"the model in {workdir} {does} {name}, weights {fingerprint}, and {place} "
            f"{held}; copy the folder of that {of.noun} there."
        )


def build_model(
    spec: Diffusion, info: DataInfo, mesh: Mesh, workdir: Path = Path()
) -> Model:
    """Build a model, computing nothing.

    Args:
        spec: what it is.
        info: of its data.
        mesh: the devices.
        workdir: where the autoencoder of a model of latents is.

    Raises:
        UserError: the autoencoder is not there, or is another.
    """
    return Model(spec, info, model(spec, info), codec(spec, info, workdir), mesh)


def codec(spec: Diffusion, info: DataInfo, workdir: Path) -> Codec:
    """Open the codec of the model of a workdir.

    Raises:
        UserError: its autoencoder is not there, or is another.
    """
    if info.latents is None:
        return spec.codec.build(info.item_shape, info.dtype)
    return latents(copy_of(info, workdir, AUTOENCODER), info.image_shape)


def check_images(spec: Diffusion, source: data.Dataset, opened: Opened) -> None:
    """Refuse images that a dual encoder does not embed.

    Raises:
        UserError: they are of another size, or mirrored at random.
    """
    embeds = isinstance(spec.codec, Embeddings) or NAME in spec.conditioners
    if CLIP not in opened or not embeds:
        return
    opened[CLIP].check_images(source.image_shape)
    if spec.data.flip:
        raise UserError(
            "config.data.flip=True mirrors images at random, and their embeddings are "
            "of images as they are; use False."
        )
