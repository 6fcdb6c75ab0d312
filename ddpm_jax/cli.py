"""The command line: flags in, one call into `commands`, an exit status out.

Exit status: 0 done; 2 something the user can fix, said in one line; 128 + n saved and
stopped by signal n (130 for Ctrl-C, 143 for SIGTERM); 1 a defect, with its traceback.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from ddpm_jax import config as options
from ddpm_jax.errors import UserError
from ddpm_jax.files import cache_folder

# Each holds a copy of parameters and optimiser.
_MAX_CPU_DEVICES = 8

_EPILOG = """\
examples:
  python main.py --config=configs/digits.py --workdir=runs/digits
  python main.py --config=configs/cifar.py --config.training.batch_size=256
  python main.py --mode=sample --workdir=runs/digits --config.sample.labels=7
  python main.py --mode=inpaint --workdir=runs/digits \\
      --config.edit.image=digit.png --config.edit.mask=mask.png

Any option of the config can be set as --config.SECTION.NAME=VALUE; ddpm_jax/config.py
lists them all. All modes but train need no --config: a checkpoint carries its own.
"""

# What can be done with a trained model; those of the second half are edits.
_MODES = {
    "sample": "draw images",
    "evaluate": "score images against real ones: FID, KID, precision, ...",
    "features": "train a small classifier, through whose eyes to evaluate",
    "likelihood": "measure bits per dimension of a split of the data",
    **{
        "inpaint": "fill the masked part of a picture",
        "image-to-image": "noise a picture to some level, and back (SDEdit)",
        "interpolate": "walk from one picture to another",
        "encode": "turn a picture into its noise, and back (DDIM inversion)",
        "colorize": "give a grey picture its colours",
        "upscale": "enlarge a small picture",
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Train a denoising diffusion model, and draw from it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode",
        choices=("train", *_MODES),
        default="train",
        help="; ".join(f"{name}: {what}" for name, what in _MODES.items()),
    )
    parser.add_argument("--config", metavar="FILE", help="a recipe, such as configs/*")
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; default runs/RECIPE"
    )
    known, overrides = parser.parse_known_args(argv)
    try:
        return _dispatch(known.mode, known.config, known.workdir, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        return 130


def _dispatch(
    mode: str, recipe: str | None, workdir: str | None, overrides: list[str]
) -> int:
    if workdir is None and recipe is None:
        raise UserError(
            "nothing to do: give --config=FILE to train (see configs/), or "
            "--mode=sample --workdir=DIR to draw from a trained model."
        )
    folder = Path(workdir) if workdir else Path("runs") / Path(recipe).stem
    use_compilation_cache()
    # What imports jax is imported here, so that --help and --mode errors come at once.
    from ddpm_jax.commands.about import trained_config
    from ddpm_jax.commands.edit import edit
    from ddpm_jax.commands.evaluate import evaluate
    from ddpm_jax.commands.features import features
    from ddpm_jax.commands.likelihood import likelihood
    from ddpm_jax.commands.sample import sample
    from ddpm_jax.commands.train import train

    if recipe is None and mode in ("train", "features"):
        raise UserError(
            f"--mode={mode} needs a recipe; give --config=FILE with "
            f"--workdir={workdir}."
        )
    cfg = trained_config(folder) if recipe is None else _load(recipe)
    override(cfg, overrides)
    # The same devices in every mode, whose images are then the same bytes.
    of_run = cfg.features if mode == "features" else cfg.training
    use_all_cores(of_run.batch_size)
    if mode == "train":
        return train(cfg, folder)
    if mode == "features":
        return features(cfg, folder)
    if mode == "evaluate":
        return evaluate(cfg, folder)
    if mode == "likelihood":
        return likelihood(cfg, folder)
    if mode == "sample":
        sample(cfg, folder)
    else:
        edit(mode, cfg, folder)
    return 0


def use_compilation_cache() -> None:
    """Keep all compiled programs between runs, where the user has not chosen otherwise.

    JAX keeps those that took a second to compile. A run has a hundred small ones beside
    them, which together take as long.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    smallest = {
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in smallest.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def use_all_cores(batch_size: int) -> None:
    """Make a device of each CPU core, as far as a batch can be spread over them.

    XLA runs one device's program on the CPU with little parallelism between or within
    operations as small as these. Measured with jaxlib 0.10.2 on two cores, a step of
    configs/digits.py took 303 ms on one device and 166 ms on two. Where there is a GPU
    or TPU, CPU devices are not used, and this has no effect.
    """
    flags_of_xla = os.environ.get("XLA_FLAGS", "")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device" in flags_of_xla:
        return
    import jax

    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    most = min(cores, _MAX_CPU_DEVICES)
    fits = [n for n in range(1, most + 1) if batch_size % n == 0]
    # A program that calls `main` may have used JAX already, and then it is too late.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(fits))


def _load(recipe: str) -> ConfigDict:
    """Import a recipe and check that its options are the known ones."""
    path = Path(recipe)
    if not path.is_file():
        beside = sorted(p.stem for p in Path("configs").glob("*.py"))
        listed = f"; configs/ has {', '.join(beside)}" if beside else ""
        raise UserError(f"--config={recipe} is not a file{listed}.")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None:
        raise UserError(
            f"--config={recipe} is not a Python file; a recipe ends in .py."
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        loaded = module.get_config()
        if not isinstance(loaded, ConfigDict):
            raise TypeError(f"get_config() returned {type(loaded).__name__}")
    except UserError:
        raise
    except Exception as error:  # a recipe is the user's own program
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--config={recipe} cannot be read ({text}); a recipe defines "
            "get_config(), which changes and returns ddpm_jax.config.default()."
        ) from error
    return options.from_json(options.to_json(loaded))


def override(cfg: ConfigDict, arguments: list[str]) -> None:
    """Set options from `--config.SECTION.NAME=VALUE` arguments, in place.

    Raises:
        UserError: for an argument that is no such thing, an unknown option, or a value
            of a wrong type.
    """
    for name in _names(arguments):
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
    values = flags.FlagValues()
    line = ["main.py", *arguments]
    config_flags.DEFINE_config_dict("config", cfg, flag_values=values, sys_argv=line)
    try:
        rest = values(line)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        text = re.sub(r"\s+", " ", str(error)).strip()
        raise UserError(f"{text.removesuffix('.')}; correct that option.") from error
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}; see --help.")


def _names(arguments: list[str]) -> list[str]:
    names = []
    for argument in arguments:
        if not argument.startswith("--"):
            continue  # the value of the flag before it
        name = argument[2:].partition("=")[0]
        if not name.startswith("config."):
            raise UserError(
                f"unknown flag --{name}; the flags are --mode, --config, --workdir and "
                "--config.SECTION.NAME."
            )
        names.append(name.removeprefix("config."))
    return names
