"""What cannot be asked of a model of latents, or of a prior."""

from ddpm_jax.assembly.source import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Embeddings
from ddpm_jax.requests import Sample
from ddpm_jax.specs import kind_of


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


def refuse_embeddings(spec: Diffusion, what: str) -> None:
    """Refuse a mode that reads items of the data, where the model makes embeddings.

    Args:
        spec: of the model.
        what: is asked for, such as "edit encode".

    Raises:
        UserError: the model is a prior.
    """
    if isinstance(spec.codec, Embeddings):
        raise UserError(
            f"{what} is of images, and this model makes image embeddings (a prior); "
            "use the decoder of these."
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
