"""Specs: round trips, overrides, and refusals of one line that say where and what."""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import random
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pytest
from ml_collections import ConfigDict

from ddpm_jax import limits, specs
from ddpm_jax.diffusion.schedules import ScheduleSpec
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import (
    AutoencoderTask,
    ClipText,
    Cosine,
    Diffusion,
    Embeddings,
    Fit,
    Grey,
    HashGrid,
    ImageEmbedding,
    Jsd,
    Latents,
    Linear,
    LowRes,
)
from ddpm_jax.specs import (
    differences,
    from_config,
    from_recipe,
    override,
    recipe,
    register,
    to_json,
)

LINEAR, COSINE = Linear(), Cosine(8)


@register
@dataclasses.dataclass(frozen=True)
class Toy:
    """A spec with a field of every kind.

    Attributes:
        width: of something,
            over two lines.
    """

    width: int = 4
    share: float = 0.5
    is_on: bool = False
    name: str = "toy"
    mode: Literal["slow", "fast"] = "slow"
    size: int | tuple[int, int] = 32
    most: float | None = None
    sides: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 0.5)
    schedule: ScheduleSpec = LINEAR
    other: ScheduleSpec | None = None
    stages: tuple[ScheduleSpec, ...] = ()
    parts: Mapping[str, ScheduleSpec] = dataclasses.field(default_factory=dict)
    anything: Any = COSINE

    def __post_init__(self) -> None:
        limits.share(self, "share")
        if self.width == 13:
            raise ValueError("thirteen brings bad luck")


FULL = Toy(
    width=5,
    share=0.25,
    is_on=True,
    name="a name, with = and 'quotes'",
    mode="fast",
    size=(3, 4),
    most=1e-30,
    sides=(),
    pair=(2, 1.0),
    schedule=Jsd(7),
    other=Cosine(9, t_range=4),
    stages=(Linear(2), Jsd(3)),
    parts={"a": Linear(beta_end=0.5), "b": Jsd(5)},
    anything=Toy(),
)

# --- Round trips ----------------------------------------------------------------------


VALUES = (2, 3, 0.25, 0.5, 1e-3, True, False, "another", None, [], [0.1], [5], [3, 7])
VALUES += (64, {"label": {"kind": "label"}})

# Where a field means something only beside another, or has no default that works.
BASES = {
    Fit: Fit(decay="cosine"),
    Latents: Latents("runs/somewhere"),
    Embeddings: Embeddings("runs/somewhere"),
    ClipText: ClipText(run="runs/somewhere"),
    ImageEmbedding: ImageEmbedding("runs/somewhere"),
    LowRes: LowRes(max_aug_level=0.5),
    HashGrid: HashGrid(coarsest=2),  # and so a finest of any value
    AutoencoderTask: AutoencoderTask(perceptual="runs/somewhere"),
    Diffusion: Diffusion(conditioners={"grey": Grey()}),
}


def base_of(cls):
    """A spec of a class, from which others are made."""
    return FULL if cls is Toy else BASES.get(cls) or cls()


def kinds_within(wanted):
    """Yield specs that fit a field: of every kind, then each with a field changed."""
    inside = specs._classes_in(wanted) and specs.kinds(specs._slot(wanted))
    for cls in dict(inside or {}).values():
        yield to_json(base_of(cls))
    for cls in dict(inside or {}).values():
        yield from map(to_json, changed(cls))


def changed(cls):
    """Yield a spec for each field, in which that has another value."""
    base = base_of(cls)
    plain = to_json(base)
    for name, wanted in specs._annotations(cls).items():
        made = base
        for value in itertools.chain(get_args(wanted), VALUES, kinds_within(wanted)):
            with contextlib.suppress(UserError):
                made = from_config({**plain, name: value}, cls)
            if made != base:
                break
        assert made != base, f"no other value of {name} was found"
        yield made


@pytest.mark.parametrize("kind", [k for k, c in specs.kinds().items() if c is not Toy])
def test_every_field_of_every_spec_comes_back(kind):
    cls = specs.kinds()[kind]
    assert specs.kind_of(cls) == kind
    for made in (base_of(cls), *changed(cls)):
        stored = json.loads(json.dumps(to_json(made), allow_nan=False))
        assert from_config(stored) == made
        assert from_config(recipe(made)) == made
        assert recipe(made).is_locked


@pytest.mark.parametrize("kind", [k for k, c in specs.kinds().items() if c is not Toy])
def test_every_field_of_every_spec_is_described(kind):
    cls = specs.kinds()[kind]
    fields = set(to_json(base_of(cls))) - {specs.KIND}
    assert set(specs.descriptions(cls)) == fields


def test_descriptions_are_one_line():
    assert specs.descriptions(Toy) == {"width": "of something, over two lines."}


def test_everything_comes_back():
    assert from_config(json.loads(json.dumps(to_json(FULL)))) == FULL
    config = recipe(FULL)
    assert from_config(config) == FULL
    assert config.stages[0].kind == "linear"
    assert config.parts.a.beta_end == 0.5
    with pytest.raises((KeyError, AttributeError)):
        config.widht = 3


def test_a_recipe_is_changed_as_any_config():
    config = recipe(Toy())
    config.width = 6
    config.most = 2  # an integer of a number that was None
    config.other = recipe(Jsd(4))
    read = from_config(config)
    assert (read.width, read.most, read.other) == (6, 2.0, Jsd(4))
    assert isinstance(read.most, float)
    with pytest.raises(TypeError):
        config.width = "six"


def test_what_is_newer_takes_its_default():
    assert from_config({"kind": "toy", "width": 9}) == Toy(width=9)


def test_a_recipe_of_several_specs():
    config = recipe(Toy(), chain=Cosine(6), more=FULL)
    assert from_recipe(config) == (Toy(), {"chain": Cosine(6), "more": FULL})
    assert from_recipe(json.loads(config.to_json())) == from_recipe(config)
    config = override(config, ["--config.chain.num_levels=5", "--config.width=3"])
    assert from_recipe(config) == (Toy(3), {"chain": Cosine(5), "more": FULL})
    with pytest.raises(UserError, match=r"unknown option config\.chian .did you mean"):
        override(config, ["--config.chian.num_levels=5"])
    with pytest.raises(UserError, match="has a field 'width' already"):
        recipe(Toy(), width=Jsd())


def test_options_lists_every_field_and_every_kind_that_fits():
    config = recipe(FULL, chain=Cosine(6))
    listed = {option.name: option for option in specs.options(config)}
    assert listed["width"].value == 5
    assert listed["width"].what == "of something, over two lines."
    assert listed["schedule.kind"].value == "jsd"
    assert set(listed["schedule.kind"].kinds) == set(specs.kinds(ScheduleSpec))
    assert listed["stages.1.num_levels"].value == 3
    assert listed["parts.a.beta_end"].value == 0.5
    assert listed["parts.NAME.kind"].kinds == tuple(specs.kinds(ScheduleSpec))
    assert listed["chain.num_levels"].value == 6
    # Each can be given as it is listed, but the places for new entries.
    given = [
        f"--config.{o.name}={o.value}"
        for o in listed.values()
        if "NAME" not in o.name and not isinstance(o.value, list)
    ]
    assert from_recipe(override(config, given)) == (FULL, {"chain": Cosine(6)})


# --- Refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"widht": 3},
            r"unknown option c\.widht \(did you mean width\?\); c \(toy\) "
            "has anything, is_on, mode, ",
        ),
        ({"width": "3"}, r"c\.width='3' is of a wrong type; use an integer\."),
        ({"width": True}, r"c\.width=True is of a wrong type; use an integer\."),
        ({"width": 3.0}, r"c\.width=3\.0 is of a wrong type; use an integer\."),
        (
            {"width": 10**30},
            r"c\.width is out of range; use 9,223,372,036,854,775,807 or less",
        ),
        ({"width": 10**5000}, r"c\.width is out of range"),
        ({"width": None}, r"c\.width=None is of a wrong type; use an integer\."),
        ({"is_on": 1}, r"c\.is_on=1 is of a wrong type; use True or False\."),
        ({"share": True}, r"c\.share=True is of a wrong type; use a number\."),
        ({"share": float("nan")}, r"c\.share=nan is not finite"),
        ({"share": 1}, r"c\.share=1\.0 is not in \[0, 1\); use 0 to switch it off\."),
        ({"most": 10**400}, r"c\.most is out of range"),
        ({"most": "x"}, r"c\.most='x' is of a wrong type; use a number\."),
        ({"name": 3}, r"c\.name=3 is of a wrong type; use text\."),
        (
            {"mode": "fats"},
            r"c\.mode='fats' is not known; use slow, fast \(did you mean "
            r"fast\?\)",
        ),
        (
            {"size": [1, 2, 3]},
            r"c\.size=\[1, 2, 3\] is of a wrong type; use an integer "
            "or a tuple of 2: an integer, an integer",
        ),
        (
            {"sides": "1,2"},
            r"c\.sides='1,2' is of a wrong type; use a tuple, each an "
            r"integer, such as \(1, 2\)\.",
        ),
        ({"sides": [1, 2.5]}, r"c\.sides\.1=2\.5 is of a wrong type; use an integer"),
        ({"pair": [1]}, r"c\.pair=\[1\] is of a wrong type; use a tuple of 2"),
        ({"width": 13}, r"c: thirteen brings bad luck"),
        ({"schedule": 3}, r"c\.schedule is 3; it holds options by name\."),
        ({"schedule": None}, r"c\.schedule is None; it holds options by name\."),
        ({"schedule": {}}, r"c\.schedule does not say its kind; it is one of .*cosine"),
        (
            {"schedule": {"kind": "cosin"}},
            r"c\.schedule\.kind='cosin' is not known; use "
            r".*linear.* \(did you mean cosine\?\)\. A kind of your own is "
            "known once the module that registers it is imported",
        ),
        ({"schedule": {"kind": "toy"}}, r"c\.schedule\.kind='toy' is not known; use "),
        (
            {"schedule": {"kind": ["cosine"]}},
            r"c\.schedule\.kind=\['cosine'\] is not kn",
        ),
        (
            {"schedule": {"kind": "jsd", "num_levels": 1}},
            r"c\.schedule\.num_levels=1 is too small; use 2 or more\.",
        ),
        (
            {"stages": [{"kind": "linear", "beta_end": 2.0}]},
            r"c\.stages\.0\.beta_end=2\.0 is not in \(0, 1\)",
        ),
        (
            {"parts": {"a": {"kind": "jsd", "beta_end": 2.0}}},
            r"unknown option c\.parts\.a\.beta_end; c\.parts\.a \(jsd\) has num_",
        ),
        ({"parts": []}, r"c\.parts=\[\] is of a wrong type; use options by name\."),
        ({"anything": {"kind": "nobody"}}, r"c\.anything\.kind='nobody' is not known"),
        ({"kind": "nobody"}, r"c\.kind='nobody' is not known; use "),
    ],
)
def test_one_line_says_where_and_what(change, message):
    with pytest.raises(UserError, match=message) as caught:
        from_config({**to_json(Toy()), **change}, path="c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, 3, "toy", [], [1], {}, {"kind": {}}])
def test_what_is_no_spec_at_all(data):
    with pytest.raises(UserError):
        from_config(data)
    with pytest.raises(UserError):
        from_recipe(data)


def test_a_recipe_with_a_mistyped_field_names_it():
    with pytest.raises(UserError, match=r"config\.schedule\.t_range='x' is of a wrong"):
        recipe(Toy(schedule=Fragile(t_range="x")))


@register
@dataclasses.dataclass(frozen=True)
class Fragile(ScheduleSpec):
    def __post_init__(self):
        pass


def damaged(rng, data):
    """Return JSON data with one place of it changed."""
    if isinstance(data, dict) and data and rng.random() < 0.8:
        name = rng.choice(sorted(data))
        if rng.random() < 0.1:
            return {k: v for k, v in data.items() if k != name}
        if rng.random() < 0.1:
            return {**data, name[1:]: data[name]}
        return {**data, name: damaged(rng, data[name])}
    if isinstance(data, list) and data and rng.random() < 0.8:
        i = rng.randrange(len(data))
        return [*data[:i], damaged(rng, data[i]), *data[i + 1 :]]
    junk = (None, True, 0, -1, 10**19, -(10**400), 1e308, float("inf"), "", "x", [], {})
    return rng.choice([*junk, [[]], {"kind": "toy"}, {"kind": None}])


def test_damage_is_refused_or_means_something():
    rng, refused = random.Random(0), 0
    for kind, cls in specs.kinds().items():
        for _ in range(60):
            data = damaged(rng, to_json(base_of(cls)))
            try:
                made = from_config(data, path=kind)
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
                continue
            assert from_config(to_json(made)) == made
    assert refused > 100


def test_endless_nesting_is_refused():
    deep = to_json(Toy())
    for _ in range(5000):
        deep = {"kind": "toy", "anything": deep}
    with pytest.raises(UserError, match="nested too deeply"):
        from_config(deep)


# --- Overrides ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("width=7", "width", 7),
        ("width=-7", "width", -7),
        ("share=1e-3", "share", 1e-3),
        ("share=0", "share", 0.0),
        ("is_on=true", "is_on", True),
        ("is_on=False", "is_on", False),
        ("is_on", "is_on", True),
        ("name=None", "name", "None"),
        ("name=a=b, c", "name", "a=b, c"),
        ("name=", "name", ""),
        ("mode=fast", "mode", "fast"),
        ("size=48", "size", 48),
        ("size=32,48", "size", (32, 48)),
        ("most=3", "most", 3.0),
        ("most=None", "most", None),
        ("sides=(3,4)", "sides", (3, 4)),
        ("sides=3,4", "sides", (3, 4)),
        ("sides=[3, 4]", "sides", (3, 4)),
        ("sides=3", "sides", (3,)),
        ("sides=3,", "sides", (3,)),
        ("sides=()", "sides", ()),
        ("sides=", "sides", ()),
        ("pair=3,4", "pair", (3, 4.0)),
        ("schedule.num_levels=30", "schedule", Linear(30)),
        ("schedule.kind=cosine", "schedule", Cosine()),
        ("other.kind=jsd", "other", Jsd()),
        ("parts.low.kind=jsd", "parts", {"low": Jsd()}),
        ("anything.kind=toy", "anything", Toy()),
    ],
)
def test_an_option_is_read_as_its_field_wants_it(option, name, value):
    made = from_config(override(recipe(Toy()), [f"--config.{option}"]))
    assert made == dataclasses.replace(Toy(), **{name: value})
    assert type(getattr(made, name)) is type(value)


def test_another_kind_begins_with_its_defaults_and_comes_first():
    config = recipe(Toy(schedule=Linear(50, beta_end=0.5)))
    arguments = ["--config.schedule.num_levels=20", "--config.schedule.kind=cosine"]
    assert from_config(override(config, arguments)).schedule == Cosine(20)
    same = override(config, ["--config.schedule.kind=linear"])
    assert from_config(same).schedule == Linear(50, beta_end=0.5)
    other = override(recipe(Toy(), chain=Jsd(3)), ["--config.kind=cosine"])
    assert from_recipe(other) == (Cosine(), {"chain": Jsd(3)})


def test_overrides_of_what_is_inside():
    config = recipe(FULL)
    arguments = ["--config.stages.1.num_levels", "9", "--config.parts.a.beta_end=0.25"]
    made = from_config(override(config, [*arguments, "--config.other=None"]))
    assert made.stages == (Linear(2), Jsd(9))
    assert made.parts == {"a": Linear(beta_end=0.25), "b": Jsd(5)}
    assert made.other is None
    assert from_config(config) == FULL  # which is not changed


def test_options_are_read_on_their_own():
    """Though share and width cannot be so, and the stages of the recipe are none."""
    arguments = ["--config.share=1.5", "--config.width", "13", "--config.sides=4,5"]
    arguments += ["--config.chain.kind=jsd", "--config.stages.1.num_levels=9"]
    found = specs.given_values(recipe(FULL, chain=Jsd()), arguments)
    assert found == {
        "share": 1.5,
        "width": 13,
        "sides": (4, 5),
        "chain.kind": "jsd",
        "stages.1.num_levels": 9,
    }
    with pytest.raises(UserError, match=r"config\.sides='x' is of a wrong type"):
        specs.given_values(recipe(FULL), ["--config.sides=x"])


def test_the_last_of_an_option_counts():
    arguments = ["--config.sides=1,2,3", "--config.width=2", "--config.sides=4"]
    assert from_config(override(recipe(Toy()), arguments)) == Toy(2, sides=(4,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.widht=3"],
            r"unknown option config\.widht \(did you mean width\?\)",
        ),
        (["--config.schedule.beta=3"], r"unknown option config\.schedule\.beta"),
        (["--config.width.a=3"], r"config\.width\.a; config\.width is a value"),
        (
            ["--config.width=three"],
            r"config\.width='three' is of a wrong type; use an i",
        ),
        (["--config.width=3.0"], r"config\.width='3\.0' is of a wrong type"),
        (["--config.width=True"], r"config\.width='True' is of a wrong type"),
        (["--config.width=" + "9" * 30], r"config\.width is out of range"),
        (
            ["--config.width=" + "9" * 9000],
            r"config\.width='9+\.\.\. is of a wrong type",
        ),
        (["--config.share=nan"], r"config\.share=nan is not finite"),
        (["--config.share=1e999"], r"config\.share=inf is not finite"),
        (["--config.share=2"], r"config\.share=2\.0 is not in \[0, 1\)"),
        (
            ["--config.is_on=maybe"],
            r"is_on='maybe' is of a wrong type; use True or Fal",
        ),
        (["--config.mode=fasst"], r"config\.mode='fasst' is not known; use slow, fast"),
        (
            ["--config.sides=a,b"],
            r"config\.sides='a,b' is of a wrong type; use a tuple",
        ),
        (["--config.sides=1,,2"], r"config\.sides='1,,2' is of a wrong type"),
        (["--config.pair=1,2,3"], r"config\.pair='1,2,3' is of a wrong type"),
        (
            ["--config.size=x"],
            r"config\.size='x' is of a wrong type; use an integer or",
        ),
        (["--config.schedule=cosine"], "schedule is a section; set one of beta_end, "),
        (["--config.parts=x"], "--config.parts is a section"),
        (["--config.other=x"], "--config.other is a section; set one of kind"),
        (
            ["--config.other.num_levels=3"],
            r"config\.other is None: set config\.other\."
            "kind as well, to one of constant, cosine",
        ),
        (
            ["--config.schedule.kind=x"],
            r"config\.schedule\.kind='x' is not known; use ",
        ),
        (["--config.schedule.kind"], r"config\.schedule\.kind=None is not known"),
        (["--config.schedule.kind=toy"], r"config\.schedule\.kind='toy' is not known"),
        (
            ["--config.parts.a.num_levels=3"],
            r"option config\.parts\.a; config\.parts has",
        ),
        (
            ["--config.stages.0.kind=jsd"],
            r"config\.stages\.0; config\.stages has no ent",
        ),
        (
            ["--config.width"],
            r"--config\.width has no value; write --config\.width=VAL",
        ),
        (["--config.=3"], r"unknown option config\."),
        (["--confg.width=3"], "unknown flag --confg.width; an option is --config.NAME"),
        (["width=3"], "unknown argument 'width=3'"),
        (["--config.width=13"], "config: thirteen brings bad luck"),
    ],
)
def test_an_override_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        override(recipe(Toy()), arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# --- Kinds of one's own ---------------------------------------------------------------


def test_the_same_class_may_be_registered_again():
    @dataclasses.dataclass(frozen=True)
    class Again:
        a: int = 1

    register(Again)
    first = Again(2)

    @dataclasses.dataclass(frozen=True)
    class Again:  # as of a recipe that is read twice
        a: int = 1

    register(Again)
    assert isinstance(from_config(to_json(first)), Again)
    del specs._known["again"]


def test_another_class_of_the_same_kind_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Cosine:
        pass

    with pytest.raises(
        TypeError, match=r"'cosine' is that of ddpm_jax\.diffusion\.sch"
    ):
        register(Cosine)


@pytest.mark.parametrize(
    "wanted", [list[int], complex, bytes, "dict", set[int], object]
)
def test_a_field_that_no_recipe_can_hold_is_refused_when_registered(wanted):
    cls = dataclasses.make_dataclass("Strange", [("a", wanted)], frozen=True)
    with pytest.raises(TypeError, match=r"Strange\.a is of type"):
        register(cls)


def test_what_is_no_frozen_dataclass_is_refused_when_registered():
    class Plain:
        pass

    with pytest.raises(TypeError, match="not a dataclass"):
        register(Plain)
    with pytest.raises(TypeError, match="not frozen"):
        register(dataclasses.make_dataclass("Loose", [("a", int)]))


def test_a_class_that_is_not_registered_cannot_be_stored():
    @dataclasses.dataclass(frozen=True)
    class Unknown(ScheduleSpec):
        pass

    with pytest.raises(UserError, match="Unknown is not registered; decorate it with"):
        recipe(Toy(schedule=Unknown()))


# --- A recipe of things that the package does not have --------------------------------

RECIPE = """
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from ddpm_jax.diffusion.schedules import Cosine, ScheduleSpec, Table
from ddpm_jax.limits import between
from ddpm_jax.specs import recipe, register
from ddpm_jax.tasks.autoencoder import AutoencoderTask
from ddpm_jax.tasks.diffusion import Diffusion
from ddpm_jax.training.fit import Fit
from ddpm_jax.training.optimizers import OptimizerSpec


@dataclasses.dataclass(frozen=True)
class PointNetwork:
    pass


@register
@dataclasses.dataclass(frozen=True)
class Perceptron(PointNetwork):
    widths: tuple[int, ...] = (64, 64)

    def __post_init__(self):
        between(self, "widths", 1, 4096)


@register
@dataclasses.dataclass(frozen=True)
class Points:
    num_coordinates: int = 2
    scale: float | None = None


@register
@dataclasses.dataclass(frozen=True)
class Angle:
    dropout: float = 0.1


@register
@dataclasses.dataclass(frozen=True)
class Halving(Table):
    def betas(self):
        import numpy as np

        return np.full(self.num_levels, 0.5)


@register
@dataclasses.dataclass(frozen=True)
class SignDescent(OptimizerSpec):
    momentum: float = 0.9


@register
@dataclasses.dataclass(frozen=True)
class PointDiffusion:
    process: Diffusion
    network: PointNetwork = dataclasses.field(default_factory=Perceptron)
    codec: Points = dataclasses.field(default_factory=Points)
    conditioners: Mapping[str, Angle] = dataclasses.field(default_factory=dict)


def get_config():
    return recipe(
        PointDiffusion(
            Diffusion(schedule=Halving(16), prediction="v", variance="small"),
            network=Perceptron((32, 16)),
            conditioners={"angle": Angle(0.2)},
        ),
        fit=Fit(num_steps=30, optimizer=SignDescent(), decay="cosine"),
    )
"""


def imported(path):
    """Import a recipe as the program does."""
    of_file = importlib.util.spec_from_file_location("recipe_points", path)
    module = importlib.util.module_from_spec(of_file)
    sys.modules["recipe_points"] = module
    of_file.loader.exec_module(module)
    return module


def test_a_recipe_of_ones_own_kinds_needs_no_edit_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(specs, "_known", dict(specs._known))
    monkeypatch.setitem(sys.modules, "recipe_points", None)
    (tmp_path / "points.py").write_text(RECIPE)
    before = dict(specs._known)
    module = imported(tmp_path / "points.py")
    arguments = ["--config.network.widths=8,4", "--config.fit.optimizer.momentum=0.5"]
    arguments += ["--config.process.schedule.num_levels=8"]
    arguments += ["--config.conditioners.angle.dropout=0"]
    config = override(module.get_config(), arguments)
    (tmp_path / "spec.json").write_text(json.dumps(to_json(config), allow_nan=False))
    wanted = module.PointDiffusion(
        Diffusion(schedule=module.Halving(8), prediction="v", variance="small"),
        network=module.Perceptron((8, 4)),
        conditioners={"angle": module.Angle(0.0)},
    )
    stored = json.loads((tmp_path / "spec.json").read_text())
    spec, others = from_recipe(stored)
    assert spec == wanted
    assert others["fit"].optimizer == module.SignDescent(0.5)
    level = spec.process.schedule.build().at(np.arange(8))
    np.testing.assert_allclose(level.alpha**2, 0.5 ** np.arange(1, 9), rtol=1e-6)
    for option, message in [
        ("network.kind=unet", r"config\.network\.kind='unet' is not known; use percep"),
        ("network.widhts=1", r"config\.network\.widhts \(did you mean widths\?\)"),
        ("network.widths=0", r"config\.network\.widths=0 is too small; use 1 or more"),
        (
            "conditioners.angel.dropout=0",
            r"option config\.conditioners\.angel \(did you",
        ),
        ("process.prediction=eps2", r"config\.process\.prediction='eps2' is not known"),
        (
            "process.variance=learned",
            r"config\.process\.loss=Simple\(\) does not train",
        ),
        ("fit.restarts=40", r"config\.fit\.restarts=\(40,\) are not rising steps"),
    ]:
        with pytest.raises(UserError, match=message):
            override(config, [f"--config.{option}"])
    # In another process, where nobody has imported the recipe.
    monkeypatch.setattr(specs, "_known", before)
    with pytest.raises(UserError, match=r"'point_diffusion' is not known; .* imported"):
        from_recipe(stored)
    imported(tmp_path / "points.py")
    assert to_json(from_recipe(stored)[0]) == to_json(wanted)


# --- Comparison -----------------------------------------------------------------------


def test_differences_name_every_option_that_differs():
    other = dataclasses.replace(
        FULL,
        width=6,
        schedule=Cosine(),
        other=None,
        parts={"a": Linear(beta_end=0.25), "c": Jsd()},
        stages=(Linear(2),),
    )
    assert differences(FULL, recipe(other)) == [
        "other: cosine -> None",
        "parts.a.beta_end: 0.5 -> 0.25",
        "parts.b: jsd -> none",
        "parts.c: none -> jsd",
        "schedule.kind: 'jsd' -> 'cosine'",
        "stages: (linear, jsd) -> (linear)",
        "width: 5 -> 6",
    ]
    assert differences(FULL, to_json(FULL)) == []
    deeper = dataclasses.replace(FULL, stages=(Linear(3), Jsd(3)))
    assert differences(FULL, deeper) == ["stages.0.num_levels: 2 -> 3"]
    assert isinstance(recipe(FULL), ConfigDict)
