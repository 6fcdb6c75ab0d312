"""The requests of `options`, `look` and `plan`, which take the line of a training."""

from ddpm_jax.requests.options import Request, WithResults, place, request


@request()
class Look(WithResults):
    """Look at the data: counts, sizes, broken files, a contact sheet.

    python main.py look --config=configs/folder.py:64 --config.data.source=folder:photos
    """

    run: str | None = place(None, "folder of the run; unset: runs/RECIPE")
    workdir: str | None = place(
        None, "another word for RUN, as in training", positional=False
    )


@request()
class Options(Request):
    """List the options of a recipe, with their values and what they are.

    python main.py options --config=configs/digits.py
    """

    run: str | None = place(None, "folder of a run; unset: of the recipe")


@request()
class Plan(Request):
    """Estimate what training takes: parameters, memory, time.

    python main.py plan --config=configs/cifar.py
    """

    run: str | None = place(None, "folder of the run; unset: runs/RECIPE")
    workdir: str | None = place(
        None, "another word for RUN, as in training", positional=False
    )
