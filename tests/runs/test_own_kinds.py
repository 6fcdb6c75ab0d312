"""What the house promises: a file each adds a conditioner, a network, a codec, a task.

The files lie beside a recipe in a folder of the user's. The program trains by it, goes
on, samples and loads, and no file of the package knows of them.
"""

import json
import sys

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import specs
from ddpm_jax.cli import main
from ddpm_jax.errors import UserError

CONDITIONER = '''
import dataclasses
import jax.numpy as jnp
from flax import linen as nn
from ddpm_jax.conditioning.conditioner import Embedder
from ddpm_jax.networks.ports import Ports
from ddpm_jax.recipe import Conditioner, register


@register
@dataclasses.dataclass(frozen=True)
class SideOfOrigin(Conditioner):
    """Condition on the sign of the first coordinate, float32 [B]; 0 for none."""

    def from_batch(self, key, batch, x0):
        return jnp.sign(x0[:, 0])

    def null(self, rows):
        return jnp.zeros_like(rows)

    def example(self, num_rows, shape):
        return jnp.zeros((num_rows,), jnp.float32)

    def embedder(self, features):
        return SideEmbedder(features)

    def from_text(self, values):
        return jnp.asarray([float(value) for value in values], jnp.float32)


class SideEmbedder(Embedder):
    features: int

    @nn.compact
    def __call__(self, rows, *, train=False):
        return Ports(vector=nn.Dense(self.features)(rows[:, None]))
'''
NETWORK = '''
import jax.numpy as jnp
from flax import linen as nn
from ddpm_jax.networks.layers import time_embedding
from ddpm_jax.networks.ports import from_data
from ddpm_jax.recipe import Network, register


@register
class Perceptron(Network):
    """Two layers on points.

    Attributes:
        width: of both.
    """

    out_channels: int = from_data(2)
    width: int = 16

    @property
    def embedding_width(self):
        return self.width

    @nn.compact
    def __call__(self, x_t, t, ports=None, *, train=False):
        h = nn.Dense(self.width)(x_t) + time_embedding(t, self.width)
        if ports is not None and ports.vector is not None:
            h = h + ports.vector
        h = nn.Dense(self.width)(nn.swish(h))
        return nn.Dense(self.out_channels)(nn.swish(h)).astype(jnp.float32)
'''
CODEC = '''
import dataclasses
from ddpm_jax.codecs.codec import unencoded
from ddpm_jax.recipe import CodecSpec, register


@register
@dataclasses.dataclass(frozen=True)
class Divided(CodecSpec):
    """Items divided by a number.

    Attributes:
        by: the number.
    """

    by: float = 1.0

    def build(self, item_shape, dtype):
        same = lambda items: items
        return unencoded(item_shape, load=same, store=same)._replace(
            encode=lambda params, items: items / self.by,
            decode=lambda params, x: x * self.by,
        )
'''
TASK = '''
import dataclasses
import jax.numpy as jnp
from ddpm_jax.recipe import TaskSpec, register
from ddpm_jax.training.step import gradient_task


@register
@dataclasses.dataclass(frozen=True)
class Center(TaskSpec):
    """The point that is nearest to all items, by squared distance.

    Attributes:
        start: each of its coordinates at first.
    """

    start: float = 0.0

    def build(self, source, fit, mesh):
        def objective(params, key, batch, carry):
            loss = jnp.mean((batch["image"] - params["center"]) ** 2)
            return loss, ({"loss": loss}, carry)

        return gradient_task(
            lambda: {"center": jnp.full(source.shape, self.start)},
            objective,
            fit.transformation(),
            ema_target=0.0,
            mesh=mesh,
            finish=lambda s: {"found": [float(x) for x in s.params["center"]]},
        )

    def open(self, params, facts):
        return {**params, "found": facts["found"]}
'''
RECIPE = """
from conditioner import SideOfOrigin
from network import Perceptron
from codec import Divided
from ddpm_jax.recipe import Cosine, Data, Diffusion, Fit, recipe


def get_config():
    return recipe(
        Diffusion(
            data=Data(source="npy:POINTS", flip=False),
            codec=Divided(by=4.0),
            network=Perceptron(width=32),
            conditioners={"side": SideOfOrigin()},
            schedule=Cosine(50),
            prediction="v",
            preview_steps=5,
        ),
        Fit(
            num_steps=NUM,
            batch_size=64,
            learning_rate=1e-2,
            warmup_steps=0,
            ema_decay=0.9,
            report_every=EVERY,
            checkpoint_every=EVERY,
        ),
        sample={"num_images": 8, "num_steps": 10, "clip": False},
    )
"""
CENTER = """
from task import Center
from ddpm_jax.recipe import Data, Fit, recipe


def get_config():
    return recipe(
        Center(data=Data(source="npy:POINTS", flip=False), start=1.0),
        Fit(
            num_steps=6,
            batch_size=64,
            learning_rate=0.1,
            warmup_steps=0,
            report_every=1,
            checkpoint_every=3,
        ),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a user's, with points left and right of the origin, 4 away."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    sides = np.where(rng.random(512) < 0.5, -4.0, 4.0)
    points = np.stack([sides, np.full(512, 2.0)], axis=1) + rng.normal(0, 0.2, (512, 2))
    np.save(folder / "points.npy", points.astype(np.float32))
    files = {"conditioner": CONDITIONER, "network": NETWORK, "codec": CODEC}
    files |= {"task": TASK, "center": CENTER}
    for name, steps in {"short": "3", "long": "400"}.items():
        files[name] = RECIPE.replace("NUM", steps).replace("EVERY", steps)
    for name, text in files.items():
        text = text.replace("POINTS", str(folder / "points.npy"))
        (folder / f"{name}.py").write_text(text)
    known, path = dict(specs._known), list(sys.path)
    yield folder
    for name in files:
        sys.modules.pop(name, None)
    specs._known.clear()
    specs._known.update(known)
    assert sys.path == path


def line(folder, recipe, run, *options):
    return [f"--config={folder / recipe}.py", f"--workdir={folder / run}", *options]


def test_conditioner_network_and_codec_train_resume_sample_and_load(folder, capsys):
    assert main(line(folder, "short", "run")) == 0
    more = "--config.training.num_steps=6"
    assert main(line(folder, "short", "run", more)) == 0
    assert "resumed" in capsys.readouterr().out
    assert main(line(folder, "short", "whole", more)) == 0
    parts, whole = (
        ddpm_jax.load(folder / run).sample(8, cond="side=1", seed=3)
        for run in ("run", "whole")
    )
    np.testing.assert_array_equal(parts, whole)  # resumed bit for bit
    assert main(["sample", str(folder / "run"), "--cond=side=1,-1"]) == 0
    drawn = sorted((folder / "run").glob("samples/*/samples.npz"))[-1]
    assert np.load(drawn)["arr_0"].shape == (8, 2)
    # Options of one's own are options like any.
    assert main(["options", f"--config={folder / 'short.py'}"]) == 0
    out = capsys.readouterr().out
    assert "--config.network.width=32" in out and "side_of_origin" in out
    wrong = line(folder, "short", "other", "--config.network.widht=3")
    assert main(wrong) == 2
    assert "did you mean width?" in capsys.readouterr().err


def test_the_number_reaches_the_samples(folder):
    assert main(line(folder, "long", "sides")) == 0
    model = ddpm_jax.load(folder / "sides")
    left, right = (model.sample(64, cond=f"side={side}", seed=0) for side in (-1, 1))
    # 4 away from the origin on the side that was asked for, and back from the codec.
    assert (left[:, 0] < -2).mean() > 0.9 and (right[:, 0] > 2).mean() > 0.9
    np.testing.assert_allclose(right[:, 1].mean(), 2.0, atol=0.5)
    np.testing.assert_allclose(model.encode(right), right / 4.0)
    both = model.sample(4, cond="side=-1,1", seed=0)
    assert (np.sign(both[:, 0]) == [-1, 1, -1, 1]).all()


@pytest.mark.parametrize(
    ("cond", "message"),
    [("side", "NAME=VALUE"), ("age=3", "conditioned on side"), ("side=x", "float")],
)
def test_a_condition_that_cannot_be_is_one_line(folder, capsys, cond, message):
    assert main(line(folder, "short", "refused")) == 0
    capsys.readouterr()
    assert main(["sample", str(folder / "refused"), f"--cond={cond}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_task_trains_resumes_and_is_loaded(folder, capsys):
    short = "--config.training.num_steps=3"
    assert main(line(folder, "center", "c", short)) == 0
    half = ddpm_jax.load(folder / "c")["center"]
    assert main(line(folder, "center", "whole-c")) == 0
    wrong = line(folder, "center", "p", "--config.training.preview_every=2")
    assert main(wrong) == 2  # it has no preview
    assert "preview_every=2 does nothing" in capsys.readouterr().err
    loaded = ddpm_jax.load(folder / "whole-c")
    result = json.loads((folder / "whole-c" / "result.json").read_text())
    np.testing.assert_allclose(loaded["center"], result["found"])
    # Adam at a rate of 0.1 goes 0.1 a step at first, from (1, 1) toward (0, 2).
    np.testing.assert_allclose(half, [0.7, 1.3], atol=0.05)
    np.testing.assert_allclose(loaded["center"], [0.4, 1.6], atol=0.1)
    assert main(["sample", str(folder / "c")]) == 2
    assert "is for a diffusion model" in capsys.readouterr().err


def test_what_no_module_has_registered_is_refused_in_one_line(folder, monkeypatch):
    assert main(line(folder, "center", "lonely")) == 0
    monkeypatch.delitem(specs._known, "center")
    with pytest.raises(UserError, match="import the module that registers it"):
        ddpm_jax.load(folder / "lonely")
