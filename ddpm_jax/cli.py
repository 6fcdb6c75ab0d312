"""The command line: words in, one call into `commands`, an exit status out.

`main.py --config=RECIPE` trains; anything else is a command on a run, whose flags are
made of its request (`ddpm_jax.requests`).

Exit status: 0 done; 2 something the user can fix, said in one line; 128 + n saved and
stopped by signal n (130 for Ctrl-C, 143 for SIGTERM); 3 another process of the run was
lost; 1 a defect, with its traceback.
"""

import argparse
import importlib.util
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from ddpm_jax import requests
from ddpm_jax.errors import UserError
from ddpm_jax.limits import check_ceilings
from ddpm_jax.requests import COMMANDS, Request, sections
from ddpm_jax.requests import flags as of_request
from ddpm_jax.requests.flags import Line, flag_of, value_of
from ddpm_jax.runtime import hosts, interrupts
from ddpm_jax.runtime.files import printable
from ddpm_jax.runtime.startup import use_all_cores, use_compilation_cache

if TYPE_CHECKING:  # which loads JAX, and --help need not wait
    from ddpm_jax.recipe import Recipe

_EXAMPLES = """\
examples:
  python main.py --config=configs/digits.py --workdir=runs/digits
  python main.py --config=configs/cifar.py --config.training.batch_size=256
  python main.py look --config=configs/folder.py:64 \\
      --config.data.source=folder:photos
  python main.py sample runs/digits --label=7 --num-steps=50
  python main.py edit inpaint runs/mnist --image=digit.png --mask=mask.png
  python main.py import google/ddpm-celebahq-256 runs/faces

Any option of a recipe can be set as --config.NAME=VALUE; the command
`options` lists them all. Only a new run needs --config: a checkpoint carries its own.
"""

_LONGEST = 2000  # characters of an error
_MOST_DIGITS = 1000  # of a number; Python itself reads up to 4,300
_TRAIN = "train"  # the command of a line that names none
_OF_RECIPES = (requests.Options, requests.Look)  # of any kind
_TRAINERS = {  # kind of a recipe -> its command
    "diffusion": "train",
    "classifier": "features",
    "contrastive": "retrieval",
    "autoencoder": "autoencoder",
    "scene": "scene",
    "refinement": "refinement",
}  # of any other, commands/task.py


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.

    Raises:
        KeyboardInterrupt: in the program, which notes signals, and ends by itself.
    """
    try:
        words = sys.argv[1:] if argv is None else argv
        _check_readable(words)
        line = read_line(words)
        _start_hosts(line.known)
        with hosts.as_one():
            status = _train(line) if line.command == _TRAIN else _run(line)
    except (UserError, argparse.ArgumentError) as error:
        # It may quote a file of anyone's, which could steer the terminal.
        print(f"error: {_shortened(printable(str(error)))}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as stop:
        if interrupts.is_installed() and not hosts.are_several():
            raise  # the program ends there
        print("interrupted.", file=sys.stderr)
        status = 128 + getattr(stop, "number", signal.SIGINT)
        if hosts.are_several():
            interrupts.answered()  # the others are told of it, which may take seconds
    return hosts.end(status)


def _shortened(text: str) -> str:
    """Leave out the middle of what a user gave at any length."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def _check_readable(arguments: list[str]) -> None:
    """Refuse what the libraries below would stumble over, wherever it stands."""
    for argument in arguments:
        name = argument.partition("=")[0][:80]
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{argument!r} is not UTF-8 text; rename the file or folder that it "
                "names."
            ) from None
        if re.search(rf"\d{{{_MOST_DIGITS},}}", argument):
            raise UserError(
                f"{name} has a number of more than {_MOST_DIGITS:,} digits; use a "
                "shorter one."
            )


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    """Add what runs of several processes are started with; see docs/clusters.md."""
    group = parser.add_argument_group(
        "several processes", "the same command on every host; see docs/clusters.md"
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="join the processes that SLURM, Open MPI, a TPU pod or Kubernetes started",
    )
    by_hand = {
        "--coordinator": ("HOST:PORT", "by hand instead: where process 0 is reached"),
        "--num-processes": ("N", "by hand: how many there are"),
        "--process-id": ("I", "by hand: which this is, from 0"),
        "--start-timeout": (
            "SECONDS",
            f"wait so long for all of them; {hosts.START_TIMEOUT} unless given",
        ),
        "--heartbeat-timeout": (
            "SECONDS",
            "silence after which a process is taken for lost; "
            f"{hosts.HEARTBEAT_TIMEOUT} unless given",
        ),
    }
    for flag, (value, what) in by_hand.items():
        group.add_argument(flag, metavar=value, help=what)


def _start_hosts(known: argparse.Namespace) -> None:
    def whole(name: str) -> int | None:
        text = getattr(known, name)
        return None if text is None else value_of(flag_of(name), text, int)

    numbers = ("num_processes", "process_id", "start_timeout", "heartbeat_timeout")
    use_compilation_cache()
    hosts.start(
        detect=known.distributed,
        coordinator=known.coordinator,
        **{name: whole(name) for name in numbers},
    )


def make_parser() -> argparse.ArgumentParser:
    """Describe the flags of training; options of the recipe are left for `override`."""
    parser = argparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,
        usage=f"{Path(sys.argv[0]).name} [COMMAND] [--NAME=VALUE ...]",
        description="Train a model by a recipe, or do something with one.",
        epilog=f"{_listed_commands()}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    _add_recipe(parser)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; default runs/RECIPE"
    )
    _add_hosts(parser)
    return parser


def _listed_commands() -> str:
    lines = ["commands, each with a --help of its own:"]
    for name, request in COMMANDS.items():
        what = (request.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:<20}  {what}")
    return "\n".join(lines)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="a file such as configs/digits.py, or the name of a recipe that comes "
        "with the package, such as digits",
    )


def _common_parser() -> argparse.ArgumentParser:
    """Describe the flags of every command, which its help does not repeat."""
    shown = argparse.ArgumentParser(add_help=False)
    _add_recipe(shown)
    _add_hosts(shown)
    hidden = argparse.ArgumentParser(prog=Path(sys.argv[0]).name, add_help=False)
    names = vars(shown.parse_args([]))
    for name, default in names.items():
        hidden.add_argument(
            flag_of(name),
            action="store_true" if default is False else "store",
            help=argparse.SUPPRESS,
        )
    return hidden


def make_completion() -> argparse.ArgumentParser:
    """Describe everything that may stand in a command line, for a shell to complete."""
    parser, common = make_parser(), _common_parser()
    words = parser.add_subparsers()
    edits = words.add_parser("edit", add_help=False).add_subparsers()
    for command, request in COMMANDS.items():
        made = of_request.make_parser(command, request, common)
        *before, name = command.split()
        (edits if before else words).add_parser(
            name, parents=[made], add_help=False, conflict_handler="resolve"
        )
    return parser


def read_line(words: list[str]) -> Line:
    """Read a command line, without doing anything.

    Raises:
        UserError: a command or flag is not known, or one is missing.
    """
    if not words or words[0].startswith("-"):
        return _line_of_training(words)
    command = next(
        (name for name in COMMANDS if words[: len(name.split())] == name.split()), None
    )
    if command is None:
        raise UserError(_unknown_command(words))
    read = of_request.read(
        command, COMMANDS[command], words[len(command.split()) :], _common_parser()
    )
    given = {**vars(read.known), **read.values}
    for name, value in given.items():
        if name in ("config", "run", "workdir", "out", "source", "to"):
            _check_not_empty(flag_of(name), value)
    sections.refuse_sections(command, COMMANDS[command], _names(read.overrides))
    _check_one_run(command, given)
    return read


def _check_one_run(command: str, given: Mapping[str, Any]) -> None:
    """Refuse a run that is named twice, or beside what takes its place."""
    run, workdir, recipe = (given.get(n) for n in ("run", "workdir", "config"))
    if run is None:
        return
    if workdir is not None:
        raise UserError(
            f"{command} got two runs, {run} and --workdir={workdir}; give one of them."
        )
    listed = COMMANDS[command] is requests.Options
    if recipe is not None and (listed or (given.get("out") and command == "look")):
        raise UserError(
            f"{command} got the run {run}, which it does not look at beside "
            f"--config={recipe}{'' if listed else ' and --out'}; leave one of them out."
        )


def _unknown_command(words: list[str]) -> str:
    ways = [name.split()[1] for name in COMMANDS if name.startswith("edit ")]
    if words[0] == "edit":
        asked = next((word for word in words[1:2] if not word.startswith("-")), None)
        if asked is None:
            return f"edit needs a word after it: {', '.join(ways)}."
        return f"unknown edit {asked!r}; " + of_request.closest(asked, ways, "use")
    if words[0] in ways:
        return f"unknown command {words[0]!r}; write edit {words[0]}."
    known = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    hint = of_request.closest(words[0], known, "the commands are")
    return f"unknown command {words[0]!r}; {hint}"


def _line_of_training(words: list[str]) -> Line:
    for word in words:
        if word.partition("=")[0] == "--mode":
            raise UserError(_instead_of_mode(word.partition("=")[2]))
    known, overrides = make_parser().parse_known_args(words)
    _names(overrides)  # a misspelt flag, before what is missing without it
    for name, value in vars(known).items():
        _check_not_empty(flag_of(name), value)
    return Line(_TRAIN, {}, known, overrides)


def _instead_of_mode(mode: str) -> str:
    """Say what is written now where --mode was; without --mode a recipe is trained."""
    if mode in ("train", "features", "retrieval", "autoencoder"):
        return (
            f"--mode={mode} is gone: --config=RECIPE trains whatever the recipe is of."
        )
    command = next((name for name in COMMANDS if name.split()[-1] == mode), "COMMAND")
    return f"--mode is gone; write main.py {command} RUN, and see main.py --help."


def _check_not_empty(flag: str, value: Any) -> None:
    """Refuse `--workdir=$RUN` of a variable that is not set: it names another run."""
    if isinstance(value, str) and not value.strip():
        raise UserError(
            f"{flag}= is empty, as of a variable that is not set; give it a value, or "
            "leave it out."
        )


def _train(line: Line) -> int:
    recipe, workdir = line.known.config, line.known.workdir
    if workdir is None and recipe is None:
        raise UserError(
            "nothing to do: give --config=RECIPE to train (see configs/), or a command "
            "such as: sample RUN; see --help."
        )
    folder = Path(workdir) if workdir else Path("runs") / _stem(recipe or "")
    trained = _holds(Path.is_dir, folder / "checkpoints")  # then it carries its config
    if recipe is None and not trained:
        raise UserError(
            f"training needs a recipe; give --config=RECIPE with --workdir={workdir}."
        )
    read = _recipe(recipe, folder, line.overrides)
    use_all_cores(read.training.batch_size)
    interrupts.check()
    return _command(_TRAINERS.get(read.kind, "task"))(read, folder)


def _command(name: str) -> Callable[..., Any]:
    """Find a function of `commands`, late: it imports JAX, and --help need not wait."""
    return getattr(importlib.import_module(f"ddpm_jax.commands.{name}"), name)


def _recipe(name: str | None, folder: Path, overrides: list[str]) -> "Recipe":
    """Return a recipe, or else that of the model in a folder."""
    if name is not None:
        recipe, fixed = load_recipe(name)
    else:
        from ddpm_jax.commands.about import trained_recipe

        recipe, fixed = trained_recipe(folder), {}
    interrupts.check()
    return override(recipe, overrides, fixed)


def _run(line: Line) -> int:
    """Run a command on a run."""
    kind, name = COMMANDS[line.command], line.known.config
    if kind is requests.Import:
        return _import(line)
    run = line.values.get("run") or line.values.get("workdir")
    if run is None and name is None:
        raise UserError(f"{line.command} needs --config=RECIPE, or a run.")
    folder = Path(run) if run else Path("runs") / _stem(name)
    recipe = _recipe(name, folder, line.overrides)
    if kind not in _OF_RECIPES and line.command not in recipe.task.commands:
        if kind is requests.Likelihood:
            raise UserError(
                f"{name or folder} is of kind {recipe.kind}, which has no likelihood; "
                "name a run of diffusion, a VAE or a flow."
            )
        if kind is requests.ExportMesh:
            raise UserError(
                f"{name or folder} is of kind {recipe.kind}, which has no surface; "
                "name the run of a scene, or of its refinement."
            )
        raise UserError(
            f"{line.command} is for a diffusion model, and {name or folder} is of "
            f"another kind ({recipe.kind}); name a diffusion model."
        )
    from ddpm_jax.assembly import leave_out_idle  # loads JAX, as the recipe has done

    try:
        request = recipe.request(kind, **{**line.values, "run": str(folder)})
        request = leave_out_idle(recipe.task, request, line.values)
        # The same devices in every command, whose images are then the same bytes.
        use_all_cores(recipe.training.batch_size)
        interrupts.check()
        return _call(line, recipe, request, folder)
    except UserError as error:
        error.args = (sections.in_flags(kind, str(error)), *error.args[1:])
        raise


def _import(line: Line) -> int:
    from ddpm_jax.commands.import_model import Asked, import_model

    _refuse_recipe(line)
    request = requests.Import(**line.values)
    run = request.run or Path("runs") / Path(request.source).resolve().stem
    step = line.values.get("step")
    asked = Asked(tuple(line.overrides), step, request.qkv_order)
    import_model(request.source, Path(run), asked)
    return 0


def _call(line: Line, recipe: "Recipe", request: Request, folder: Path) -> int:
    name = line.command.partition(" ")[0]
    match request:
        case requests.Options():
            return _command(name)(recipe)
        case requests.Look():
            return _command(name)(recipe.task.data, request.folder or folder)
        case requests.Plan():
            return _command(name)(recipe, folder)
        case requests.Extend():
            name = "edit"  # of clips
        case requests.ExportMesh():
            name = "export_mesh"
        case requests.Export():
            _refuse_recipe(line)
            name = "export_model"
    status = _command(name)(recipe, request, folder)
    return status if isinstance(status, int) else 0  # some return their folder


def _refuse_recipe(line: Line) -> None:
    if line.known.config is not None:
        raise UserError(
            f"{line.command} takes no recipe, got --config={line.known.config}; leave "
            "it out, and give single options as --config.SECTION.NAME=VALUE."
        )


def _divide(recipe: str) -> tuple[Path, list[str]]:
    """Split FILE:ARGUMENT, as ml_collections has it, or NAME:ARGUMENT."""
    path, colon, argument = recipe.rpartition(":")
    known = path.endswith(".py") or path in _shipped_recipes()
    if colon and known and not _holds(Path.is_file, Path(recipe)):
        return Path(path), [argument]
    return Path(recipe), []


def _holds(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except OSError:  # a name that is too long to be one
        return False


def _stem(recipe: str) -> str:
    path, arguments = _divide(recipe)
    arguments = [Path(argument).name for argument in arguments]  # one may be a run
    # A comma would divide the path where several pictures may be named.
    return "-".join([path.stem, *arguments]).replace(",", "x")


def load_recipe(recipe: str) -> tuple["Recipe", dict[str, str]]:
    """Import a recipe and check that its options are the known ones.

    Returns:
        The recipe, and options that the recipe does not let be overridden, each with
        what to do instead.

    Raises:
        UserError: it is no file, no recipe, or sets an option that there is not.
    """
    (path, arguments), shipped = _divide(recipe), _shipped_recipes()
    if not _holds(Path.is_file, path):
        if str(path) not in shipped:
            raise UserError(
                f"--config={recipe} is not a file; configs/ has {', '.join(shipped)}."
            )
        path = shipped[str(path)]
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"--config={recipe} is not a Python file; a recipe ends in .py."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    wanted = (
        "a recipe defines get_config(), which returns what ddpm_jax.recipe.recipe "
        "composes."
    )
    sys.path.insert(0, str(path.resolve().parent))  # it may import what lies beside it
    try:
        spec.loader.exec_module(module)
        loaded = module.get_config(*arguments)
    except UserError:
        raise
    except Exception as error:  # a recipe is the user's own program
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--config={recipe} cannot be read ({text}); {wanted}"
        ) from error
    finally:
        sys.path.pop(0)
    from ddpm_jax.recipe import Recipe, from_json, to_json  # loads JAX

    if not isinstance(loaded, ConfigDict | Recipe):
        text = f"get_config() returned {type(loaded).__name__}"
        raise UserError(f"--config={recipe} cannot be read ({text}); {wanted}")
    fixed = getattr(module, "FIXED", {})
    try:
        return from_json(to_json(loaded)), fixed
    except UserError as error:
        raise UserError(
            f"--config={recipe} is no recipe of this version ({error}); {wanted}"
        ) from error


def _shipped_recipes() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package."""
    package = Path(__file__).parent
    # Installed, they are within the package; in a checkout, beside it.
    folders = (package / "recipes", package.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    files = sorted(folder.glob("*.py"))
    return {file.stem: file for file in files if file.stem != "__init__"}


def override(
    recipe: "Recipe",
    arguments: list[str],
    fixed: Mapping[str, str] = MappingProxyType({}),
) -> "Recipe":
    """Set options from `--config.SECTION.NAME=VALUE` arguments.

    Args:
        recipe: to change.
        arguments: of the command line.
        fixed: options that may not be given, and what to do instead.

    Returns:
        A new recipe.

    Raises:
        UserError: for an argument that is no such thing, an unknown option, or a value
            of a wrong type.
    """
    from ddpm_jax import specs
    from ddpm_jax.recipe import TaskSpec, from_json, to_json

    for name in _names(arguments):
        if name in fixed:
            raise UserError(f"--config.{name} would not fit the recipe; {fixed[name]}.")
    changed = specs.override(to_json(recipe), arguments, slot=TaskSpec)
    if changed.kind != recipe.kind:
        raise UserError(
            f"config.kind={changed.kind!r}, but the recipe is of kind {recipe.kind!r}, "
            "whose options are others; give --config a recipe of that kind."
        )
    check_ceilings(to_json(changed))
    return from_json(changed)


def _names(arguments: list[str]) -> list[str]:
    names = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue  # the value of the flag before it
        name = argument[2:].partition("=")[0]
        if not name.startswith("config."):
            raise UserError(f"unknown flag --{name}; {_flag_meant(name)}")
        names.append(name.removeprefix("config."))
    return names


def _flag_meant(name: str) -> str:
    known = ["--config", "--workdir", "--distributed"]
    hint = of_request.closest(f"--{name}", known, "the flags of training are")
    if hint.startswith("did"):
        return hint
    return hint.removesuffix(".") + (
        ", --config.SECTION.NAME, and those of --help for several processes; commands "
        "such as sample come first in the line."
    )
