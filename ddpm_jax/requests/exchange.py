"""The requests of `import` and `export`."""

from ddpm_jax.errors import UserError
from ddpm_jax.requests.options import Parameters, Request, option, place, request


@request()
class Import(Request):
    """Make a run of a pretrained model.

    python main.py import google/ddpm-celebahq-256 runs/faces
    """

    source: str = place(
        "", "a folder, a file of weights, or OWNER/NAME on huggingface.co"
    )
    run: str | None = place(None, "folder to be made; unset: runs/SOURCE")
    step: int = option(0, "that the model is stored under")
    qkv_order: str = option(
        "legacy",
        "how an OpenAI checkpoint packs query, key and value: legacy, or new if it was "
        "trained with use_new_attention_order",
        choices=("legacy", "new"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(0, "step")


@request()
class Export(Parameters, Request):
    """Write a model for diffusers.

    python main.py export runs/digits digits-for-diffusers
    """

    to: str = place("", "folder to be made")


@request()
class ExportMesh(Request):
    """Write the surface of a scene as a mesh with colors.

    python main.py export-mesh runs/dream --to=snowman.glb
    """

    to: str | None = place(
        None,
        "file that ends in .glb (browsers, Blender), .obj or .ply; unset: mesh.glb in "
        "the run",
        positional=False,
    )
    cells: int = option(48, "of the grid along each side, 4 to 128")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 4 <= self.cells <= 128:
            raise UserError(f"--cells={self.cells} is out of range; use 4 to 128.")
