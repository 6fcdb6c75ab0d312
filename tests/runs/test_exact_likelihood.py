"""The command `likelihood` of a VAE and of a flow, against closed forms."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import DIGITS, POINTS, TASKS, train
from scipy.stats import multivariate_normal

import ddpm_jax
from ddpm_jax import assembly
from ddpm_jax.cli import main
from ddpm_jax.commands import sampled
from ddpm_jax.diffusion.generate import fold_each, image_keys
from ddpm_jax.diffusion.ode_likelihood import dequantize
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.feature_extractor import FeatureExtractor, Outputs
from ddpm_jax.recipe import VAE, Data, Fit, Flow, FlowTask, VectorAutoencoder
from ddpm_jax.runtime import files
from ddpm_jax.tasks.vae import LOG_STD


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return what trains a kind on data, once; its folder."""
    base, known = tmp_path_factory.mktemp("measured"), {}

    def trained(kind, data):
        if (kind, data) not in known:
            folder = base / f"{kind}-{data}"
            train(base, folder, TASKS[kind, data])
            known[kind, data] = folder
        return known[kind, data]

    return trained


def measure(folder, out, *options):
    """Give the command; return its numbers, and those of each item."""
    line = ["likelihood", str(folder), f"--out={out}", *options]
    assert main(line) == 0
    newest = max((out / "likelihood").iterdir())
    with np.load(newest / "images.npz") as stored:
        each = {name: stored[name] for name in stored}
    return json.loads((newest / "likelihood.json").read_text()), each


def items_of(data, split="test", count=None):
    return np.asarray(data.open(split).source.items[:count])


def nats(each, size):
    return each["bits"] * size * np.log(2.0)


# --- Closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_vae_with_its_posterior_is_probabilistic_pca(
    tmp_path, monkeypatch, seed
):
    """Of x = W z + c + s e log p(x) is that of N(c, W W' + s^2 I), and any K exact.

    Source: Tipping & Bishop 1999, "Probabilistic Principal Component Analysis", eq. (4)
        for the likelihood and (6) for the posterior.
    """
    network = VectorAutoencoder(latent_features=1, depth=0)
    folder = tmp_path / "run"
    fit = Fit(num_steps=1, batch_size=8, warmup_steps=0, checkpoint_every=1)
    train(tmp_path, folder, VAE(POINTS, network=network), fit)
    rng = np.random.default_rng(seed)
    weights, center, std = rng.normal(size=(2, 1)), rng.normal(size=2), 0.7
    inner = float((weights.T @ weights).item() + std**2)
    to_mean = weights / inner
    encoder = {
        "kernel": np.concatenate([to_mean, np.zeros((2, 1))], axis=1),
        "bias": np.array([-(center @ to_mean).item(), np.log(std**2 / inner)]),
    }
    decoder = {"kernel": weights.T, "bias": center}
    params = {
        "network": {"encoder": {"out": encoder}, "decoder": {"out": decoder}},
        LOG_STD: np.log(std),
    }
    params = jax.tree.map(np.float32, params)
    monkeypatch.setattr(sampled.store, "restore_params", lambda *_, **__: params)
    x = items_of(POINTS, count=300).astype(np.float64)
    cov = weights @ weights.T + std**2 * np.eye(2)
    exact = multivariate_normal(center, cov).logpdf(x)
    for draws in (1, 5):
        options = ("--num-images=300", f"--num-samples={draws}")
        found, each = measure(folder, tmp_path / f"{draws}", *options)
        np.testing.assert_allclose(nats(each, 2), -exact, rtol=1e-5, atol=1e-5)
        assert found["nats_per_item"]["mean"] == pytest.approx(-exact.mean(), rel=1e-5)
        assert found["options"] == {"source": None, "num_samples": draws}
    # The rate is KL(q || prior) in closed form, and the ELBO exact in the mean.
    mean, variance = (x - center) @ to_mean, std**2 / inner
    rate = 0.5 * (mean[:, 0] ** 2 + variance - 1 - np.log(variance))
    np.testing.assert_allclose(each["rate"] * 2 * np.log(2), rate, rtol=1e-4, atol=1e-5)
    off = (each["rate"] + each["distortion"] - each["bits"]) * 2 * np.log(2)
    assert abs(off.mean()) < 4 * off.std(ddof=1) / np.sqrt(300)
    assert 0 < off.std() < 1


@pytest.mark.parametrize("data", ["points", "digits"])
def test_a_flow_is_measured_by_its_jacobian(run, tmp_path, data):
    """By the whole matrix of derivatives, which the network never forms."""
    folder, is_bytes = run("flow", data), data == "digits"
    options = ("--num-images=5", "--batch-size=2", "--seed=3")
    found, each = measure(folder, tmp_path, *options)
    model, task = ddpm_jax.load(folder), TASKS["flow", data]
    items = items_of(task.data, count=5)
    x, width = jnp.asarray(items), 1.0
    if is_bytes:
        key = assembly.likelihood_key(3)
        keys = fold_each(image_keys(key, jnp.arange(5)), 2)  # the stream of likelihoods
        values = np.round(items / 255 * 16)  # the 17 values of the digits
        grid = jnp.asarray(values / 8 - 1, jnp.float32)
        x, width = dequantize(keys, grid, 17), 1 / 8
        assert float(abs(x - grid).max()) <= 1 / 16
    size = x[0].size

    def z_of(flat):
        return model.encode(flat.reshape(1, *model.item_shape))[0]

    flat = x.reshape(len(x), size)
    slopes = jax.vmap(jax.jacfwd(z_of))(flat)
    z = np.asarray(jax.vmap(z_of)(flat), np.float64)
    log_p = -0.5 * (z**2 + np.log(2 * np.pi)).sum(1) + np.linalg.slogdet(slopes)[1]
    log_p = log_p + size * np.log(width)
    np.testing.assert_allclose(nats(each, size), -log_p, rtol=2e-5, atol=1e-4)
    assert found["bits_per_dim"]["mean"] == pytest.approx(each["bits"].mean())
    assert ("nats_per_item" in found) == (not is_bytes)
    assert found["method"] == "exact" and found["dimensions"] == size


@pytest.mark.parametrize("seed", range(3))
def test_an_affine_flow_of_a_gaussian_reaches_its_entropy(tmp_path, seed):
    """At its start a flow is affine, and normalizes its first batch of 1,024."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(12_000, 2)) * [3.0, 0.5] + [7.0, -1.0]
    file = tmp_path / "points.csv"
    np.savetxt(file, points, delimiter=",")
    of = Data(source=f"points:file:{file}", hold_out=3, flip=False)
    fit = Fit(num_steps=1, batch_size=8, warmup_steps=0, learning_rate=1e-9)
    train(tmp_path, tmp_path / "run", FlowTask(of, network=Flow(num_steps=1)), fit)
    found, each = measure(tmp_path / "run", tmp_path / "out", "--batch-size=4000")
    scale = np.sqrt(points.var(0).mean())  # by which the file is divided
    entropy = np.log(2 * np.pi * np.e) + np.log([3.0 / scale, 0.5 / scale]).sum()
    assert len(each["bits"]) == 4000
    # -log p has deviation 1 in two dimensions; 4 fitted numbers cost 4/2,048 nats.
    error = found["nats_per_item"]["standard_error"]
    assert error == pytest.approx(1 / np.sqrt(4000), rel=0.1)
    assert abs(found["nats_per_item"]["mean"] - entropy) < 4 * error


# --- The bound ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_importance_weighted_bound_rises_with_its_samples(run, tmp_path, seed):
    """Source: Burda et al. 2016, theorem 1."""
    folder, bits, elbos = run("vae", "points"), [], []
    for draws in (1, 4, 16, 64):
        options = (f"--num-samples={draws}", "--num-images=1000", f"--seed={seed}")
        options += ("--batch-size=500",)
        found, each = measure(folder, tmp_path / f"{draws}", *options)
        bits.append(found["bits_per_dim"]["mean"])
        elbos.append(found["negative_elbo"]["mean"])
        total = each["rate"] + each["distortion"]
        assert total.mean() == pytest.approx(elbos[-1])
        assert (each["rate"] >= 0).all()
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < elbos[-1]
    # The ELBO has the same mean whatever K is; of one draw it is noisier.
    assert elbos[0] == pytest.approx(elbos[-1], abs=0.1)


# --- The command ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("vae", "points", "nats an item (bits/dim at most"),
        ("vae", "digits", "by the importance-weighted bound of 64 samples"),
        ("flow", "points", "), exactly."),
        ("flow", "digits", "exact but for uniform dequantization."),
    ],
)
def test_it_goes_on_where_it_was_killed_and_does_not_do_it_again(
    run, tmp_path, monkeypatch, capsys, kind, data, said
):
    folder, quick = run(kind, data), ("--num-images=10", "--batch-size=4")
    whole, each = measure(folder, tmp_path / "whole", *quick)
    assert said in capsys.readouterr().out
    real, calls = files.os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 4:  # the request, two parts, and then
            raise SystemExit(137)
        real(source, target)

    line = ["likelihood", str(folder), f"--out={tmp_path / 'parts'}", *quick]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(SystemExit):
            main(line)
    assert len(list(tmp_path.glob("parts/likelihood/*/parts/*.npz"))) == 2
    parts, each_of_parts = measure(folder, tmp_path / "parts", *quick)
    assert "going on after 8" in capsys.readouterr().out
    for name in ("finished", "device"):
        del whole[name], parts[name]
    assert parts == whole
    assert each.keys() == each_of_parts.keys()
    for name, values in each.items():
        np.testing.assert_array_equal(each_of_parts[name], values)
    measure(folder, tmp_path / "parts", *quick)
    assert f"{parts['method']}: 10" not in capsys.readouterr().out  # it is found
    # In other batches the same, but for rounding.
    options = ("--num-images=10", "--batch-size=10")
    _, together = measure(folder, tmp_path / "together", *options)
    np.testing.assert_allclose(together["bits"], each["bits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_it_is_what_the_library_computes(run, tmp_path, kind):
    folder = run(kind, "digits")
    found, each = measure(folder, tmp_path, "--num-images=6", "--batch-size=6")
    model = ddpm_jax.load(folder)
    draws = {"num_samples": 64} if kind == "vae" else {}
    key = assembly.likelihood_key(0)
    bits = model.bits_per_dim(key, items_of(DIGITS, count=6), **draws)
    np.testing.assert_allclose(each["bits"], bits, rtol=1e-6)
    assert found["parameters"] == "ema" and found["split"] == "test"


def test_evaluate_reports_the_number_of_likelihood(run, tmp_path, monkeypatch):
    """A projection stands for the feature extractor."""
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))
    mix = jax.random.normal(jax.random.key(0), (64, 22)) / 64

    def apply(params, pixels):
        x = jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1) @ params
        return Outputs(x[:, :12], x[:, 12:])

    labels = tuple(map(str, range(10)))
    features = FeatureExtractor(
        "projection", "0123456789abcdef", 12, labels, "none", (8, 8, 1), mix, apply
    )
    monkeypatch.setattr(assembly, "evaluation_features", lambda asked: features)
    folder = shutil.copytree(run("vae", "digits"), tmp_path / "run")
    line = ["evaluate", str(folder), "--num-images=40", "--scores=bits_per_dim"]
    line += ["--likelihood-num-images=8", "--likelihood-num-samples=3"]
    assert main(line) == 0
    (result,) = folder.glob("likelihood/*/likelihood.json")
    found = json.loads(result.read_text())
    rows = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    (value,) = [
        row["scores"]["bits_per_dim"]["value"]
        for row in rows
        if row["request"]["images"] == "samples"
    ]
    assert value == found["bits_per_dim"]["mean"]
    assert found["options"]["num_samples"] == 3 and found["num_images"] == 8


@pytest.mark.parametrize(
    ("kind", "option", "message"),
    [
        ("vae", "--method=bound", "--method=bound does nothing in a model of kind vae"),
        ("vae", "--ode-steps=5", "--ode-steps=5 does nothing"),
        ("vae", "--num-samples=0", "--num-samples=0 is too small; use 1"),
        ("vae", "--split=dev", "use train or test"),
        ("vae", "--num-images=20000", "split 'test' of points:ring has 10000"),
        ("vae", "--source=digits", "the items of split 'test' are uint8 (8, 8, 1)"),
        ("flow", "--num-samples=5", "does nothing in a model of kind flow"),
        ("flow", "--num-probes=0", "--num-probes=0 does nothing"),
        ("flow", "--no-clip", "--no-clip does nothing"),
        ("flow", "--variance=small", "--variance=small does nothing"),
        ("flow", "--no-ema", "--no-ema does nothing"),
        ("flow", "--config.network.width=9", "was trained with other options"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(run, capsys, kind, option, message):
    folder = run(kind, "points")
    capsys.readouterr()
    assert main(["likelihood", str(folder), option]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "likelihood").exists()


def test_the_data_of_training_are_pointed_out(run, tmp_path, capsys):
    folder = run("flow", "points")
    measure(folder, tmp_path, "--split=train", "--num-images=4")
    assert "note: 'train' is what the model was trained on" in capsys.readouterr().err


def test_of_a_flow_more_draws_are_refused_by_the_library_too(run):
    model = ddpm_jax.load(run("flow", "points"))
    with pytest.raises(UserError, match="num_samples=5 does nothing"):
        model.log_likelihood(jax.random.key(0), items_of(POINTS, count=2), 5)
    with pytest.raises(UserError, match="num_samples=0 is too small"):
        vae = ddpm_jax.load(run("vae", "points"))
        vae.log_likelihood(jax.random.key(0), items_of(POINTS, count=2), 0)
