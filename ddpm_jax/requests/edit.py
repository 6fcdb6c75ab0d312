"""The requests of `edit`, one for each way to edit."""

import dataclasses
from typing import ClassVar

from ddpm_jax.requests.options import Chain, Shown, WithResults, option

_TRAINED = "trained"  # of an image-conditional model, its only method
_MEASURED = ("project", "guidance", _TRAINED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit(Shown, Chain, WithResults):
    """Edit images with a trained model.

    Attributes:
        mode: a way to edit; a class attribute.
    """

    mode: ClassVar[str] = ""
    image: str = option(
        "",
        "a file (of points a .csv), or data:7 of the data set; several with commas",
        of="edit.image",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Several(Edit):
    """Edit images, with several results for each."""

    num_images: int = option(
        4, "results for each image given, with different noise", of="edit.num_images"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "num_images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inpaint(Several):
    """Fill the masked part of an image.

    python main.py edit inpaint runs/mnist --image=data:7 --mask=mask.png
    """

    mode: ClassVar[str] = "inpaint"
    mask: str = option(
        "",
        "a file, white where the image is to be filled; of points x or y",
        of="edit.mask",
    )
    method: str | None = option(
        None,
        "repaint (unset), replace, project or guidance; of a model that was trained "
        "for this, trained",
        of="edit.method",
        choices=("repaint", "replace", *_MEASURED),
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge", of="edit.weight")
    jump_length: int | None = option(
        None, "of repaint: steps back; unset: N / 25", of="edit.jump_length"
    )
    num_resamples: int = option(
        10, "of repaint: walks of each stretch", of="edit.num_resamples"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToImage(Several):
    """Add noise to an image up to some level, and denoise it (SDEdit).

    python main.py edit image-to-image runs/mnist --image=data:7 --strength=0.5
    """

    mode: ClassVar[str] = "image-to-image"
    strength: float = option(
        0.5, "share of the chain that is walked", of="edit.strength"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpolate(Edit):
    """Interpolate between two images.

    python main.py edit interpolate runs/mnist --image=data:7,data:8
    """

    mode: ClassVar[str] = "interpolate"
    method: str | None = option(
        None,
        "encode (unset) or noise",
        of="edit.method",
        choices=("encode", "noise"),
    )
    num_points: int = option(6, "images of a walk", of="edit.num_points")
    strength: float = option(
        0.5, "share of the chain that is walked", of="edit.strength"
    )
    iterations: int = option(
        3, "of the equation behind each step of an encoding", of="edit.iterations"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(2, "num_points")  # both ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encode(Edit):
    """Encode an image as noise, and decode it (DDIM inversion).

    python main.py edit encode runs/mnist --image=data:7 --strength=0.8
    """

    mode: ClassVar[str] = "encode"
    strength: float = option(
        0.5, "share of the chain that is walked", of="edit.strength"
    )
    iterations: int = option(
        3, "of the equation behind each step of an encoding", of="edit.iterations"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colorize(Several):
    """Colorize a grey image.

    python main.py edit colorize runs/cifar --image=data:1
    """

    mode: ClassVar[str] = "colorize"
    method: str | None = option(
        None,
        "project (unset) or guidance; of a model that was trained for this, trained",
        of="edit.method",
        choices=_MEASURED,
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge", of="edit.weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upscale(Several):
    """Upsample a small image.

    python main.py edit upscale runs/mnist --image=data:7 --factor=4
    """

    mode: ClassVar[str] = "upscale"
    factor: int | None = option(
        None, "times larger; unset: 2, or as it was trained", of="edit.factor"
    )
    method: str | None = option(
        None,
        "project (unset) or guidance; of a model that was trained for this, trained",
        of="edit.method",
        choices=_MEASURED,
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge", of="edit.weight")
