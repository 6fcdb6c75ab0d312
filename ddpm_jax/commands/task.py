"""Training a task of a kind that only its own file knows."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from ddpm_jax import assembly, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.commands.fitting import Training, already_finished, train_auxiliary
from ddpm_jax.commands.look import first_look, open_to_train
from ddpm_jax.tasks.spec import TaskSpec


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
    training = Training(auxiliary.kind_named(cfg.kind), "the model", fit)
    found = already_finished(cfg, workdir, training, source.fingerprint)
    if found is not None:
        print(f"{workdir} is finished: {found['step']} steps. Nothing to do.")
        return 0
    ended = train_auxiliary(
        cfg,
        workdir,
        training,
        spec.build(source, fit, mesh),
        source=data.ready(source),
        fingerprint=source.fingerprint,
        key=assembly.train_key(cfg.seed),
    )
    if ended.signal_number:
        return 128 + ended.signal_number
    facts = json.dumps(ended.result) if ended.result else "nothing"
    print(f"{workdir} is trained; it has found {facts}.")
    return 0
