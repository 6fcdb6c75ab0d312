"""Labels and prompts of samples, taken in turn, and checked."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpm_jax import conditioning
from ddpm_jax.assembly.pictures import examples
from ddpm_jax.assembly.source import DataInfo, num_classes, tokenizer_of
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion
from ddpm_jax.requests import Sample

PROMPT_FILE, _DATA = OF_MANY = ("file:", "data:")
"""What begins the prompt that stands for several."""


def sample_labels(spec: Diffusion, info: DataInfo, asked: Sample) -> np.ndarray | None:
    """Return the label of each image to draw, int32 [num_images].

    The classes asked for are taken in turn; none asked for means all of them, or, where
    a picture is shown, that of each picture. A network without classes has no labels:
    None.

    Raises:
        UserError: if a label is not a class, or the network knows none.
    """
    listed, classes = asked.label.strip(), num_classes(spec, info)
    if asked.classifier_scale and info.label_names is not None:
        classes = len(info.label_names)  # for the classifier, if not the network
    if classes is None:
        if listed:
            raise UserError(
                f"config.sample.labels={listed!r}, but this model was trained without "
                "labels; leave the option out."
            )
        return None
    known = list(info.label_names or ())
    if not listed and spec.map_name:
        labels = examples(spec, info, asked).labels
        assert labels is not None  # the data are those of a conditional model
        return labels
    if not listed:
        chosen = list(range(classes))
    else:
        chosen = [_label(word.strip(), known) for word in listed.split(",")]
    return np.resize(np.asarray(chosen, np.int32), asked.num_images)


def _label(word: str, known: list[str]) -> int:
    if word in known:
        return known.index(word)
    if word == "none":
        return len(known)  # the null class: unconditional
    if word.isdecimal() and int(word) < len(known):
        return int(word)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    raise UserError(
        f"label {word!r} in config.sample.labels is not a class; use 0 to "
        f"{len(known) - 1}, or a name ({shown}), or none."
    )


def label_word(index: int, known: Sequence[str]) -> str:
    """Write a class as `config.sample.labels` reads it: its name, or else its index."""
    name = known[index]
    return name if name and "," not in name and name == name.strip() else str(index)


def prompts(spec: Diffusion, info: DataInfo, asked: Sample) -> list[str] | None:
    """Return the prompt of each image to draw; None for a model without text.

    Prompts of a file, or captions of the data (data:SPLIT, or data:SPLIT/K for each
    K-th of them), are taken in turn. Left out, they are some of the captions that the
    model was trained on, or those of the pictures shown. With `prompt_to` every image
    stands for a mixture of two, and has the first for a name.

    Raises:
        UserError: there are none in the file or the data, or the model knows no text.
    """
    for name in ("prompt", "negative_prompt", "prompt_to"):
        if getattr(asked, name) and spec.text is None:
            raise UserError(
                f"config.sample.{name}={getattr(asked, name)!r}, but this model was "
                "trained without text; leave the option out."
            )
    if spec.text is None:
        return None
    if asked.prompt:
        listed = _listed(asked.prompt, spec.data)
    elif spec.map_name:
        listed = _captions_of_examples(spec, info, asked)
    else:
        listed = list(info.captions)
    return [listed[i % len(listed)] for i in range(asked.num_images)]


def _captions_of_examples(spec: Diffusion, info: DataInfo, asked: Sample) -> list[str]:
    texts = examples(spec, info, asked).texts
    assert texts is not None  # the data are those of a model with text
    return list(texts)


def _listed(prompt: str, data: Data) -> list[str]:
    if prompt.startswith(PROMPT_FILE):
        return prompt_lines(prompt)
    if prompt.startswith(_DATA):
        split, slash, every = prompt.removeprefix(_DATA).partition("/")
        if slash and not (every.isdecimal() and int(every)):
            raise UserError(
                f"config.sample.prompt={prompt!r} is no every so many of the captions; "
                f"write it like {_DATA}{split or 'train'}/10, for each tenth."
            )
        return list(_captions(data, split or None))[:: int(every or 1)]
    if not prompt.strip():
        raise UserError("config.sample.prompt is blank; say what the picture shows.")
    return [prompt]


def prompt_lines(prompt: str) -> list[str]:
    """Read the prompts of "file:PATH", one in each line that is not blank.

    Raises:
        UserError: the file cannot be read, or has none.
    """
    where = prompt.removeprefix(PROMPT_FILE)
    try:
        text = Path(where).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"cannot read the prompts in {where} ({reason}); give a text file with one "
            "prompt in each line."
        ) from error
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{where} has no prompts; write one in each line.")
    return lines


@functools.lru_cache(maxsize=4)
def _captions(spec: Data, split: str | None) -> tuple[str, ...]:
    """Read the captions of a split."""
    source = spec.open(split)
    if source.texts is None:
        raise UserError(f"{source.name} has no captions to draw; give a prompt.")
    return source.texts


def check_labels(spec: Diffusion, info: DataInfo, asked: Sample) -> None:
    """Refuse labels that are no classes.

    Raises:
        UserError: naming the label.
    """
    if asked.label.strip():  # else they may be those of data not at hand
        sample_labels(spec, info, asked)


def check_prompts(spec: Diffusion, info: DataInfo, asked: Sample) -> None:
    """Refuse prompts that cannot be read, before any is.

    Raises:
        UserError: naming the prompt.
    """
    if spec.map_name and spec.text is not None and not asked.prompt:
        return  # captions of the data, which need not be at hand for a user's picture
    texts = prompts(spec, info, asked)
    if texts is None:
        return
    listed, _ = conditioning.distinct(texts)
    more = [text for text in (asked.negative_prompt, asked.prompt_to) if text]
    tokenizer_of(info).tokenize([*listed, *more])
