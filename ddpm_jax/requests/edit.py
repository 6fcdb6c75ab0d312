"""The requests of `edit`, one for each way to edit."""

from typing import ClassVar

from ddpm_jax.errors import UserError
from ddpm_jax.requests.options import (
    SAMPLERS,
    Chain,
    Shown,
    WithResults,
    listed,
    option,
    place,
    request,
)

_TRAINED = "trained"  # of an image-conditional model, its only method
_MEASURED = ("project", "guidance", _TRAINED)


@request("edit")
class Edit(Shown, Chain, WithResults):
    """Edit images with a trained model.

    Attributes:
        mode: a way to edit; a class attribute.
    """

    mode: ClassVar[str] = ""
    image: str = option(
        "", "a file (of points a .csv), or data:7 of the data set; several with commas"
    )


@request("edit")
class Several(Edit):
    """Edit images, with several results for each."""

    num_images: int = option(4, "results for each image given, with different noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "num_images")


@request("edit")
class Inpaint(Several):
    """Fill the masked part of an image.

    python main.py edit inpaint runs/mnist --image=data:7 --mask=mask.png
    """

    mode: ClassVar[str] = "inpaint"
    mask: str = option(
        "",
        "a file, white where the image is to be filled; of points x or y; of clips "
        "frames, such as 1-6 or 3,5",
    )
    method: str | None = option(
        None,
        "repaint (unset), replace, project or guidance; of a model that was trained "
        "for this, trained (unset)",
        choices=("repaint", "replace", *_MEASURED),
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge")
    jump_length: int | None = option(None, "of repaint: steps back; unset: N / 25")
    num_resamples: int = option(10, "of repaint: walks of each stretch")


@request("extend")
class Extend(Several):
    """Make a clip longer, in blocks that begin with its last frames.

    python main.py extend runs/motion clip.gif --frames=64
    """

    mode: ClassVar[str] = "extend"
    image: str = place("", "a .gif, .webp, .npy or folder of frames, or data:7")
    frames: int | None = option(None, "of the longer clip; unset: one block more")
    known: int | None = option(
        None, "frames of a block that are known; unset: half of them"
    )
    method: str | None = option(
        None,
        "guidance (unset), repaint or replace; of a model of known frames, trained "
        "(unset)",
        choices=("guidance", "repaint", "replace", "trained"),
    )
    weight: float = option(2.0, "of guidance")
    jump_length: int | None = option(None, "of repaint: steps back; unset: N / 25")
    num_resamples: int = option(10, "of repaint: walks of each stretch")
    # By a deterministic sampler the new frames hardly follow the known ones.
    sampler: str = option("ancestral", listed(SAMPLERS), choices=SAMPLERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "frames", "known")


@request("edit")
class ImageToImage(Several):
    """Add noise to an image up to some level, and denoise it (SDEdit).

    python main.py edit image-to-image runs/mnist --image=data:7 --strength=0.5
    """

    mode: ClassVar[str] = "image-to-image"
    strength: float = option(0.5, "share of the chain that is walked")


@request("edit")
class Interpolate(Edit):
    """Interpolate between two images.

    python main.py edit interpolate runs/mnist --image=data:7,data:8
    """

    mode: ClassVar[str] = "interpolate"
    method: str | None = option(
        None, "encode (unset) or noise", choices=("encode", "noise")
    )
    num_points: int = option(6, "images of a walk")
    strength: float = option(0.5, "share of the chain that is walked")
    iterations: int = option(3, "of the equation behind each step of an encoding")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(2, "num_points")  # both ends


@request("edit")
class Encode(Edit):
    """Encode an image as noise, and decode it (DDIM inversion).

    python main.py edit encode runs/mnist --image=data:7 --strength=0.8
    """

    mode: ClassVar[str] = "encode"
    strength: float = option(0.5, "share of the chain that is walked")
    iterations: int = option(3, "of the equation behind each step of an encoding")


@request("edit")
class Variations(Several):
    """Generate other images with the image embedding of one (unCLIP).

    python main.py edit variations runs/shapes_unclip --image=data:7
    """

    mode: ClassVar[str] = "variations"


@request("edit")
class TextDiff(Edit):
    """Edit an image by the difference of two texts (unCLIP).

    python main.py edit text-diff runs/a --image=data:7 --from-text=red --to-text=blue
    """

    mode: ClassVar[str] = "text-diff"
    from_text: str = option("", "what the image shows")
    to_text: str = option("", "what it is to show instead")
    share: float = option(
        0.4, "how far the image embedding goes toward the difference, 0 to 1"
    )
    num_points: int = option(6, "images of a walk")
    strength: float = option(0.5, "share of the chain that is walked")
    iterations: int = option(3, "of the equation behind each step of an encoding")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(2, "num_points")  # both ends
        if not 0 < self.share <= 1:
            raise UserError(
                f"config.edit.share={self.share} is not in (0, 1]; use such as 0.4, "
                "where the image keeps most of what it shows."
            )


@request("edit")
class Colorize(Several):
    """Colorize a grey image.

    python main.py edit colorize runs/cifar --image=data:1
    """

    mode: ClassVar[str] = "colorize"
    method: str | None = option(
        None,
        "project (unset) or guidance; of a model that was trained for this, trained",
        choices=_MEASURED,
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge")


@request("edit")
class Upscale(Several):
    """Upsample a small image.

    python main.py edit upscale runs/mnist --image=data:7 --factor=4
    """

    mode: ClassVar[str] = "upscale"
    factor: int | None = option(None, "times larger; unset: 2, or as it was trained")
    method: str | None = option(
        None,
        "project (unset) or guidance; of a model that was trained for this, trained",
        choices=_MEASURED,
    )
    weight: float = option(1.0, "of guidance; above 2 it may diverge")
