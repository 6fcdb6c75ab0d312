"""Fetching a model from the Hugging Face hub: the files it takes, and no others."""

import contextlib
import importlib
import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from types import ModuleType

from ddpm_jax.errors import UserError
from ddpm_jax.weights.diffusers import PICKLED_WEIGHTS, WEIGHTS
from ddpm_jax.weights.diffusers_autoencoder import is_autoencoder
from ddpm_jax.weights.diffusers_scheduler import FILE as SCHEDULER
from ddpm_jax.weights.diffusers_unet import FILE as UNET

_PATIENCE = 4.0  # seconds to wait for a connection
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(source: str) -> bool:
    """Return whether a text has the form OWNER/NAME."""
    return _REPOSITORY.fullmatch(source) is not None


def fetch(repository: str) -> Path:
    """Fetch a diffusers model, or take it from the hub's cache.

    Args:
        repository: "owner/name".

    Returns:
        The folder that holds it.

    Raises:
        UserError: it cannot be fetched; the message names the file to put in place
            instead.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        for part in ("constants", "errors", "utils"):
            importlib.import_module(f"huggingface_hub.{part}")
    except ImportError as error:
        raise UserError(
            f"{repository} is fetched with huggingface_hub, which is not "
            f"installed; pip install huggingface_hub, or {_by_hand(repository)}."
        ) from error
    try:
        return _fetch(hub, repository)
    except UserError:
        raise
    except Exception as error:  # of the network, of its client or of the repository
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        if isinstance(error, hub.errors.LocalEntryNotFoundError):
            reason = "it cannot be reached from here, and the model is not in its cache"
        raise UserError(
            f"{repository} cannot be fetched from huggingface.co ({reason[:200]}); "
            f"{_by_hand(repository)}."
        ) from error


def _by_hand(repository: str) -> str:
    folder = repository.partition("/")[2]
    return (
        f"on a machine with internet take {UNET}, {SCHEDULER} and {WEIGHTS} from "
        f"https://huggingface.co/{repository}/tree/main, put them into a folder "
        f"{folder}/ here, and give {folder}/"
    )


def _is_reached(endpoint: str) -> bool:
    """Return whether a connection can be made, within seconds.

    The hub's client tries again and again, for more than half a minute. The name's
    server may not answer either, and there is no limit to set on that.
    """
    if urllib.request.getproxies():
        return True  # unknown behind a proxy
    where = urllib.parse.urlsplit(endpoint)
    port = where.port or (80 if where.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((where.hostname or "", port), _PATIENCE).close()
            answered.set()

    trying = threading.Thread(target=connect, daemon=True)
    trying.start()
    trying.join(_PATIENCE)
    return answered.is_set()


def _fetch(hub: ModuleType, repository: str) -> Path:
    hub.utils.logging.set_verbosity_error()  # a failure is reported in one line, by us
    offline = hub.constants.HF_HUB_OFFLINE or not _is_reached(hub.constants.ENDPOINT)

    def get(*names: str) -> Path:
        """Fetch the first of some files that the repository has."""
        for name in names:
            try:
                path = hub.hf_hub_download(repository, name, local_files_only=offline)
                return Path(path)
            except hub.errors.LocalEntryNotFoundError:
                raise  # not known to be absent: the hub was not reached
            except hub.errors.EntryNotFoundError:
                continue
        raise UserError(
            f"{repository} has no {' or '.join(names)}; give a repository with a "
            "diffusers UNet2DModel or AutoencoderKL."
        )

    settings = get(UNET, f"unet/{UNET}")
    if is_autoencoder(settings.parent):
        get(WEIGHTS, PICKLED_WEIGHTS)
        return settings.parent
    part = "unet/" if settings.parent.name == "unet" else ""
    places = [SCHEDULER, f"scheduler/{SCHEDULER}"]
    get(*(places[::-1] if part else places))
    get(part + WEIGHTS, part + PICKLED_WEIGHTS)
    return settings.parent.parent if part else settings.parent
