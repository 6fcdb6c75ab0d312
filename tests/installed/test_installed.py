"""The package as pip installs it, used from another folder."""

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("ddpm_jax", "configs", "pyproject.toml", "setup.py", "requirements.txt")
TEXTS = ("README.md", "LICENSE")
SMALL = [
    "--config.network.channels=8",
    "--config.network.num_groups=4",
    "--config.network.channel_multipliers=(1,)",
    "--config.network.num_res_blocks=1",
    "--config.network.attention_resolutions=()",
    "--config.schedule.num_levels=10",
    "--config.training.num_steps=2",
    "--config.training.warmup_steps=0",
    "--config.training.batch_size=4",
    "--config.training.preview_every=0",
    "--config.preview_steps=4",
    "--config.sample.num_images=2",
    "--config.sample.batch_size=2",
    "--config.sample.num_steps=4",
    "--config.sample.film_frames=2",
    "--config.sample.film_images=2",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install a copy of the sources, without dependencies, to a folder of its own."""
    source = tmp_path_factory.mktemp("source")
    for name in (*PARTS, *TEXTS):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, f"--target={target}", str(source)], check=True)
    return target


@pytest.fixture
def start(site, tmp_path):
    """Return a function that starts `ddpm-jax` in an empty folder."""

    def run(*arguments, **environment):
        return subprocess.run(
            [str(site / "bin" / "ddpm-jax"), *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(site),
                "JAX_PLATFORMS": "cpu",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_recipe_by_its_name_trains_in_another_folder(start, tmp_path):
    done = start("--config=digits", *SMALL)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "digits"
    assert (run / "checkpoints" / "2").is_dir()
    assert len(list(run.glob("samples/*/grid.png"))) == 1


def test_a_recipe_by_its_path(start, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ddpm_jax.recipe import Data, Diffusion, recipe\n"
        "def get_config():\n    c = recipe(Diffusion(data=Data(source='digits')))\n"
        "    c.schedule.kind = 'lineer'\n    return c\n"
    )
    done = start("--config=mine.py")
    assert done.returncode == 2
    assert "config.schedule.kind='lineer' is not known; use " in done.stderr
    assert "did you mean linear?" in done.stderr  # the recipe was read


def test_all_recipes_are_shipped(start, site):
    shipped = {path.name for path in (site / "ddpm_jax" / "recipes").glob("*.py")}
    assert shipped == {path.name for path in (ROOT / "configs").glob("*.py")}
    done = start("--config=difits")
    assert done.returncode == 2
    assert all(path.removesuffix(".py") in done.stderr for path in shipped)


def test_all_modules_are_shipped(site):
    there = {p.relative_to(ROOT) for p in (ROOT / "ddpm_jax").rglob("*.py")}
    assert {p.relative_to(site) for p in (site / "ddpm_jax").rglob("*.py")} >= there


def test_help_speaks_of_the_command(start):
    done = start("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ddpm-jax ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ddpm-jax sam", {"sample"}),
        ("ddpm-jax edit in", {"inpaint", "interpolate"}),
        ("ddpm-jax --wo", {"--workdir"}),
    ],
)
def test_a_shell_completes(start, tmp_path, line, expected):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    start(
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(answer),
        _ARGCOMPLETE_IFS="\n",
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    words = answer.read_text().splitlines()
    assert {word.strip(" =").rpartition("=")[2] for word in words} >= expected


@pytest.mark.parametrize("package", ["absl", "ml_collections", "jax", "flax"])
def test_control_c_is_quiet_while_importing(site, tmp_path, package):
    # A stand-in that says when it is being imported, and takes its time.
    (tmp_path / f"{package}.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [str(site / "bin" / "ddpm-jax"), "--config=digits"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{site}"},
        # Whoever runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said == "interrupted.\n"
    assert process.returncode == 130


def test_the_extra_of_the_page_is_what_make_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements-app.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert extras["optional-dependencies"]["app"] == wanted
