"""Programs that are kept: the same for the same parts, another for any other part."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from settings import changed, default

from ddpm_jax import assembly, recipe
from ddpm_jax.assembly.programs import kept
from ddpm_jax.data.info import DataInfo
from ddpm_jax.recipe import Cosine
from ddpm_jax.runtime.devices import data_mesh

INFO = DataInfo("digits", (8, 8, 1), tuple("0123456789"), "one")
SMALL = (
    *("network.channels=8", "network.num_groups=4", "network.num_res_blocks=1"),
    *("network.channel_multipliers=1,", "network.attention_resolutions="),
    *("training.warmup_steps=2", "training.num_steps=10"),
)


def task(made, info=INFO):
    return assembly.diffusion_task(made.task, made.training, info, data_mesh())


def test_runs_of_one_spec_share_their_step():
    made = default(*SMALL)
    same = (
        *("seed=3", "training.report_every=7", "training.checkpoint_every=2"),
        *("data.source=cifar10", "sample.num_images=3", "training.num_steps=11"),
    )
    first, second = task(made), task(changed(made, *same))
    assert first.step is second.step and first.start is second.start
    moved = dataclasses.replace(INFO, name="elsewhere", fingerprint="two")
    assert task(made, moved).step is first.step


@pytest.mark.parametrize(
    "option",
    [
        *("network.dropout=0.3", "schedule.kind=cosine", "prediction=v"),
        *(
            "loss.kind=min_snr",
            "times.kind=stratified",
            "conditioners.label.kind=label",
        ),
        *("training.learning_rate=1e-3", "training.accumulate=2", "data.flip=False"),
        *("training.ema_decay=0.5", "training.ema_stds=0.05,"),
        *("training.optimizer.b2=0.99", "training.max_grad_norm=0"),
        "training.decay=cosine",
    ],
)
def test_another_option_is_another_step(option):
    made = default(*SMALL)
    assert task(made).step is not task(changed(made, option)).step


def test_a_cosine_decay_ends_with_its_run():
    made = default(*SMALL, "training.decay=cosine")
    longer = changed(made, "training.num_steps=20")
    assert task(made).step is not task(longer).step


def test_other_data_are_another_step():
    made = default(*SMALL)
    floats = dataclasses.replace(INFO, dtype="float32")
    assert task(made).step is not task(made, floats).step


def test_parameters_are_those_of_the_seed():
    made = default(*SMALL)
    first, again, other = (
        task(c).draw() for c in (made, made, changed(made, "seed=1"))
    )
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, first, other))


def test_another_class_of_the_same_kind_is_another_program():
    def register():
        class Twice(Cosine):
            pass

        return recipe.register(dataclasses.dataclass(frozen=True)(Twice), "twice")

    made = []
    for _ in range(2):
        register()
        spec = default(*SMALL, "schedule.kind=twice").task
        made.append(kept("thing", spec, INFO, object))
    assert made[0] is not made[1]


def test_the_least_recently_used_is_let_go():
    spec = default(*SMALL).task
    first = kept("0", spec, INFO, object)
    for i in range(1, 40):
        kept(str(i), spec, INFO, object)
    assert kept("0", spec, INFO, object) is not first
