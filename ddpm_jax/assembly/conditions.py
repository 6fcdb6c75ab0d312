"""The conditioners of a model, and the conditions of samples."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import conditioning, specs
from ddpm_jax.assembly.keys import sample_key
from ddpm_jax.assembly.labels_prompts import prompts, sample_labels
from ddpm_jax.assembly.pictures import source_rows
from ddpm_jax.assembly.source import DataInfo, clip_of, tokenizer_of
from ddpm_jax.codecs import Params
from ddpm_jax.conditioning import Encoded, Tokenizer, Tokens
from ddpm_jax.conditioning.conditioned import Conditioned, encode
from ddpm_jax.conditioning.conditioner import NEGATIVE, Cond, from_batch
from ddpm_jax.conditioning.encoded_text import interpolate
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.errors import UserError
from ddpm_jax.networks.ports import Ports
from ddpm_jax.recipe import Conditioner, Diffusion
from ddpm_jax.requests import Sample


def conditioners(spec: Diffusion, info: DataInfo) -> dict[str, Conditioner]:
    """Build what the network is conditioned on, by name.

    Args:
        spec: of the model.
        info: of the data.

    Raises:
        UserError: the text encoder is not on this machine, or an option is out of
            range.
    """
    made: dict[str, Conditioner] = {}
    for name, one in spec.conditioners.items():
        with specs.located(f"config.conditioners.{name}"):
            made[name] = one.for_data(info)
    return made


def is_droppable(spec: Diffusion, info: DataInfo) -> bool:
    """Tell whether condition dropout and guidance have anything to act on."""
    return any(one.droppable for one in conditioners(spec, info).values())


def has_tokens(spec: Diffusion, info: DataInfo) -> bool:
    """Tell whether a condition enters the network by its port of tokens."""

    def ports_of(key: jax.Array, one: Conditioner) -> Ports:
        embedder = one.embedder(spec.network.embedding_width)
        ports: Ports = embedder.init_with_output(key, one.example(1, info.shape))[0]
        return ports

    key = jax.random.key(0)
    return any(
        jax.eval_shape(partial(ports_of, one=one), key).tokens is not None
        for one in conditioners(spec, info).values()
    )


def example_condition(unet: Conditioned, info: DataInfo) -> Cond:
    """Make a condition of one row, for its shapes and its costs."""
    return {name: one.example(1, info.shape) for name, one in unet.conditioners.items()}


# --- Of real images ------------------------------------------------------------------


class Captions(NamedTuple):
    """The texts of N examples, U of them distinct.

    Attributes:
        rows: leaves [U, ...].
        places: int32 [N], the row of each example.
    """

    rows: Tokens | Encoded
    places: np.ndarray


def encode_for(
    network: Conditioned, params: Params, cond: Mapping[str, Any] | None
) -> Cond | None:
    """Encode a condition once before a chain, if one network alone is given it.

    With autoguidance there are two, each with encodings of its own: the condition is
    left as it is, and each encodes it at every step.

    Args:
        network: of the model.
        params: its parameters.
        cond: rows [B, ...], or None.
    """
    if params.worse is not None:
        return dict(cond) if cond else None
    return encode(network, params.network, cond)


def example_cond(
    spec: Diffusion, info: DataInfo, examples: Mapping[str, np.ndarray]
) -> Cond | None:
    """Make the condition of real images, None for an unconditional model.

    Args:
        spec: of the model.
        info: of its data.
        examples: from `data.gather`, with their texts; arrays [N, ...].

    Returns:
        Rows [N, ...] of the droppable conditions.
    """
    batch: dict[str, Any] = dict(examples)
    if spec.text is not None:
        batch["text"] = _rows(tokenizer_of(info), list(examples["text"]))
    if NAME in spec.conditioners:
        batch[NAME] = clip_of(info).encode_images(examples["image"])
    made = conditioners(spec, info)
    droppable = {name: one for name, one in made.items() if one.droppable}
    key = sample_key(spec.seed)
    return from_batch(droppable, key, batch, batch["image"]) or None


def captions(info: DataInfo, texts: Sequence[str]) -> Captions:
    """Read the captions of a training set, each that is distinct once.

    Args:
        info: of the model.
        texts: N of them.

    Raises:
        UserError: they cannot be read.
    """
    listed, places = conditioning.distinct(texts)
    return Captions(tokenizer_of(info).read(listed), places)


def _rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens | Encoded:
    """Read each distinct text once; leaves [N, ...]."""
    listed, places = conditioning.distinct(texts)
    return jax.tree.map(lambda leaf: leaf[places], tokenizer.read(listed))


# --- What is asked for ----------------------------------------------------------------


def sample_cond(spec: Diffusion, info: DataInfo, asked: Sample) -> Cond | None:
    """Make the condition of each image to sample, rows [num_images, ...].

    Raises:
        UserError: a label or a prompt cannot be used, or the network knows none.
    """
    labels, texts = sample_labels(spec, info, asked), prompts(spec, info, asked)
    cond: Cond = source_rows(spec, info, asked)
    if labels is not None:
        cond["label"] = labels
    if texts is not None:
        cond |= text_cond(info, texts, asked.negative_prompt)
    return {**cond, **further_cond(spec, info, asked)} or None


def further_cond(spec: Diffusion, info: DataInfo, asked: Sample) -> Cond:
    """Make the rows [num_images, ...] of conditions that are given by name.

    Raises:
        UserError: a condition is not known, or a value cannot be read.
    """
    made, found = conditioners(spec, info), {}
    for part in filter(None, map(str.strip, asked.cond.split(";"))):
        name, equals, listed = part.partition("=")
        if not equals or name not in made:
            raise UserError(
                f"config.sample.cond has {part!r}; write NAME=VALUE, the model being "
                f"conditioned on {', '.join(made) or 'nothing'}."
            )
        if name in ("label", "text"):
            raise UserError(
                f"config.sample.cond has {part!r}; use "
                f"config.sample.{'labels' if name == 'label' else 'prompt'}."
            )
        values = [value.strip() for value in listed.split(",")]
        with specs.located("config.sample.cond"):
            found[name] = made[name].from_text(
                [values[i % len(values)] for i in range(asked.num_images)]
            )
    return found


def cond_between(
    spec: Diffusion, info: DataInfo, asked: Sample, network: Conditioned, params: Any
) -> Cond | None:
    """Go from `prompt` to `prompt_to` in as many images as are to be drawn.

    Args:
        spec: of the model.
        info: of its data.
        asked: what is asked for.
        network: which may have to read the two ends.
        params: its parameters.

    Raises:
        UserError: as `sample_cond`.
    """
    cond = sample_cond(spec, info, asked)
    assert cond is not None  # `check_sample` has refused a model without text
    ends = tokenizer_of(info).read([asked.prompt, asked.prompt_to])
    read = jax.jit(lambda params, text: encode(network, params, {"text": text}))
    both = jax.device_get(read(params, ends))["text"]
    a, b = (jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], both) for i in (0, 1))
    shares = np.linspace(0, 1, asked.num_images)
    return {**cond, "text": interpolate(a, b, list(shares))}


def text_cond(info: DataInfo, texts: Sequence[str], negative_prompt: str = "") -> Cond:
    """Read prompts, and the negative one beside each if there is one.

    Args:
        info: with the tokenizer.
        texts: N of them.
        negative_prompt: "" for none.

    Returns:
        Rows [N, ...] of the text, and perhaps a negative condition.

    Raises:
        UserError: a prompt cannot be read.
    """
    tokenizer = tokenizer_of(info)
    cond: Cond = {"text": _rows(tokenizer, texts)}
    if negative_prompt:
        negative = tokenizer.read([negative_prompt])
        rows = jax.tree.map(lambda leaf: np.repeat(leaf, len(texts), axis=0), negative)
        cond[NEGATIVE] = {"text": rows}
    return cond
