"""Fetching from the hub: exactly the files it takes, and one line when it fails."""

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.weights import hub

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
    monkeypatch.setattr(hub, "_is_reached", lambda endpoint: True)

    def download(repository, name, *, local_files_only):
        assert repository == "google/ddpm-celebahq-256"
        assert not local_files_only
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
    r"folder ddpm-celebahq-256/ here, and give ddpm-celebahq-256/\.$"
)


def test_the_library_itself_fails_offline(monkeypatch, tmp_path):
    """No answer of ours: the library is told that there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=BY_HAND) as failure:
        hub.fetch("google/ddpm-celebahq-256")
    assert "\n" not in str(failure.value)
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file()]


def test_without_a_network_it_says_so_at_once(monkeypatch, tmp_path):
    """The library would try for half a minute; now it is asked for its cache alone."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        began = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached from here.*" + BY_HAND):
            hub.fetch("google/ddpm-celebahq-256")
    assert time.monotonic() - began < 3


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    never = threading.Event()

    def connect(*_):
        never.wait(20)
        raise OSError

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    assert not hub._is_reached("https://huggingface.co")
    never.set()


def test_a_hub_that_listens_is_reached(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert hub._is_reached(f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://p:1"})
    assert hub._is_reached("https://nowhere.invalid")  # the proxy will tell


def test_a_failure_of_any_kind_is_one_line(monkeypatch):
    monkeypatch.setattr(hub, "_is_reached", lambda endpoint: True)

    def download(repository, name, *, local_files_only):
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
