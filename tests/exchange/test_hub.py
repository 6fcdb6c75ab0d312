"""Fetching from the hub: exactly the files it takes, and one line when it fails."""

import sys
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.exchange import hub

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

ROOT_LAYOUT = ["config.json", "scheduler_config.json"]
SAFE = "diffusion_pytorch_model.safetensors"
PICKLED = "diffusion_pytorch_model.bin"
PIPELINE = ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"]


class Absent(errors.EntryNotFoundError):
    def __init__(self):
        Exception.__init__(self, "404 Client Error")


def serve(monkeypatch, folder, files):
    """Let the hub have these files; return the list of what it gave."""
    given = []

    def download(repository, name):
        assert repository == "google/ddpm-celebahq-256"
        if name not in files:
            raise Absent
        given.append(name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return given


@pytest.mark.parametrize(
    ("files", "wanted", "place"),
    [
        (
            [*ROOT_LAYOUT, SAFE, "README.md", PICKLED, "model_index.json"],
            [*ROOT_LAYOUT, SAFE],
            "",
        ),
        (
            [*ROOT_LAYOUT, PICKLED],
            [*ROOT_LAYOUT, PICKLED],
            "",
        ),
        (
            [*PIPELINE, f"unet/{SAFE}"],
            [*PIPELINE[:2], f"unet/{SAFE}"],
            "",
        ),
    ],
    ids=["safetensors", "bin", "pipeline"],
)
def test_it_is_asked_for_exactly_the_files_needed(
    files, wanted, place, monkeypatch, tmp_path
):
    given = serve(monkeypatch, tmp_path, files)
    assert hub.fetch("google/ddpm-celebahq-256") == tmp_path / place
    assert given == wanted


def test_an_autoencoder_has_no_scheduler(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    given = serve(monkeypatch, tmp_path, ["config.json", PICKLED, "README.md"])
    assert hub.fetch("google/ddpm-celebahq-256") == tmp_path
    assert given == ["config.json", PICKLED]


def test_a_repository_without_a_model(monkeypatch, tmp_path):
    serve(monkeypatch, tmp_path, ROOT_LAYOUT)
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model.safetensors"):
        hub.fetch("google/ddpm-celebahq-256")


BY_HAND = (
    r"take config.json, scheduler_config.json and diffusion_pytorch_model.safetensors "
    r"from https://huggingface.co/google/ddpm-celebahq-256/tree/main, put them into a "
    r"folder ddpm-celebahq-256/ here, and give --from=ddpm-celebahq-256/\.$"
)


def test_the_library_itself_fails_offline(monkeypatch, tmp_path):
    """No answer of ours: the library is told that there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=BY_HAND) as failure:
        hub.fetch("google/ddpm-celebahq-256")
    assert "\n" not in str(failure.value)
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]


def test_a_failure_of_any_kind_is_one_line(monkeypatch):
    def download(repository, name):
        raise RuntimeError("the socket\nis on fire. More about it")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"\(the socket is on fire\).*" + BY_HAND):
        hub.fetch("google/ddpm-celebahq-256")


def test_the_library_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub, or on a "):
        hub.fetch("google/ddpm-celebahq-256")


def test_names_of_repositories():
    for name in ("google/ddpm-cifar10-32", "a/b", "me_2/x.y"):
        assert hub.is_repository(name)
    for name in ("folder", "a/b/c", "../x", "./x", "/x", "a b/c", "~/x", ""):
        assert not hub.is_repository(name)
