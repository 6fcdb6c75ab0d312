"""Training: from a recipe to a finished run, however often it is interrupted."""

import dataclasses
from functools import partial
from pathlib import Path

import jax

from ddpm_jax import assembly, data
from ddpm_jax.assembly.auxiliary import DIFFUSION, refuse_another_kind
from ddpm_jax.commands import about
from ddpm_jax.commands.begin import (
    check_defaults,
    check_resumed,
    check_start,
    free_since_import,
    from_import,
    settle,
    start_params,
)
from ddpm_jax.commands.drawing import sample_request, save_forward
from ddpm_jax.commands.encoding import keep_runs, prepared, runs_of
from ddpm_jax.commands.fitting import (
    FREE_OPTIONS,
    beginning,
    check_tracker,
    feed_of,
    fit_in_workdir,
    free_spelling,
    plot_loss,
    refuse_another_config,
)
from ddpm_jax.commands.look import (
    describe_items,
    first_look,
    open_to_train,
    write_sheet,
)
from ddpm_jax.commands.model import find_model
from ddpm_jax.commands.parameters import check_profiles
from ddpm_jax.commands.plan import refuse_beyond_memory, short_plan
from ddpm_jax.commands.sample import make_preview, sample
from ddpm_jax.diffusion.few_steps import FewStepSpec
from ddpm_jax.recipe import Diffusion, Fit, Recipe
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.devices import (
    data_mesh,
    describe,
    on_every_host,
    wait_for_all_hosts,
)
from ddpm_jax.runtime.results import LAST_FILE, find_result
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training.fit import Run
from ddpm_jax.training.state import TrainState

# A run may be taken up again with other values of these, and stays the same run.
_FREE_OPTIONS = (*about.FREE_OPTIONS, *FREE_OPTIONS, "preview_steps")


def train(recipe: Recipe[Diffusion], workdir: Path) -> int:
    """Train to the end of the recipe, or go on from where a run stopped.

    Returns:
        0 if the run is finished, else 128 plus the number of the signal that
        interrupted it, its state saved.

    Raises:
        UserError: if recipe, data or workdir do not fit; before any compile.
    """
    refuse_another_kind(workdir, DIFFUSION, "the diffusion model")
    spec = recipe.task
    source = open_to_train(spec.data, workdir)
    opened = runs_of(spec, workdir)
    info = assembly.data_info(source, spec, opened)
    assembly.check(spec, info)
    assembly.check_images(spec, source, opened)
    asked = check_defaults(recipe, info)
    assembly.check_training_effects(spec, recipe.training, info)
    assembly.check_batch(recipe.training)
    mesh = data_mesh(recipe.devices.fsdp)
    check_profiles(asked.ema_std, recipe.training.ema_stds)
    now = recipe
    recipe = refuse_another_config(
        now,
        workdir,
        _free(workdir, now, info.fingerprint),
        lambda stored, newest: settle(
            now, stored, None if about.is_import(workdir) else newest
        ),
    )
    newest = store.latest_step(workdir)
    done = newest is not None and newest >= recipe.training.num_steps
    if newest is not None and done and about.is_whole(workdir, newest):
        return _already_trained(recipe, asked, workdir, newest)
    if newest is None:
        begun = check_start(recipe.task, info, workdir)
        task = dataclasses.replace(recipe.task, init_from=begun)
        recipe = dataclasses.replace(recipe, task=task)
    spec, fit = recipe.task, recipe.training
    refuse_beyond_memory(spec, fit, recipe.devices.fsdp, info)
    check_tracker(fit.wandb)
    looked = first_look(spec.data, source, workdir)
    fed = prepared(spec, source, opened, _say)
    captions = _read_captions(spec, info, source)
    feed = feed_of(recipe, fed.items, mesh, captions, fed.beside)
    with beginning(recipe, workdir) as check_alone:
        keep_runs(opened, workdir)
        wait_for_all_hosts("the frozen models in the workdir")
        model = assembly.build_model(spec, info, mesh, workdir)

        def announce(state: TrainState) -> None:
            _announce(model, fit, workdir, source, state)
            if source.listing is not None:
                _say("\n".join([*looked, *short_plan(spec, fit, info)]))
                write_sheet(source, workdir)
            save_forward(model, asked, workdir, source)

        run = Run(
            workdir=workdir,
            metadata=about.metadata(recipe, info),
            check=partial(check_resumed, recipe, info, workdir),
            begin=partial(from_import, recipe, info, workdir),
            draw=(lambda: start_params(spec, info)) if spec.init_from else None,
            announce=announce,
            before_save=check_alone,
            advice="Lower config.training.learning_rate or raise warmup_steps, in "
            "another --workdir.",
        )
        preview = make_preview(model, asked) if fit.preview_every else None
        ended = fit_in_workdir(
            recipe,
            assembly.diffusion_task(spec, fit, info, mesh, preview),
            feed,
            run=run,
            mesh=mesh,
        )
    if ended.signal_number:
        return 128 + ended.signal_number
    sample(recipe, asked, workdir)
    return 0


def _already_trained(
    recipe: Recipe[Diffusion], asked: Sample, workdir: Path, steps: int
) -> int:
    if not (workdir / "loss.png").exists():  # killed just before it was drawn
        plot_loss(workdir)
    found = find_model(recipe.task, asked, workdir)
    folder = find_result(workdir / "samples", sample_request(found, asked))
    drawn = folder is not None and (folder / LAST_FILE).exists()
    if on_every_host(drawn):
        print(
            f"{workdir} is finished: {steps} steps. Its pictures are in {folder}. "
            "Nothing to do."
        )
        return 0
    print(f"{workdir} is trained: {steps} steps. Drawing from it.")
    sample(recipe, asked, workdir)
    return 0


def _free(
    workdir: Path, recipe: Recipe[Diffusion], fingerprint: str
) -> tuple[str, ...]:
    """List the options with other values of which a run here stays the same run.

    Where the data of now have the fingerprint of the run's, their folder may have been
    moved, or be spelled otherwise.
    """
    free = (*_FREE_OPTIONS, *free_since_import(workdir))
    free = (*free, *free_spelling(workdir, fingerprint))
    # Else the length is part of the rate, or of the stages of the loss.
    is_free = recipe.training.decay == "constant"
    is_free &= not isinstance(recipe.task.loss, FewStepSpec)
    return (*free, "training.num_steps") if is_free else free


# --- The run --------------------------------------------------------------------------


def _read_captions(
    spec: Diffusion, info: assembly.DataInfo, source: data.Dataset
) -> assembly.Captions | None:
    """Read the captions of the data, for a text-conditional model."""
    if spec.text is None:
        return None
    return assembly.captions(info, source.texts or ())


def _say(line: str) -> None:
    print(line, flush=True)


def _announce(
    model: assembly.Model,
    fit: Fit,
    workdir: Path,
    source: data.Dataset,
    state: TrainState,
) -> None:
    spec, info, step = model.spec, model.info, int(state.step)
    shape = "x".join(map(str, info.item_shape))
    if info.latents is not None:
        inner = "x".join(map(str, info.shape))
        shape += f", in latents of {inner} of {info.latents.name}"
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    classes = assembly.num_classes(spec, info)
    conditions = [f"{classes} classes"] if classes else []
    if info.tokenizer is not None:
        kind, length = info.tokenizer["kind"], info.tokenizer["max_length"]
        conditions.append(f"captions of up to {length} tokens ({kind})")
    conditions += [name for name in spec.conditioners if name not in ("label", "text")]
    what = describe_items(source)
    resumed = ", resumed" if step else ""
    lines = (
        f"data     {info.name}, {len(source):,} {what} of {shape}. {source.note}",
        f"network  {count:,} parameters, {', '.join(conditions) or 'unconditional'}",
        f"device   {describe()}, {assembly.dtype(spec)}",
        f"run      {workdir}, step {step:,} of {fit.num_steps:,}{resumed}",
    )
    print("\n".join(line.rstrip() for line in lines), flush=True)
