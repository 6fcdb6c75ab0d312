"""Fit, with a task of one number: what is on disk, what goes on, what stops it."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.training import checkpoints as store
from ddpm_jax.training import fit as room
from ddpm_jax.training.fit import Fit, Run, abstract_state, fit, initial_state
from ddpm_jax.training.log import read_metrics
from ddpm_jax.training.optimizers import OptimizerSpec
from ddpm_jax.training.step import gradient_task
from ddpm_jax.training.task import Task

DATA = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
RATE = 0.05


def feed(start):
    """Yield rows of a made-up kind, a pure function of the step."""
    step = start
    while True:
        rows = np.random.default_rng(step).integers(0, len(DATA), 8)
        yield {"reading": DATA[rows], "about": {"weight": np.ones(8, np.float32)}}
        step += 1


def mean_task(**others) -> Task:
    """Learn the mean of the data, with noise of the step's key."""

    def objective(params, key, batch, carry):
        noise = 0.1 * jax.random.normal(key, batch["reading"].shape)
        error = jnp.square(batch["reading"] + noise - params["mean"]).sum(-1)
        loss = (error * batch["about"]["weight"]).mean()
        return loss, ({"loss": loss}, carry + 1)

    return gradient_task(
        lambda: {"mean": jnp.zeros(3)},
        objective,
        optax.adam(RATE),
        ema_target=0.9,
        mesh=data_mesh(),
        ema_stds=(0.1,),
        carry=jnp.zeros(()),
        **others,
    )


def plan(**changes):
    whole = Fit(
        num_steps=12,
        report_every=3,
        checkpoint_every=5,
        learning_rate=RATE,
        warmup_steps=0,
        preview_every=0,
        keep_every=0,
    )
    return dataclasses.replace(whole, **changes)


def run_in(workdir, task, *, steps=feed, how=None, **of_run):
    return fit(
        task,
        steps,
        jax.random.key(3),
        plan=how or plan(),
        run=Run(workdir, {"kind": "mean"}, **of_run),
        mesh=data_mesh(),
    )


def stopped_at(step):
    """Give the loop a signal after a step."""

    @contextlib.contextmanager
    def catch(start):
        asked = [start]

        def ask():
            asked[0] += 1
            return 15 if asked[0] >= step else 0

        yield ask

    return catch


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train without an interruption; return the folder and the state."""
    workdir = tmp_path_factory.mktemp("fit") / "whole"
    ended = run_in(workdir, mean_task(finish=lambda state: {"steps": int(state.step)}))
    return workdir, jax.device_get(ended.state)


def test_a_finished_run_leaves_checkpoints_numbers_and_its_result(whole):
    workdir, state = whole
    assert store.all_steps(workdir) == [5, 10, 12]
    assert json.loads((workdir / "result.json").read_text()) == {
        "step": 12,
        "steps": 12,
    }
    records = read_metrics(workdir)
    assert [record["step"] for record in records] == [3, 6, 9, 12]
    assert all(record["learning_rate"] == np.float32(RATE) for record in records)
    assert store.read_metadata(workdir)["kind"] == "mean"
    assert float(state.carry) == 12
    # Adam's steps are no longer than the rate; after twelve the mean is on its way.
    assert 0 < np.abs(state.params["mean"]).max() <= 1.01 * 12 * RATE
    np.testing.assert_array_equal(
        store.restore_params(workdir)["mean"], state.ema_params["mean"]
    )


def test_an_interrupted_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(room, "catch_interrupts", stopped_at(7))
        ended = run_in(tmp_path, mean_task(finish=lambda state: {"never": 1}))
    assert (int(ended.state.step), ended.signal_number, ended.result) == (7, 15, {})
    assert store.latest_step(tmp_path) == 7 and not (tmp_path / "result.json").exists()
    asked = []
    ended = run_in(
        tmp_path, mean_task(), check=lambda stored, step: asked.append((stored, step))
    )
    assert asked == [({"kind": "mean"}, 7)]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ended.state), whole[1])
    assert [record["step"] for record in read_metrics(tmp_path)] == [3, 6, 7, 9, 12]


def test_a_run_that_may_not_go_on_is_left_as_it_is(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(room, "catch_interrupts", stopped_at(4))
        run_in(tmp_path, mean_task())

    def refuse(stored, step):
        raise UserError(f"other data since step {step}")

    with pytest.raises(UserError, match="other data since step 4"):
        run_in(tmp_path, mean_task(), check=refuse)
    assert store.all_steps(tmp_path) == [4]


def test_one_that_died_before_its_result_only_finishes(whole, tmp_path, monkeypatch):
    def dies(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path, mean_task(finish=dies))
    assert store.latest_step(tmp_path) == 12
    monkeypatch.setattr(room, "train_loop", None)  # would fail
    ended = run_in(tmp_path, mean_task(finish=lambda state: {"seen": 1}))
    assert ended.result == {"seen": 1}
    assert json.loads((tmp_path / "result.json").read_text()) == {"step": 12, "seen": 1}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ended.state), whole[1])


def test_a_loss_that_is_not_finite_saves_nothing_and_names_the_last_good_one(tmp_path):
    def steps(start):
        for step, batch in enumerate(feed(start), start):
            if step == 8:
                batch["reading"] = np.full((8, 3), np.nan, np.float32)
            yield batch

    with pytest.raises(UserError) as raised:
        run_in(tmp_path, mean_task(), steps=steps, advice="Try another day.")
    said = str(raised.value)
    assert "loss is nan at step 9; learning rate 0.05" in said and "\n" not in said
    assert said.endswith(f"{tmp_path / 'checkpoints' / '5'}. Try another day.")
    assert store.all_steps(tmp_path) == [5]


def test_previews_are_pictures_by_name(tmp_path):
    def preview(state):
        gray = np.full((4, 6, 1), int(state.step), np.uint8)
        return {"samples": gray, "path": np.zeros((4, 4, 3), np.uint8)}

    run_in(tmp_path, mean_task(preview=preview), how=plan(preview_every=6))
    found = sorted(path.name for path in (tmp_path / "progress").iterdir())
    assert found == [
        "step-0000006-path.png",
        "step-0000006.png",
        "step-0000012-path.png",
        "step-0000012.png",
    ]


def test_a_state_can_be_begun_elsewhere(tmp_path):
    task = mean_task()
    abstract = abstract_state(task, data_mesh())
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    fresh = initial_state(task, placed)
    begun = fresh.replace(step=jnp.int32(100), params={"mean": jnp.full(3, 5.0)})
    seen = []
    ended = run_in(
        tmp_path,
        task,
        how=plan(num_steps=102),
        begin=lambda: jax.device_get(begun),
        announce=lambda state: seen.append(int(state.step)),
    )
    assert seen == [100] and int(ended.state.step) == 102
    # Two steps of about the rate, from where it was begun.
    moved = np.abs(np.asarray(ended.state.params["mean"]) - 5.0)
    np.testing.assert_allclose(moved, 2 * RATE, rtol=0.01)


def test_the_later_step_of_a_task_is_taken_from_its_number_on(tmp_path):
    task = mean_task()

    def frozen(state, key, batch):
        _, metrics = task.step(state, key, batch)
        return state.replace(step=state.step + 1), metrics

    ended = run_in(tmp_path, task._replace(later=((4, frozen),)))
    four = run_in(tmp_path / "four", task, how=plan(num_steps=4))
    np.testing.assert_array_equal(ended.state.params["mean"], four.state.params["mean"])
    assert int(ended.state.step) == 12


# --- The spec -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 is too small; use 1 or more"),
        ({"batch_size": 2**31}, "batch_size=2147483648 is out of range"),
        ({"accumulate": 0}, "accumulate=0 is too small"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is too small; use 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive and finite"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be positive"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0 is too small"),
        ({"ema_decay": 1.0}, r"ema_decay=1.0 is not in \[0, 1\); use 0 to switch"),
        ({"ema_stds": (0.3,)}, r"ema_stds has 0.3, which is not in \(0, 0.289\]"),
        ({"ema_stds": (0.1, 0.1)}, "names an average twice"),
        ({"restarts": (5,)}, "restarts=.5,. does nothing with decay 'constant'"),
        (
            {"restarts": (5, 5), "decay": "cosine", "num_steps": 9},
            "restarts=.5, 5. are not rising steps between 0 and num_steps=9; use such",
        ),
        ({"report_every": 0}, "report_every=0 is too small; use 1"),
        ({"keep_last": 0}, "keep_last=0 is too small; use 1"),
        ({"keep_every": -1}, "keep_every=-1 is too small; use 0"),
        ({"num_steps": True}, "num_steps=True is not a number"),
        ({"batch_size": "many"}, "batch_size='many' is not a number"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Fit(**fields)


def test_the_rate_is_that_of_the_spec_and_of_a_shorter_run():
    spec = Fit(num_steps=110, learning_rate=1.0, warmup_steps=10, decay="cosine")
    rates = [float(spec.rate()(step)) for step in (0, 9, 60, 110)]
    assert rates == pytest.approx([0.1, 1.0, 0.5, 0.0], abs=1e-6)
    assert float(spec.rate(60)(35)) == pytest.approx(0.5)
    held = dataclasses.replace(spec, decay="constant")
    assert float(held.rate()(10_000)) == 1.0
    again = dataclasses.replace(spec, restarts=(60,))
    assert float(again.rate()(59)) < 0.01 < float(again.rate()(65))


def test_gradients_are_clipped_before_the_optimizer_sees_them():
    huge = {"a": jnp.array([30.0, 40.0])}
    steps = {}
    for norm in (0.0, 1.0):
        made = Fit(
            learning_rate=1.0, warmup_steps=0, optimizer=Sgd(), max_grad_norm=norm
        ).transformation()
        steps[norm] = made.update(huge, made.init(huge))[0]["a"]
    np.testing.assert_allclose(steps[0.0], [-30, -40])
    np.testing.assert_allclose(steps[1.0], [-0.6, -0.8], rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class Sgd(OptimizerSpec):
    def build(self, rate):
        return optax.sgd(rate)
