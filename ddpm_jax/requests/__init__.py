"""Requests: what a subcommand is asked for, one frozen dataclass for each.

Every field is an option with its default and its help, of which `flags` makes a command
line. A recipe may set other defaults; nothing of a request is part of what is trained.
Importing this room loads no JAX, so that `--help` is immediate.
"""

from ddpm_jax.requests.attributes import Attributes
from ddpm_jax.requests.cascade import Cascade
from ddpm_jax.requests.edit import (
    Colorize,
    Edit,
    Encode,
    Extend,
    ImageToImage,
    Inpaint,
    Interpolate,
    TextDiff,
    Upscale,
    Variations,
)
from ddpm_jax.requests.evaluate import Evaluate
from ddpm_jax.requests.exchange import Export, ExportMesh, Import
from ddpm_jax.requests.likelihood import Likelihood
from ddpm_jax.requests.options import Parameters, Request
from ddpm_jax.requests.rank import Rank
from ddpm_jax.requests.sample import Sample
from ddpm_jax.requests.training import Look, Options, Plan

COMMANDS: dict[str, type[Request]] = {
    "options": Options,
    "look": Look,
    "plan": Plan,
    "sample": Sample,
    "cascade": Cascade,
    "edit inpaint": Inpaint,
    "edit image-to-image": ImageToImage,
    "edit interpolate": Interpolate,
    "edit encode": Encode,
    "edit colorize": Colorize,
    "edit upscale": Upscale,
    "edit variations": Variations,
    "edit text-diff": TextDiff,
    "extend": Extend,
    "evaluate": Evaluate,
    "attributes": Attributes,
    "rank": Rank,
    "likelihood": Likelihood,
    "import": Import,
    "export": Export,
    "export-mesh": ExportMesh,
}
"""The words of a command line -> what it asks for."""
