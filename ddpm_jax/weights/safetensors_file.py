"""Tensors by name in the safetensors format: a JSON header, then the numbers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a file.

    Args:
        path: the file.

    Raises:
        UserError: it is missing, cut short, damaged, or holds a type that NumPy lacks.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one in the safetensors format.")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is cut short or damaged ({reason}); fetch it again."
        ) from error
    except (TypeError, AttributeError, KeyError) as error:  # bfloat16, float8
        raise UserError(
            f"{path} holds numbers of a type that NumPy lacks ({error}); give the "
            "checkpoint in float32 or float16."
        ) from error


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors [...], of any shapes, by name; see `files.write`.

    The header has "pt" as the format, which PyTorch programs require.
    """
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    body = save(whole, metadata={"format": "pt"})
    files.write_bytes(path, body)
