"""Every script runs on the tiny recipe, and its numbers agree with each other."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from program import TINY_UNET

from benchmarks import data, evaluate, optimizers, precision, sample, table, train
from ddpm_jax.training.state import TrainState

SMALL_MATMUL = "--matmul-side=64"


def run(script, tmp_path, capsys, *flags):
    """Run a script; return its record, and the table that is made of the file."""
    path = tmp_path / "deep" / "record.json"
    capsys.readouterr()
    assert script.main([f"--config={TINY_UNET}", f"--out={path}", *flags]) == 0
    printed = capsys.readouterr().out
    assert table.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() in printed, "a file gives the table that the run printed"
    record = json.loads(path.read_text())
    assert record["devices"] == {
        "count": 1, "kind": "cpu", "platform": "cpu",
        "threads": record["hardware"]["cores"],
    }  # fmt: skip
    assert record["versions"]["jax"] and record["hardware"]["cpu"]
    assert f"benchmarks.{record['benchmark']} --config={TINY_UNET}" in record["command"]
    assert record["command"] in shown
    return record["results"], shown


def test_train(tmp_path, capsys):
    profile = tmp_path / "profile"
    it, shown = run(
        train, tmp_path, capsys, "--num-steps=4", SMALL_MATMUL, f"--profile={profile}"
    )
    step = it["step_seconds"]
    assert step["count"] == 4
    assert step["least"] <= step["median"] <= step["greatest"]
    assert it["batch_size"] == 8
    assert it["images_per_second"] == pytest.approx(8 / step["median"])
    # 3x3 convolutions and 1x1 ones, forward; in training nearly three times as much.
    assert 2.5 < it["step_flops_per_image"] / it["forward_flops_per_image"] < 3
    # XLA counts norms and sums too, and no products with the zeros of a border.
    assert 0.5 < it["xla_step_flops_per_image"] / it["step_flops_per_image"] < 2
    rate = 8 * it["step_flops_per_image"] / step["median"]
    assert it["flops_per_second"] == pytest.approx(rate)
    assert it["share_of_matmul"] == pytest.approx(
        rate / it["matmul"]["flops_per_second"]
    )
    assert it["loop"]["wait_seconds"]["count"] == 4  # all but the first
    assert 0 < it["loop"]["wait_share"] < 1
    assert it["loop"]["seconds_per_step"] > 0
    # Parameters, their average and Adam's two moments, float32.
    assert it["compiled_memory"]["argument"] > 4 * 4 * it["num_parameters"]
    assert it["peak_memory"]["process_peak"] > 10e6
    assert list(profile.rglob("*.xplane.pb"))
    assert "| tiny_unet, float32 | 8 |" in shown
    it, shown = run(train, tmp_path, capsys, "--num-steps=2", SMALL_MATMUL, "--cached")
    # From the cache alone: no time from nothing to speak of.
    assert list(it["compile_seconds"]) == ["second_start"]
    assert f"| ({it['compile_seconds']['second_start']:.1f}) |" in shown


def test_sample(tmp_path, capsys):
    it, shown = run(
        sample, tmp_path, capsys, "--num-steps=5", "--num-turns=2", SMALL_MATMUL,
        "--config.sample.guidance_scale=2",
    )  # fmt: skip
    # Counted in the whole drawing and in one pass of the network, apart: guidance
    # takes two passes a step.
    assert it["num_steps"] == 5
    assert it["forward_passes"] == 10
    draw = it["draw_seconds"]["median"]
    assert it["draw_over_forward_passes"]["count"] == 2
    assert it["images_per_second"] == pytest.approx(it["batch_size"] / draw)
    assert it["share_of_matmul"] == pytest.approx(
        10 * it["batch_size"] * it["forward_flops_per_image"]
        / draw / it["matmul"]["flops_per_second"]
    )  # fmt: skip
    assert "ancestral, 5 steps" in shown


def test_data(tmp_path, capsys):
    it, shown = run(
        data, tmp_path, capsys, "--sources=digits,folder,no_such_data",
        "--num-batches=4", "--step-ms=1", "--folder-images=12", "--folder-side=32",
        "--image-size=16", "--batch-size=8",
    )  # fmt: skip
    assert it["batch_size"] == 8
    assert list(it["sources"]) == ["digits", "folder"]
    assert "no_such_data" in it["left_out"]
    digits, folder = it["sources"].values()
    assert (digits["num_images"], digits["image_shape"]) == (1498, "8x8x1")
    assert (folder["num_images"], folder["image_shape"]) == (12, "16x16x3")
    assert "files" not in digits, "they are in memory from the start"
    for way in (digits["memory"], folder["memory"], folder["files"]):
        for one in way.values():
            assert one["images_per_second"] == pytest.approx(
                8 * one["batches_per_second"]
            )
            assert one["wait_seconds"]["count"] == 4
            assert 0 < one["wait_share"] < 1
        assert way["asked"]["threads"] == 0 < way["prefetched"]["threads"]
    assert shown.count("| folder |") == 2


def test_evaluate(tmp_path, capsys):
    it, shown = run(
        evaluate, tmp_path, capsys, "--networks=classifier", "--num-batches=2",
        "--batch-size=4", "--num-vectors=101", "--num-features=8", "--num-repeats=1",
    )  # fmt: skip
    (network,) = it["features"].values()
    assert network["images_per_second"] == pytest.approx(
        4 / network["batch_seconds"]["median"]
    )
    assert set(it["score_seconds"]) == set(evaluate.SCORES)
    assert "| kernel | 101 x 8 |" in shown


def test_precision(tmp_path, capsys, monkeypatch):
    """With float32 in place of bfloat16, whose compilation would take long."""
    runs = {"float32": ("float32", 0), "bfloat16": ("float32", 0)}
    monkeypatch.setattr(
        precision, "RUNS", runs | {"another_seed": precision.RUNS["another_seed"]}
    )
    it, shown = run(precision, tmp_path, capsys, "--num-steps=4", "--window=2")
    losses = it["smoothed_losses"]
    assert {name: len(curve) for name, curve in losses.items()} == dict.fromkeys(
        precision.RUNS, 3
    )
    # The same parameters, batches and noise give the same losses; another seed not.
    assert it["distance"]["bfloat16"] == 0 < it["distance"]["another_seed"]
    assert it["indistinguishable"] is True
    assert f"{it['last_loss']['another_seed']:.5f}" in shown


def test_each_run_of_precision_is_what_its_name_says(monkeypatch, capsys, tmp_path):
    """With losses that are made up: bfloat16 is off by 1%, another seed by 2."""

    def made_up(recipe, num_steps):
        spec = recipe.task
        off = {"float32": 0, "bfloat16": 0.01}[spec.network.dtype] + 0.02 * spec.seed
        return (1 + off) / np.arange(1.0, num_steps + 1)

    monkeypatch.setattr(precision, "train", made_up)
    it, shown = run(precision, tmp_path, capsys, "--num-steps=6", "--window=3")
    assert it["distance"] == pytest.approx({"bfloat16": 0.01, "another_seed": 0.02})
    assert it["last_loss"]["float32"] == pytest.approx((1 / 4 + 1 / 5 + 1 / 6) / 3)
    assert "| 1.00% | 2.00% |" in shown


def test_optimizers(tmp_path, capsys):
    flags = ["--num-steps=4", "--rates=1e-3,1e-2", "--optimizers=adam,schedule_free"]
    it, shown = run(optimizers, tmp_path, capsys, *flags)
    rows = {(row["name"], row["rate"]): row for row in it["rows"]}
    assert list(rows) == [
        (name, rate) for name in ("adam", "schedule_free") for rate in (1e-3, 1e-2)
    ]
    # From the same parameters, and evaluated on the same batches and noise.
    assert len({row["loss"] for row in it["rows"]}) == 4
    assert f"| adam | 0.001 | 0 | {rows['adam', 1e-3]['loss']:.5f} |" in shown


def test_a_schedule_free_optimizer_is_evaluated_at_its_average():
    """On a quadratic at b1 = 1/2: x is the mean of z, and y halfway between both."""
    spec = optimizers.ScheduleFree(b1=0.5)
    optimizer = spec.build(lambda count: 0.1)
    y, points = jnp.asarray([1.0, -2.0]), []
    state = optimizer.init(y)
    for _ in range(20):
        updates, state = optimizer.update(2 * y, state, y)
        y = optax.apply_updates(y, updates)
        points.append(np.asarray(state.z))
    train_state = TrainState(20, y, y, (optax.EmptyState(), state))
    x = optimizers.evaluation_params(train_state)
    np.testing.assert_allclose(x, np.mean(points, axis=0), atol=1e-5)
    assert np.abs(x - y).max() > 1e-3
    plain = TrainState(20, y, y, optax.adam(0.1).init(y))
    np.testing.assert_array_equal(optimizers.evaluation_params(plain), y)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (train, ["--batch-size=0"], "--batch-size=0 is too small"),
        (
            train,
            ["--config.conditioners.grey.kind=grey"],
            "has conditioners.grey.kind=grey",
        ),
        (
            train,
            ["--config.conditioners.text.kind=words"],
            "has conditioners.text.kind=words",
        ),
        (train, ["--num-steps=1"], "--num-steps=1 is too small"),
        (
            train,
            ["--config.network.chanels=3"],
            "unknown option config.network.chanels",
        ),
        (
            train,
            ["--config.codec.kind=latents", "--config.codec.run=runs/encoder"],
            "has codec.kind=latents",
        ),
        (train, ["--config=configs/digits_features.py"], "has kind=classifier"),
        (sample, ["--num-turns=0"], "--num-turns=0 is too small"),
        (sample, ["--num-steps=99"], "99"),
        (data, ["--sources=no_such_data"], "none of --sources=no_such_data"),
        (evaluate, ["--networks=vgg"], "--networks has 'vgg'"),
        (precision, ["--num-steps=3"], "less than --window=250"),
        (optimizers, ["--optimizers=adam,sgdd"], "--optimizers has 'sgdd'"),
        (optimizers, ["--rates=fast"], "--rates=fast is not a list of numbers"),
        (train, [f"--out={TINY_UNET}/record.json"], "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(script, flags, message, capsys):
    assert script.main([f"--config={TINY_UNET}", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ") and said.count("\n") == 1


def test_a_file_that_is_no_record_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"benchmark": "other"}')
    assert table.main([str(path)]) == 2
    assert "is no record of a benchmark" in capsys.readouterr().err
