"""Common code of the benchmarks: flags, recipe, devices, output file.

JAX reads the environment when it is imported, so that it is imported here only after
the recipe has said how many devices its batch can be spread over.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpm_jax import cli
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files, startup

if TYPE_CHECKING:
    from ddpm_jax.recipe import Recipe


class Setup(NamedTuple):
    """What a benchmark starts from.

    Attributes:
        args: its flags.
        recipe: with all overrides.
        command: as it was given, for the record.
        pause: is called between the stages of a benchmark with the name of the next,
            "compile" or "time"; it may wait for others who use the same device.
    """

    args: argparse.Namespace
    recipe: "Recipe"
    command: str
    pause: Callable[[str], None] = lambda stage: None


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Start a parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        epilog="Any option of the recipe can be set: --config.SECTION.NAME=VALUE.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", default="configs/cifar.py", help="a recipe")
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    parser.add_argument("--out", metavar="FILE", help="write the record as JSON")
    return parser


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[Setup], dict[str, Any]],
    argv: list[str] | None = None,
) -> int:
    """Parse, set the devices up as the program does, measure, print and write.

    Args:
        name: of the benchmark.
        parser: from `make_parser`.
        measure: returns the numbers as plain data.
        argv: arguments; None takes those of the process.

    Returns:
        The exit status: 0, or 2 for something the user can fix.
    """
    argv = sys.argv[1:] if argv is None else argv
    args, overrides = parser.parse_known_args(argv)
    for word in overrides:
        if word.startswith("--") and not word.startswith("--config."):
            parser.error(f"unknown flag {word}; see --help")
    try:
        recipe = load(args.config, overrides, args.batch_size)
        if args.out:
            _check_writable(Path(args.out))
        command = shlex.join(["python", "-m", f"benchmarks.{name}"])
        setup = Setup(args, recipe, command)
        setup = setup._replace(command=f"{setup.command} {shlex.join(argv)}".strip())
        from benchmarks import machine  # which imports jax

        before = machine.describe(setup.command)
        record = {"benchmark": name} | before | {"results": measure(setup)}
        if args.out:
            files.write_json(args.out, record)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from benchmarks import table

    print("\n" + table.markdown([record]))
    return 0


def _check_writable(path: Path) -> None:
    """Refuse a place for the record before hours are spent on what it is to hold."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"--out={path} cannot be written ({error.strerror}); choose another file."
        ) from error


def load(name: str, overrides: list[str], batch_size: int | None) -> "Recipe":
    """Load a recipe as the program does, and make as many devices as it would.

    Args:
        name: path of a recipe.
        overrides: `--config.SECTION.NAME=VALUE` words.
        batch_size: of training and sampling alike; None keeps the recipe's.

    Raises:
        UserError: no such recipe or option, or one that no benchmark measures.
    """
    # The program's own functions, though not public: a benchmark that loaded recipes
    # or laid out devices in its own way would measure another program.
    recipe, fixed = cli.load_recipe(name)
    if recipe.kind != "diffusion":
        raise UserError(
            f"{name} has kind={recipe.kind}, and benchmarks measure diffusion models; "
            "give a recipe of one, such as configs/digits.py."
        )
    if batch_size is not None:
        if batch_size < 1:
            raise UserError(f"--batch-size={batch_size} is too small; use 1 or more.")
        sizes = ("training.batch_size", "sample.batch_size", "sample.num_images")
        recipe = changed(recipe, *(f"{size}={batch_size}" for size in sizes))
    recipe = cli.override(recipe, overrides, fixed)
    _check_measurable(name, recipe.task)
    startup.use_all_cores(recipe.training.batch_size)
    return recipe


def changed(recipe: "Recipe", *options: str) -> "Recipe":
    """Set options of a recipe, such as "network.dtype=bfloat16"."""
    return cli.override(recipe, [f"--config.{option}" for option in options])


def _check_measurable(recipe: str, spec: Any) -> None:
    """Refuse a model that is given more than pixels and labels."""
    from ddpm_jax.specs import kind_of

    for name, conditioner in spec.conditioners.items():
        kind = kind_of(conditioner)
        if kind not in ("label", "self_conditioning"):
            raise UserError(
                f"{recipe} has conditioners.{name}.kind={kind}, and benchmarks measure "
                "networks with class labels at most; add "
                f"--config.conditioners.{name}=None."
            )
    if kind_of(spec.codec) != "as_stored":
        raise UserError(
            f"{recipe} has codec.kind={kind_of(spec.codec)}, and benchmarks measure "
            "networks of pixels; add --config.codec.kind=as_stored."
        )
    if not hasattr(spec.network, "dtype"):
        raise UserError(
            f"{recipe} has network.kind={kind_of(spec.network)}, which has no dtype, "
            "and benchmarks compare with matrix products of the same; use network unet."
        )


def recipe_name(args: argparse.Namespace) -> str:
    """Name the recipe in records: "cifar" for configs/cifar.py."""
    return Path(args.config).stem


def at_least(least: int, **flags: int) -> None:
    """Refuse flags that are too small.

    Raises:
        UserError: naming the first of them.
    """
    for name, value in flags.items():
        if value < least:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag}={value} is too small; use {least} or more.")
