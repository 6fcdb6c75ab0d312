"""CONTRIBUTING.md names files that are there, and its steps lead to the end."""

import dataclasses
import re
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import changed, default

from ddpm_jax import assembly, data, recipe, requests, specs
from ddpm_jax.assembly import sampling
from ddpm_jax.conditioning import conditioner
from ddpm_jax.data import Arrays, Dataset, sources
from ddpm_jax.data.spec import Data
from ddpm_jax.diffusion import losses, schedules, time_sampling
from ddpm_jax.networks.ports import Network, from_data
from ddpm_jax.requests import options
from ddpm_jax.training import optimizers

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
DIGITS = assembly.DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")
KINDS = re.findall(r"^\| (\w[\w ]*) \| (`.*) \| (`.*) \| `.* \|$", TEXT, re.M)
BASES = {
    cls.__name__: cls
    for cls in (
        *(recipe.Conditioner, recipe.CodecSpec, recipe.TaskSpec, Network, Data),
        *(schedules.Table, schedules.ScheduleSpec, losses.LossSpec),
        *(time_sampling.TimesSpec, optimizers.OptimizerSpec),
    )
}


def test_every_file_is_there():
    paths = re.findall(r"`([\w./-]+/[\w./-]*|[\w.-]+\.(?:py|md|yaml))`", TEXT)
    paths = [path for path in paths if path != ".venv"]
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (sampling, "SAMPLERS"),
        (recipe, "register"),
        (conditioner, "Conditioner Embedder"),
        (recipe.Conditioner, "for_data from_text droppable required"),
        (sources, "load"),
        (data, "Dataset"),
        (options, "option"),
        (requests.Sample, "cond"),
    ],
)
def test_every_name_is_there(module, wanted):
    assert all(hasattr(module, name) and name in TEXT for name in wanted.split())


def test_the_table_of_kinds_is_true_of_the_code():
    """It has the base of each node of several kinds, and what that asks for."""
    found = {}
    for what, bases, methods in KINDS:
        for base in re.findall(r"`(\w+)`", bases):
            found.setdefault(what, []).append(BASES[base])
        for method in re.findall(r"`(\w+)`", methods):
            assert any(hasattr(cls, method) for cls in found[what]), method
    assert len(found) == 9
    fit = {cls for of_what in found.values() for cls in of_what}
    taken = {
        base
        for spec in (recipe.Diffusion, recipe.Fit)
        for wanted in typing.get_type_hints(spec).values()
        for base in (wanted, *typing.get_args(wanted))
        if len(specs.kinds(base) if dataclasses.is_dataclass(base) else ()) > 1
    }
    # A recipe takes a conditioner by what makes one, and a table as a schedule.
    others = {recipe.ConditionerSpec: recipe.Conditioner}
    assert {others.get(base, base) for base in taken} <= fit


@pytest.fixture
def made():
    return default(
        "network.channels=4",
        "network.num_groups=4",
        "network.channel_multipliers=(1,1)",
        "network.attention_resolutions=()",
        "schedule.num_levels=10",
        "preview_steps=10",
    )


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Forget the kinds that a test registers."""
    monkeypatch.setattr(specs, "_known", dict(specs._known))


def test_the_kind_that_is_shown_can_be_chosen(made):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    known = {"register": recipe.register, "dataclasses": dataclasses, "np": np}
    exec(code, {**known, "Table": schedules.Table, "__name__": __name__})
    made = changed(made, "schedule.kind=halving", "schedule.num_levels=10")
    assembly.check(made.task, DIGITS)
    alpha = made.task.schedule.build().at(jnp.arange(10)).alpha
    np.testing.assert_allclose(alpha**2, 0.5 ** np.arange(1, 11), rtol=1e-6)
    stored = recipe.to_json(made)
    assert recipe.to_json(recipe.from_json(stored)) == stored


def test_a_network_needs_no_more_than_its_file(made):
    """It is called with x_t, t and ports, and its fields are options."""

    @recipe.register
    class Times(Network):
        out_channels: int = from_data(3)
        factor: float = 1.0

        @property
        def embedding_width(self):
            return 2

        def __call__(self, x_t, t, ports=None, *, train=False):
            assert self.out_channels == x_t.shape[-1] and not train
            vector = ports.vector.sum(1)
            return self.factor * x_t + (t + vector)[:, None, None, None]

    spec = changed(
        made,
        *("network.kind=times", "network.factor=2"),
        *("conditioners.label.kind=label", "preview_steps=10"),
    ).task
    assembly.check(spec, DIGITS)
    model = assembly.model(spec, DIGITS)
    x, labels = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.arange(3)
    params = model.init(jax.random.key(1), x, jnp.zeros(3))["params"]
    out = assembly.network(model)(params, x, jnp.arange(3.0), {"label": labels})
    added = np.arange(3) + params["label"]["embedding"][:3].sum(1)
    np.testing.assert_allclose(out, 2 * x + added[:, None, None, None], rtol=1e-5)


def test_a_data_source_of_a_kind_of_its_own_is_opened(made):
    @recipe.register
    @dataclasses.dataclass(frozen=True)
    class Even(Data):
        level: int = 0

        def open(self, split=None):
            images = np.full((4, 8, 8, 1), self.level, np.uint8)
            given = {"split": split or self.split, "fingerprint": str(self.level)}
            return Dataset("even", Arrays(images, None), (8, 8, 1), None, **given)

    spec = changed(made, "data.kind=even", "data.level=7").task
    opened = spec.data.open("test")
    assert opened.split == "test" and (opened.source.items == 7).all()
    assert assembly.data_info(opened, spec).item_shape == (8, 8, 1)
