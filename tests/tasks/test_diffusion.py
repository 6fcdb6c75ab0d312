"""What a run descends, its metrics and its memory; and that options mean what they say.

The losses here are functions of the level alone, so that means over levels are known.
"""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from settings import default

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.label import Label
from ddpm_jax.conditioning.self_conditioning import SelfConditioning
from ddpm_jax.diffusion import (
    loss_weights,
    losses,
    process,
    schedules,
    time_sampling,
)
from ddpm_jax.diffusion.process import X0
from ddpm_jax.diffusion.self_conditioning import self_condition_half
from ddpm_jax.diffusion.time_sampling import Importance
from ddpm_jax.diffusion.variational_bound import decoder_variance
from ddpm_jax.errors import UserError
from ddpm_jax.tasks.diffusion import Diffusion, make_objective, summarize

T = 8
BY_LEVEL = np.array([50.0, 20.0, 5.0, 1.0, 0.5, 0.2, 0.1, 0.05])
QUARTILES = np.array([35.0, 3.0, 0.35, 0.075])


def loss_of_level(output, noised):
    return jnp.asarray(BY_LEVEL, jnp.float32)[noised.index] + 0 * output[:, 0, 0, 0]


def objective(sampler):
    return make_objective(
        lambda params, x_t, t, cond, dropout_key: params * x_t,
        schedules.from_betas(np.full(T, 0.1)),
        loss_of_level,
        times=sampler,
    )


def batch(size):
    return {"image": np.zeros((size, 1, 1, 1), np.uint8)}


def full_history():
    """As if each level had shown its loss ten times."""
    losses = np.tile(BY_LEVEL[:, None], (1, 10)).astype(np.float32)
    return time_sampling.History(losses, np.full(T, 10, np.int32))


# --- Levels of unequal weight ---------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "importance"])
def test_loss_and_quartiles_are_means_over_levels_however_they_are_drawn(name):
    sampler = (
        time_sampling.UNIFORM if name == "uniform" else time_sampling.importance(T)
    )
    memory = () if name == "uniform" else full_history()
    num, runs = 2000, 40
    run = jax.jit(objective(sampler))
    loss, totals, counts = [], [], []
    for seed in range(runs):
        value, (metrics, _) = run(1.0, jax.random.key(seed), batch(num), memory)
        assert value == metrics["loss"]
        loss.append(float(value))
        totals.append(np.asarray(metrics["quartile_sum"], np.float64))
        counts.append(np.asarray(metrics["quartile_count"], np.float64))
    error = np.std(loss) / np.sqrt(runs)
    assert abs(np.mean(loss) - BY_LEVEL.mean()) < 4 * error
    totals, counts, expected = np.array(totals), np.array(counts), QUARTILES
    off = totals - expected * counts  # of mean 0
    assert np.all(np.abs(off.mean(0)) < 4 * off.std(0) / np.sqrt(runs))
    np.testing.assert_allclose(totals.sum(0) / counts.sum(0), expected, rtol=0.2)
    # Counts stand for examples of even levels: a quarter of the batch each.
    errors = np.std(counts, axis=0) / np.sqrt(runs)
    assert np.all(np.abs(counts.mean(0) - num / 4) < 4 * errors)
    spread = np.std(loss) / BY_LEVEL.mean() * np.sqrt(num)
    # 1.73 = std / mean of BY_LEVEL; by importance it is nearly nothing.
    assert spread == pytest.approx(1.73, rel=0.3) if name == "uniform" else spread < 0.1


def test_the_memory_is_given_the_losses_without_their_weights():
    run = jax.jit(objective(time_sampling.importance(T)))
    memory = time_sampling.importance(T).init()
    for seed in range(6):
        _, (_, memory) = run(1.0, jax.random.key(seed), batch(100), memory)
    assert int(memory.count.sum()) == 600 and int(memory.count.min()) >= 10
    expected = np.tile(BY_LEVEL[:, None], (1, 10))
    np.testing.assert_allclose(memory.losses, expected, rtol=1e-6)
    # Later draws follow them: BY_LEVEL[0] / sum is 65 % of a batch.
    _, (_, after) = run(1.0, jax.random.key(9), batch(4000), memory)
    share = int(after.count[0] - memory.count[0]) / 4000
    expected = 0.999 * 50 / BY_LEVEL.sum() + 0.001 / T
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


def test_a_weight_scales_the_gradient_of_its_example():
    """params * x_t with the loss output: the gradient is mean(weight x_t)."""
    schedule = schedules.from_betas(np.full(T, 0.1))
    run = make_objective(
        lambda params, x_t, t, cond, dropout_key: params * x_t,
        schedule,
        lambda output, noised: output[:, 0, 0, 0],
        times=time_sampling.importance(T),
    )
    key = jax.random.key(3)
    gradient_of = jax.jit(jax.grad(run, has_aux=True))
    gradient, _ = gradient_of(1.0, key, batch(50), full_history())

    @jax.jit
    def draw(key, memory):
        key, *_ = jax.random.split(key, 4)  # as the objective does
        x0 = jnp.full((50, 1, 1, 1), -1.0)
        return losses.noise_data(key, x0, schedule, time_sampling.importance(T), memory)

    noised = draw(key, full_history())
    expected = np.mean(np.asarray(noised.weight * noised.x_t[:, 0, 0, 0]))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert np.std(noised.weight) > 0.1


ON_DEVICES = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests/tasks")
from test_diffusion import importance_and_hints
print(json.dumps(importance_and_hints()))
"""


def importance_and_hints():
    """Ten training steps with a history and hints, over all devices there are."""
    from ddpm_jax.runtime.devices import data_mesh, rows
    from ddpm_jax.training.optimizers import Adam, clipped
    from ddpm_jax.training.step import init_state, make_train_step

    def network(params, x_t, t, cond, dropout_key):
        return params["a"] * x_t + params["b"] * (cond or {}).get(
            "self_conditioning", 0.0
        )

    sampler, mesh, optimizer = (
        time_sampling.importance(3),
        data_mesh(),
        clipped(Adam().build(lambda step: 0.05), 1.0),
    )
    step = make_train_step(
        make_objective(
            network,
            schedules.from_betas(np.array([0.1, 0.3, 0.5])),
            losses.simple_loss(X0),
            times=sampler,
            self_conditioning=self_condition_half(X0),
        ),
        optimizer,
        ema_target=0.9,
        mesh=mesh,
    )
    state = init_state(
        {"a": jnp.float32(0.1), "b": jnp.float32(0.2)}, optimizer, sampler.init()
    )
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 2, 2, 1), np.uint8)
    for image in images:
        placed = {"image": jax.device_put(image, rows(mesh))}
        state, metrics = step(state, jax.random.key(5), placed)
    full = int(state.carry.count.min()) >= 10
    numbers = jax.tree.map(np.asarray, (state.params, state.carry, metrics))
    flat = [float(x) for leaf in jax.tree.leaves(numbers) for x in np.ravel(leaf)]
    return {"devices": jax.device_count(), "full": full, "numbers": flat}


def test_eight_devices_share_one_history():
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICES],
        env={
            "JAX_NUM_CPU_DEVICES": "8",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ".:tests",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    eight, one = json.loads(done.stdout.splitlines()[-1]), importance_and_hints()
    assert (eight["devices"], one["devices"]) == (8, 1)
    assert one["full"]  # so that the last steps drew by importance
    np.testing.assert_allclose(eight["numbers"], one["numbers"], rtol=2e-5, atol=1e-6)


# --- Options of a recipe --------------------------------------------------------------

INFO = DataInfo("white", (32, 32, 1), None, "")
SELF_CONDITIONED = "conditioners.self_conditioning.kind=self_conditioning"


def with_options(*options):
    small = ("data.flip=False", "schedule.num_levels=20", "preview_steps=5")
    return default(*small, *options).task


@pytest.mark.parametrize(
    ("options", "on_x0"),
    [
        (["loss.kind=simple"], lambda snr: np.ones(20)),
        (["loss.kind=truncated_snr"], lambda snr: np.maximum(snr, 1)),
        (["loss.kind=min_snr"], lambda snr: np.minimum(snr, 5)),
        (
            ["loss.kind=min_snr", "loss.gamma=2"],
            lambda snr: np.minimum(snr, 2),
        ),
        (["loss.kind=p2"], lambda snr: snr / (1 + snr)),
        (
            ["loss.kind=sigmoid_snr", "loss.bias=-1"],
            lambda snr: snr / (1 + math.e * snr),
        ),
        (
            ["loss.kind=velocity", "loss.floor=0.1"],
            lambda snr: np.minimum(1 + np.sqrt(snr), 10) ** 2,
        ),
        (
            [
                *("loss.kind=p2", "loss.k=0.5", "loss.gamma=0.7"),
                "schedule.zero_terminal_snr=True",
            ],
            lambda snr: snr / (0.5 + snr) ** 0.7,
        ),
    ],
)
def test_the_loss_of_a_config_is_the_one_it_names(monkeypatch, options, on_x0):
    """White images, x0 = 1 everywhere, of which a network says 0: the loss is the
    weight of the x0-error. Twenty evenly spread times are the twenty levels."""
    monkeypatch.setattr(assembly.parts, "network", lambda unet, **_: zero_network)
    spec = with_options(*options, "prediction=x0", "times.kind=stratified")
    assembly.check(spec, INFO)
    white = {"image": np.full((20, 32, 32, 1), 255, np.uint8)}
    run = assembly.objective(spec, None, INFO)
    loss, (metrics, memory) = run(None, jax.random.key(0), white, ())
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 20))
    if getattr(spec.schedule, "zero_terminal_snr", False):
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    expected = on_x0(alpha_bar / (1 - alpha_bar)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert memory == () and np.all(metrics["quartile_count"] == 5)


def zero_network(params, x_t, t, cond, dropout_key=None):
    return 0 * x_t


def test_a_self_conditioned_network_sees_its_hint_as_further_channels():
    class ShowsItsMaps(nn.Module):
        """A network that returns x_t and the maps beside it."""

        embedding_width = 8

        def __call__(self, x_t, t, ports=None, *, train=False):
            return jnp.concatenate([x_t, ports.maps], axis=-1)

    both = {"self_conditioning": SelfConditioning(), "label": Label(2)}
    network = assembly.network(Conditioned(ShowsItsMaps(), both))
    params = {"label": {"embedding": jnp.zeros((3, 8))}}
    x, hint, label = jnp.ones((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 2.0), jnp.arange(2)
    seen = network(params, x, None, {"self_conditioning": hint, "label": label})
    np.testing.assert_array_equal(seen, np.concatenate([x, hint], axis=-1))
    for cond in (None, {"label": label}):
        seen = network(params, x, None, cond)
        np.testing.assert_array_equal(seen, np.concatenate([x, 0 * x], axis=-1))

    spec = with_options(SELF_CONDITIONED)
    unet = assembly.model(spec, INFO)
    params = jax.eval_shape(lambda: assembly.init_params(spec, unet, INFO))
    assert params["conv_in"]["kernel"].shape == (3, 3, 2, 128)


@pytest.mark.parametrize("learned", [False, True])
def test_a_self_conditioned_config_trains_with_hints(monkeypatch, learned):
    """The network is asked of half of the rows without a hint, then of all with."""
    calls = []

    def network(params, x_t, t, cond, dropout_key=None):
        calls.append((len(x_t), (cond or {}).get("self_conditioning")))
        output = 0.3 + 0 * x_t
        return jnp.concatenate([output, 0 * x_t], -1) if learned else output

    monkeypatch.setattr(assembly.parts, "network", lambda unet, **_: network)
    spec = with_options(
        SELF_CONDITIONED,
        "prediction=x0",
        f"variance={'learned' if learned else 'small'}",
        f"loss.kind={'hybrid' if learned else 'simple'}",
        "times.kind=antithetic",
    )
    assembly.check(spec, INFO)
    white = {"image": np.full((4, 32, 32, 1), 255, np.uint8)}
    run = assembly.objective(spec, None, INFO)

    @jax.jit
    def hint_of(key):
        run(None, key, white, spec.build_times().init())
        (first, without), (second, hint) = calls
        assert (first, without, second) == (2, None, 4)
        return hint

    hint = hint_of(jax.random.key(0))
    np.testing.assert_allclose(hint[::2], 0.3, rtol=1e-6)
    np.testing.assert_array_equal(hint[1::2], 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["schedule.zero_terminal_snr=True"],
            "schedule=Linear.*zero_terminal_snr=True.*pure noise.*prediction v or x0",
        ),
        (
            ["schedule.zero_terminal_snr=True", "prediction=v", "loss.kind=weighted"],
            "zero_terminal_snr=True.* weight of the eps-error is infinite",
        ),
        (
            [
                *("schedule.zero_terminal_snr=True", "prediction=v"),
                "schedule.kind=cosine_logsnr",
            ],
            r"unknown option config\.schedule\.zero_terminal_snr; .*cosine_logsnr",
        ),
        (
            ["times.kind=importance", "schedule.kind=linear_logsnr"],
            r"LinearLogSNR\(num_levels=20\) is continuous; use one that is a table",
        ),
        (["loss.kind=min_snr", "loss.gamma=0"], "loss.gamma=0.0 must be positive"),
        (["loss.kind=p2", "loss.k=-1"], "config.loss.k=-1.0 must be positive"),
        (["loss.kind=p2", "loss.gamma=-0.5"], "loss.gamma=-0.5 is too small"),
        (["loss.kind=velocity", "loss.floor=1"], r"loss.floor=1.0 is not in \[0, 1\)"),
        (
            ["times.kind=often"],
            "'often' is not known; use antithetic, importance, logit_normal, logn",
        ),
        (
            ["variance=learned", "loss.kind=min_snr"],
            r"config\.loss=MinSNR\(\) does not train",
        ),
    ],
)
def test_what_cannot_work_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        assembly.check(with_options(*options), INFO)


def test_a_report_averages_each_quartile_over_the_steps_that_drew_it():
    def step(k):
        quartile = np.eye(4)[k % 4] * (k < 9)
        return {
            "loss": np.float32(k),
            "grad_norm": np.float32(2 * k),
            "quartile_sum": quartile * k,
            "quartile_count": quartile,
        }

    report = summarize([step(k) for k in (1, 2, 3, 4, 5)])
    assert report["loss"] == pytest.approx(3.0)
    assert report["grad_norm"] == pytest.approx(6.0)
    assert [report[f"loss_q{i}"] for i in range(4)] == pytest.approx([4, 3, 2, 3])
    assert np.isnan(summarize([step(9), step(10)])["loss_q0"])  # none was drawn
    assert list(report)[:5] == ["loss", "loss_q0", "loss_q1", "loss_q2", "loss_q3"]


# --- The spec -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variance": "learned"}, r"loss=Simple\(\) does not train variance='learned'"),
        ({"loss": losses.Hybrid()}, "needs a learned variance, got 'large'"),
        (
            {"times": Importance(), "schedule": schedules.LinearLogSNR()},
            "counts levels, and schedule LinearLogSNR.* is continuous",
        ),
        ({"schedule": schedules.Jsd()}, "pure noise, of which eps says nothing"),
        (
            {"schedule": schedules.Straight(), "prediction": "v"},
            r"prediction='v' .* schedule Straight\(\) has others; use prediction flow",
        ),
        ({"schedule": schedules.Straight()}, "says nothing .* use prediction flow or"),
        ({"prediction": "edm", "data_std": 0.0}, "data_std=0.0 must be positive"),
        (
            {"schedule": schedules.Jsd(), "prediction": "v", "loss": losses.Weighted()},
            "the weight of the eps-error is infinite",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Diffusion(**fields)


OUTPUT = jax.random.normal(jax.random.key(1), (6, 4))


@pytest.mark.parametrize(
    ("spec", "by_hand"),
    [
        (losses.Simple(), lambda kind, v, first: losses.simple_loss(kind)),
        (losses.Weighted(), losses.weighted_loss),
        (losses.Mean(), losses.mean_loss),
        (losses.Bound(), lambda *args: losses.bound_loss(*args, 50)),
        (
            loss_weights.TruncatedSNR(),
            lambda kind, v, first: loss_weights.snr_weighted_loss(
                kind, loss_weights.truncated_snr
            ),
        ),
        (
            loss_weights.MinSNR(3.0),
            lambda kind, v, first: loss_weights.snr_weighted_loss(
                kind, loss_weights.min_snr(3.0)
            ),
        ),
        (
            loss_weights.P2(0.5, 2.0),
            lambda kind, v, first: loss_weights.snr_weighted_loss(
                kind, loss_weights.p2(0.5, 2.0)
            ),
        ),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_spec_builds_the_loss_with_its_numbers(spec, by_hand):
    diffusion = Diffusion(
        schedule=schedules.Cosine(50), prediction="v", variance="small", loss=spec
    )
    schedule = diffusion.schedule.build()
    noised = losses.noise_data(jax.random.key(0), OUTPUT, schedule)
    wanted = by_hand(process.V, process.small_variance, decoder_variance(schedule))
    np.testing.assert_array_equal(
        diffusion.build_loss(schedule)(OUTPUT, noised), wanted(OUTPUT, noised)
    )


def test_a_learned_variance_is_trained_by_the_bound_and_by_the_hybrid():
    both = jnp.concatenate([OUTPUT, OUTPUT / 2], axis=-1)
    found = {}
    for loss in (losses.Bound(), losses.Hybrid(0.5), losses.Simple()):
        learned = "large" if loss == losses.Simple() else "learned"
        spec = Diffusion(schedule=schedules.Cosine(50), variance=learned, loss=loss)
        schedule = spec.schedule.build()
        noised = losses.noise_data(jax.random.key(0), OUTPUT, schedule)
        output = OUTPUT if loss == losses.Simple() else both
        found[type(loss).__name__] = spec.build_loss(schedule)(output, noised)
    np.testing.assert_allclose(
        found["Hybrid"], found["Simple"] + 0.5 * found["Bound"], rtol=1e-6
    )


@pytest.mark.parametrize("prediction", ["eps", "x0", "flow", "edm"])
def test_what_a_straight_path_is_trained_with(prediction):
    schedule = schedules.Straight(50, alpha_min=0.01)
    spec = Diffusion(schedule=schedule, prediction=prediction, data_std=0.4)
    kind = spec.parameterization
    assert kind.name == prediction
    noised = losses.noise_data(jax.random.key(0), OUTPUT, schedule.build())
    target = kind.target(noised.x0, noised.eps, noised.t)
    loss = spec.build_loss(schedule.build())(target + 0.5, noised)
    np.testing.assert_allclose(loss, 0.25, rtol=1e-5)
    if prediction == "edm":  # a network whose output is 0 says c_skip y
        x0 = kind.predict(jnp.zeros_like(OUTPUT), noised.x_t, noised.t).x0
        alpha, sigma = (np.asarray(a)[:, None] for a in noised.t[1:])
        y, r = noised.x_t / alpha, sigma / alpha
        np.testing.assert_allclose(x0, 0.16 / (0.16 + r**2) * y, rtol=1e-4)


def test_the_network_is_given_what_its_parameterization_says():
    """The whole objective: a preconditioned network sees log(r) / 4 and unit variance,
    any other t and x_t."""
    for prediction in ("edm", "flow"):
        spec = Diffusion(schedule=schedules.Straight(50), prediction=prediction)
        schedule, seen = spec.schedule.build(), {}

        def network(params, x_t, t, cond, dropout_key, seen=seen):
            seen.update(x=x_t, t=t)
            return jnp.zeros_like(x_t)

        objective = make_objective(
            network,
            schedule,
            spec.build_loss(schedule),
            times=spec.build_times(),
            network_input=spec.parameterization.network_input,
        )
        white = {"image": np.full((512, 2, 2, 1), 255, np.uint8)}
        objective({}, jax.random.key(0), white, ())
        t = np.asarray(seen["t"], np.float64)
        if prediction == "flow":
            assert -1 < t.min() < 1 and 48 < t.max() <= 49
            continue
        assert -5 < t.min() < -1 and 1 < t.max() < 5
        r = np.exp(4 * t)  # x_t = (1 + r eps) alpha, over root (r^2 + 1/4) alpha
        # From the schedule again: r = u / (1 - u) of even u, whose median is 1.
        np.testing.assert_allclose(np.median(r), 1.0, rtol=0.2)
        noisy = r > 20
        assert noisy.sum() > 5
        assert 0.8 < np.std(np.asarray(seen["x"])[noisy]) < 1.2


def test_importance_counts_the_levels_of_the_schedule():
    spec = Diffusion(schedule=schedules.Cosine(12), times=Importance(length=3))
    assert spec.build_times().init().losses.shape == (12, 3)


@pytest.mark.parametrize(
    ("conditioner", "message"),
    [
        (Label(condition_dropout=1.0), r"condition_dropout=1.0 is not in \[0, 1\)"),
        (Label(condition_dropout=-0.1), r"condition_dropout=-0.1 is not in \[0, 1\)"),
        (SelfConditioning(condition_dropout=0.1), "it is never dropped; leave it out"),
    ],
)
def test_a_dropout_that_cannot_be_is_refused(conditioner, message):
    name = conditioner.named
    with pytest.raises(UserError, match=rf"^conditioners\.{name}\..*{message}"):
        Diffusion(conditioners={name: conditioner})
    spec = Diffusion(conditioners={"label": Label(condition_dropout=0.5)})
    assert spec.dropout_rates == {"label": 0.5}
