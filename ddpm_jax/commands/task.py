"""Training a task of a kind that only its own file knows."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.commands.fitting import Training, already_finished, train_auxiliary
from ddpm_jax.commands.look import first_look, open_to_train
from ddpm_jax.tasks.spec import TaskSpec


def kind_of(cfg: ConfigDict) -> auxiliary.Kind:
    """Say how to speak of the models of a config's kind."""
    name: str = cfg.kind
    noun = f"a model of kind {name}"
    return auxiliary.Kind(name=name, mode=name, noun=noun, verb="train", facts=set())


def task(cfg: ConfigDict, workdir: Path) -> int:
    """Train a task to the end of its config, or go on where it stopped.

    Args:
        cfg: its `kind` is that of a registered `TaskSpec`.
        workdir: of the run.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    source = open_to_train(cfg, workdir)
    for line in first_look(cfg, source, workdir):
        print(line, flush=True)
    assembly.check_batch(cfg)
    spec, fit = assembly.task_spec(cfg, TaskSpec), assembly.fit_spec(cfg)
    mesh = assembly.mesh(cfg)
    built = spec.build(source, fit, mesh)
    training = Training(kind_of(cfg), "the model", fit)
    found = already_finished(cfg, workdir, training, source.fingerprint)
    if found is not None:
        print(f"{workdir} is finished: {found['step']} steps. Nothing to do.")
        return 0
    ended = train_auxiliary(
        cfg,
        workdir,
        training,
        built,
        source=data.ready(source),
        fingerprint=source.fingerprint,
        key=assembly.train_key(cfg),
    )
    if ended.signal_number:
        return 128 + ended.signal_number
    facts = json.dumps(ended.result) if ended.result else "nothing"
    print(f"{workdir} is trained; it has found {facts}.")
    return 0
