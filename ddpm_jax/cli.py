"""The command line: flags in, one call into `commands`, an exit status out.

Exit status: 0 done; 2 something the user can fix, said in one line; 128 + n saved and
stopped by signal n (130 for Ctrl-C, 143 for SIGTERM); 3 another process of the run was
lost; 1 a defect, with its traceback.
"""

import argparse
import importlib.util
import itertools
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddpm_jax import config as options
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import hosts, interrupts
from ddpm_jax.runtime.files import printable
from ddpm_jax.runtime.startup import use_all_cores, use_compilation_cache

_EPILOG = """\
examples:
  python main.py --config=configs/digits.py --workdir=runs/digits
  python main.py --config=configs/cifar.py --config.training.batch_size=256
  python main.py --mode=look --config=configs/folder.py:64 \\
      --config.data.source=folder:photos
  python main.py --mode=sample --workdir=runs/digits --config.sample.labels=7
  python main.py --mode=inpaint --workdir=runs/mnist \\
      --config.edit.image=digit.png --config.edit.mask=mask.png
  python main.py --mode=import --from=google/ddpm-celebahq-256 --workdir=runs/faces

Any option of the config can be set as --config.SECTION.NAME=VALUE; ddpm_jax/config.py
lists them all. Only a new run needs --config: a checkpoint carries its own.
"""

_LONGEST = 2000  # characters of an error
_MOST_DIGITS = 1000  # of a number; Python itself reads up to 4,300

# What can be done with a trained model; those of the second half are edits.
_MODES = {
    "look": "look at the data first: counts, sizes, broken files, a contact sheet",
    "plan": "say what training will take: parameters, memory, time",
    "sample": "draw images",
    "cascade": "draw small images, and enlarge them with other models",
    "evaluate": "score images against real ones: FID, KID, precision, ...",
    "attributes": "read off drawn shapes whether they are those asked for",
    "rank": "find the prompts of drawn images again, and their nearest in the data",
    "features": "train a small classifier, through whose eyes to evaluate",
    "retrieval": "train a network that finds a picture's caption, for --mode=rank",
    "autoencoder": "train an autoencoder, for diffusion in its latents",
    "likelihood": "measure bits per dimension of a split of the data",
    "import": "make a workdir of a pretrained model, --from a folder, file or hub",
    "export": "write a model for diffusers, --to a folder",
    **{
        "inpaint": "fill the masked part of a picture",
        "image-to-image": "noise a picture to some level, and back (SDEdit)",
        "interpolate": "walk from one picture to another",
        "encode": "turn a picture into its noise, and back (DDIM inversion)",
        "colorize": "give a grey picture its colours",
        "upscale": "enlarge a small picture",
    },
}


_WITH_RESULTS = (
    *("look", "sample", "cascade", "evaluate", "attributes", "rank", "likelihood"),
)
_EDITS = tuple(_MODES)[tuple(_MODES).index("inpaint") :]


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
        _check_readable(sys.argv[1:] if argv is None else argv)
        known, overrides = make_parser().parse_known_args(argv)
        _names(overrides)  # a misspelt flag, before what is missing without it
        _check_not_empty(known)
        _check_places(known.mode, known.origin, known.goal, known.config)
        _check_out(known.mode, known.out)
        _start_hosts(known)
        with hosts.as_one():
            status = _dispatch(known, overrides)
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
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag}={text} is not a whole number.") from None

    numbers = ("num_processes", "process_id", "start_timeout", "heartbeat_timeout")
    use_compilation_cache()
    hosts.start(
        detect=known.distributed,
        coordinator=known.coordinator,
        **{name: whole(name) for name in numbers},
    )


def make_parser() -> argparse.ArgumentParser:
    """Describe the flags; options of the config are left over for `override`."""
    parser = argparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description="Train a denoising diffusion model, and draw from it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument(
        "--mode",
        choices=("train", *_MODES),
        default="train",
        help="; ".join(f"{name}: {what}" for name, what in _MODES.items()),
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="a file such as configs/digits.py, or the name of a recipe that comes "
        "with the package, such as digits",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; default runs/RECIPE"
    )
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="PLACE",
        help="import: a folder, a file of weights, or OWNER/NAME on huggingface.co",
    )
    parser.add_argument("--to", dest="goal", metavar="DIR", help="export: where to")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where results go instead of the workdir, which is then only read: "
        f"{', '.join(_WITH_RESULTS)} and the edits",
    )
    _add_hosts(parser)
    return parser


def _check_not_empty(known: argparse.Namespace) -> None:
    """Refuse `--workdir=$RUN` of a variable that is not set: it names another run."""
    names = {"origin": "from", "goal": "to"}
    for name, value in vars(known).items():
        if isinstance(value, str) and not value.strip():
            flag = names.get(name, name.replace("_", "-"))
            raise UserError(
                f"--{flag}= is empty, as of a variable that is not set; give it a "
                "value, or leave it out."
            )


def _check_places(
    mode: str, origin: str | None, goal: str | None, recipe: str | None
) -> None:
    for flag, value, of in (("from", origin, "import"), ("to", goal, "export")):
        if mode == of and not value:
            raise UserError(f"--mode={of} needs --{flag}=; see --help.")
        if mode != of and value:
            raise UserError(f"--{flag}={value} is for --mode={of}; leave it out.")
    if mode in ("import", "export") and recipe:
        raise UserError(
            f"--mode={mode} takes no recipe, got --config={recipe}; leave it out, and "
            "give single options as --config.SECTION.NAME=VALUE."
        )


def _check_out(mode: str, out: str | None) -> None:
    if out is None:
        return
    if mode not in (*_WITH_RESULTS, *_EDITS):
        raise UserError(
            f"--out={out} is for modes that leave results of a model or of data "
            f"({', '.join(_WITH_RESULTS)} and the edits); --mode={mode} writes its "
            "--workdir."
        )
    if not out:
        raise UserError("--out= names no folder; give one, or leave it out.")


def _import(origin: str, workdir: str | None, overrides: list[str]) -> int:
    folder = Path(workdir) if workdir else Path("runs") / Path(origin).resolve().stem
    asked = options.default()
    override(asked, overrides)
    from ddpm_jax.commands.import_model import import_model

    import_model(origin, folder, asked, frozenset(_names(overrides)))
    return 0


def _dispatch(known: argparse.Namespace, overrides: list[str]) -> int:
    mode, recipe, workdir = known.mode, known.config, known.workdir
    if mode == "import":
        return _import(known.origin, workdir, overrides)
    if workdir is None and recipe is None:
        raise UserError(
            "nothing to do: give --config=RECIPE to train (see configs/), or "
            "--mode=sample --workdir=DIR to draw from a trained model."
        )
    folder = Path(workdir) if workdir else Path("runs") / _stem(recipe or "")
    # What imports jax is imported here, so that --help and --mode errors come at once.
    from ddpm_jax.commands.about import trained_config
    from ddpm_jax.commands.attributes import attributes
    from ddpm_jax.commands.autoencoder import autoencoder
    from ddpm_jax.commands.cascade import cascade
    from ddpm_jax.commands.edit import edit
    from ddpm_jax.commands.evaluate import evaluate
    from ddpm_jax.commands.export_model import export_model
    from ddpm_jax.commands.features import features
    from ddpm_jax.commands.likelihood import likelihood
    from ddpm_jax.commands.look import look
    from ddpm_jax.commands.plan import plan
    from ddpm_jax.commands.rank import rank
    from ddpm_jax.commands.retrieval import retrieval
    from ddpm_jax.commands.sample import sample
    from ddpm_jax.commands.train import train

    interrupts.check()
    trained = _holds(Path.is_dir, folder / "checkpoints")  # then it carries its config
    of_recipe = {
        "features": features,
        "retrieval": retrieval,
        "autoencoder": autoencoder,
    }
    if recipe is None and (mode in of_recipe or (mode == "train" and not trained)):
        raise UserError(
            f"--mode={mode} needs a recipe; give --config=RECIPE with "
            f"--workdir={workdir}."
        )
    cfg, fixed = (trained_config(folder), {}) if recipe is None else load_recipe(recipe)
    override(cfg, overrides, fixed)
    # The same devices in every mode, whose images are then the same bytes.
    of_run = cfg[mode] if mode in of_recipe else cfg.training
    use_all_cores(of_run.batch_size)
    interrupts.check()
    out = None if known.out is None else Path(known.out)
    if mode == "train":
        return train(cfg, folder)
    if mode == "plan":
        return plan(cfg, folder)
    if mode == "look":
        return look(cfg, folder, out)
    if mode in of_recipe:
        return of_recipe[mode](cfg, folder)
    measures = {
        "evaluate": evaluate,
        "attributes": attributes,
        "rank": rank,
        "likelihood": likelihood,
    }
    if mode in measures:
        return measures[mode](cfg, folder, out)
    if mode == "export":
        export_model(cfg, folder, Path(known.goal))
    elif mode in ("sample", "cascade"):
        {"sample": sample, "cascade": cascade}[mode](cfg, folder, out)
    else:
        edit(mode, cfg, folder, out)
    return 0


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
    # A comma would divide the path where several pictures may be named.
    return "-".join([path.stem, *arguments]).replace(",", "x")


def load_recipe(recipe: str) -> tuple[ConfigDict, dict[str, str]]:
    """Import a recipe and check that its options are the known ones.

    Returns:
        The config, and options that the recipe does not let be overridden, each with
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
    wanted = (
        "a recipe defines get_config(), which changes and returns "
        "ddpm_jax.config.default()."
    )
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
    if not isinstance(loaded, ConfigDict):
        text = f"get_config() returned {type(loaded).__name__}"
        raise UserError(f"--config={recipe} cannot be read ({text}); {wanted}")
    fixed = getattr(module, "FIXED", {})
    return options.from_json(options.to_json(loaded)), fixed


def _shipped_recipes() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package."""
    package = Path(__file__).parent
    # Installed, they are within the package; in a checkout, beside it.
    folders = (package / "recipes", package.parent / "configs")
    folder = next((f for f in folders if f.is_dir()), folders[0])
    files = sorted(folder.glob("*.py"))
    return {file.stem: file for file in files if file.stem != "__init__"}


def override(
    cfg: ConfigDict,
    arguments: list[str],
    fixed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Set options from `--config.SECTION.NAME=VALUE` arguments, in place.

    Args:
        cfg: the config to change.
        arguments: of the command line.
        fixed: options that may not be given, and what to do instead.

    Raises:
        UserError: for an argument that is no such thing, an unknown option, or a value
            of a wrong type.
    """
    alone = {
        word.removeprefix("--config.")
        for word, after in itertools.zip_longest(arguments, arguments[1:])
        if "=" not in word and (after is None or after.startswith("--"))
    }
    for name in _names(arguments):
        if name in fixed:
            raise UserError(f"--config.{name} would not fit the recipe; {fixed[name]}.")
        node = cfg
        *sections, last = name.split(".")
        for depth, section in enumerate([*sections, last]):
            if not isinstance(node, ConfigDict) or section not in node:
                listed = ", ".join(sorted(node)) if isinstance(node, ConfigDict) else ""
                where = ".".join(["config", *sections[:depth]])
                raise UserError(
                    f"unknown option --config.{name}; {where} has {listed}."
                )
            node = node[section]
        if isinstance(node, ConfigDict):
            raise UserError(
                f"--config.{name} is a section; set one of {', '.join(sorted(node))}."
            )
        if name in alone and not isinstance(node, bool):
            raise UserError(
                f"--config.{name} has no value; write --config.{name}=VALUE."
            )
    values = flags.FlagValues()
    line = ["main.py", *_last_of_each(arguments)]
    config_flags.DEFINE_config_dict("config", cfg, flag_values=values, sys_argv=line)
    try:
        rest = values(line)[1:]
    except (RecursionError, MemoryError):  # of Python's parser
        raise UserError("a value is nested too deeply; give a plain one.") from None
    except (flags.Error, ValueError, TypeError) as error:
        text = re.sub(r"\s+", " ", str(error)).strip()
        raise UserError(f"{text.removesuffix('.')}; correct that option.") from error
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}; see --help.")
    options.check_ceilings(cfg)


def _last_of_each(arguments: list[str]) -> list[str]:
    """Keep the last value given to each option.

    ml_collections would join two values of a tuple into one longer tuple.
    """
    given: dict[str, list[str]] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.partition("=")[0]
            given[name] = []
        given.setdefault(name, []).append(argument)
    return [word for words in given.values() for word in words]


def _names(arguments: list[str]) -> list[str]:
    names = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue  # the value of the flag before it
        name = argument[2:].partition("=")[0]
        if not name.startswith("config."):
            raise UserError(
                f"unknown flag --{name}; the flags are --mode, --config, --workdir, "
                "--out, --from, --to, --config.SECTION.NAME, and those of --help for "
                "several processes."
            )
        names.append(name.removeprefix("config."))
    return names
