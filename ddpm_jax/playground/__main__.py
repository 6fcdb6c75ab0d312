"""`python -m ddpm_jax.playground --workdir=DIR`: options in, a server until Ctrl-C.

Exit status: 0 when a signal ends it, 2 if the user can fix what is wrong.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from ddpm_jax.cli import override
from ddpm_jax.errors import UserError
from ddpm_jax.playground.gate import check_hosts
from ddpm_jax.runtime import interrupts
from ddpm_jax.runtime.files import printable
from ddpm_jax.runtime.startup import use_all_cores, use_compilation_cache


def main(argv: list[str] | None = None) -> int:
    """Run the playground.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ddpm_jax.playground",
        description="Sample from a trained model on a web page of this machine, or "
        "train one there on points that you draw.",
        epilog="Options of the model can be set as --config.SECTION.NAME=VALUE.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", help="folder of a trained model; without it, the Points tab alone"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="of 127.0.0.1; 0: any that is free"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="of a proxy that serves the page to others, with a password of its own",
    )
    known, overrides = parser.parse_known_args(argv)
    try:
        hosts = check_hosts(known.allow_host)
        workdir = None if known.workdir is None else Path(known.workdir)
        _run(workdir, known.port, hosts, overrides)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except interrupts.Interrupted as stop:  # while it starts
        interrupts.end(stop.number)
    return 0


def _run(
    workdir: Path | None, port: int, hosts: frozenset[str], overrides: list[str]
) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "the page needs gradio; run `make playground`, or "
            "`pip install -r requirements-app.txt`."
        )
    use_compilation_cache()
    # What imports jax is imported here, so that --help and errors come at once.
    from ddpm_jax import assembly
    from ddpm_jax.commands.about import trained_recipe
    from ddpm_jax.commands.model import open_model
    from ddpm_jax.playground.jobs import open_studio
    from ddpm_jax.playground.server import check_port, serve
    from ddpm_jax.recipe import Diffusion
    from ddpm_jax.requests import Sample

    check_port(port)
    if workdir is None:
        if overrides:
            raise UserError(
                f"{overrides[0]} is of a model, and none is named; give --workdir=DIR "
                "as well."
            )
        use_all_cores(1)
        serve(None, port, hosts)
        return
    recipe = trained_recipe(workdir)
    if not isinstance(recipe.task, Diffusion):
        raise UserError(
            f"the page draws from a diffusion model, and {workdir} holds another kind "
            f"({recipe.kind}); name the run of a diffusion model."
        )
    recipe = override(recipe, overrides)
    # The devices of the command line, whose images are then the same bytes.
    use_all_cores(recipe.training.batch_size)
    asked = recipe.request(Sample, run=str(workdir))
    trained = open_model(recipe, asked, workdir)
    assembly.check_sample(recipe.task, trained.info, asked)
    studio = open_studio(recipe, workdir, trained)
    interrupts.check()
    serve(studio, port, hosts)


if __name__ == "__main__":
    interrupts.install()
    sys.exit(main())
