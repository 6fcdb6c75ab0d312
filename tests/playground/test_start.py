"""What the playground is started with: options, and models that it can draw from."""

import importlib.util
from types import SimpleNamespace

import pytest
import tiny

from ddpm_jax.commands import about, model
from ddpm_jax.data.info import DataInfo
from ddpm_jax.playground import server
from ddpm_jax.playground.__main__ import main
from ddpm_jax.recipe import ClassifierTask, from_json, recipe
from ddpm_jax.requests import Sample

INFO = DataInfo("digits", (8, 8, 1), tuple("0123456789"), "")


@pytest.fixture
def started(monkeypatch):
    """Start without a run or a server; (recipe, words) -> status, configs served."""
    served, find = [], importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "gradio" or find(name)
    )
    monkeypatch.setattr(model, "open_model", lambda *_: SimpleNamespace(info=INFO))
    monkeypatch.setattr(
        server, "serve", lambda studio, *_: served.append(studio and studio.recipe)
    )

    def start(recipe, *words):
        monkeypatch.setattr(about, "trained_recipe", lambda workdir: from_json(recipe))
        return main(["--workdir=runs/any", "--port=0", *words]), served

    return start


def test_options_of_the_command_line_are_those_of_the_page(started):
    words = ["--config.sample.sampler=ddim", "--config.sample.num_images=3"]
    status, (recipe,) = started(tiny.get_config(), *words)
    assert status == 0
    asked = recipe.request(Sample)
    assert (asked.sampler, asked.num_images) == ("ddim", 3)
    assert asked.film_frames == 4, "the others are those of the run"


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        (
            recipe(ClassifierTask()),
            [],
            "runs/any holds another kind (classifier); name the run",
        ),
        (
            tiny.get_config(),
            ["--config.sample.samplr=ddim"],
            "config.sample.samplr (did you mean sampler?)",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    started, recipe, words, message, capsys
):
    status, served = started(recipe, *words)
    said = capsys.readouterr().err
    assert (status, served) == (2, [])
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said


def test_without_a_run_the_page_trains_on_drawn_points(started, capsys):
    del started  # its patches are what is needed
    assert main(["--port=0"]) == 0
    assert main(["--port=0", "--config.sample.sampler=ddim"]) == 2
    said = capsys.readouterr().err
    assert "--config.sample.sampler=ddim is of a model, and none is named" in said
