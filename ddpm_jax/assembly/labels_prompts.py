"""Labels and prompts of `config.sample`, taken in turn, and checked."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import conditioning
from ddpm_jax.assembly.pictures import examples, map_name
from ddpm_jax.assembly.source import DataInfo, data_spec, num_classes, tokenizer_of
from ddpm_jax.data.spec import Data
from ddpm_jax.errors import UserError

PROMPT_FILE, _DATA = _OF_MANY = ("file:", "data:")  # how several prompts are named


def sample_labels(config: ConfigDict, info: DataInfo) -> np.ndarray | None:
    """Return the label of each image to draw, int32 [num_images].

    The classes asked for are taken in turn; none asked for means all of them, or, where
    a picture is shown, that of each picture. A network without classes has no labels:
    None.

    Raises:
        UserError: if a label is not a class, or the network knows none.
    """
    asked, count = config.sample.labels.strip(), config.sample.num_images
    classes = num_classes(config, info)
    if config.sample.classifier_scale and info.label_names is not None:
        classes = len(info.label_names)  # for the classifier, if not the network
    if classes is None:
        if asked:
            raise UserError(
                f"config.sample.labels={asked!r}, but this model was trained without "
                "labels; leave the option out."
            )
        return None
    known = list(info.label_names or ())
    if not asked and map_name(config):
        labels = examples(config, info).labels
        assert labels is not None  # the data are those of a conditional model
        return labels
    if not asked:
        chosen = list(range(classes))
    else:
        chosen = [_label(word.strip(), known) for word in asked.split(",")]
    return np.resize(np.asarray(chosen, np.int32), count)


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


def prompts(config: ConfigDict, info: DataInfo) -> list[str] | None:
    """Return the prompt of each image to draw; None for a model without text.

    Prompts of a file, or captions of the data (data:SPLIT, or data:SPLIT/K for each
    K-th of them), are taken in turn. Left out, they are some of the captions that the
    model was trained on, or those of the pictures shown. With `prompt_to` every image
    stands for a mixture of two, and has the first for a name.

    Raises:
        UserError: there are none in the file or the data, or the model knows no text.
    """
    options = config.sample
    for name in ("prompt", "negative_prompt", "prompt_to"):
        if options[name] and "text" not in config.conditioners:
            raise UserError(
                f"config.sample.{name}={options[name]!r}, but this model was trained "
                "without text; leave the option out."
            )
    if "text" not in config.conditioners:
        return None
    asked = _asked(config) if options.prompt else _captions_of(config, info)
    return [asked[i % len(asked)] for i in range(options.num_images)]


def _captions_of(config: ConfigDict, info: DataInfo) -> list[str]:
    if not map_name(config):
        return list(info.captions)
    texts = examples(config, info).texts
    assert texts is not None  # the data are those of a model with text
    return list(texts)


def _asked(config: ConfigDict) -> list[str]:
    prompt = config.sample.prompt
    if prompt.startswith(PROMPT_FILE):
        return prompt_lines(prompt)
    if prompt.startswith(_DATA):
        split, slash, every = prompt.removeprefix(_DATA).partition("/")
        if slash and not (every.isdecimal() and int(every)):
            raise UserError(
                f"config.sample.prompt={prompt!r} is no every so many of the captions; "
                f"write it like {_DATA}{split or 'train'}/10, for each tenth."
            )
        return list(_captions(data_spec(config), split or None))[:: int(every or 1)]
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


def check_labels(config: ConfigDict, info: DataInfo) -> None:
    """Refuse labels that are no classes.

    Raises:
        UserError: naming the label.
    """
    if config.sample.labels.strip():  # else they may be those of data not at hand
        sample_labels(config, info)


def check_prompts(config: ConfigDict, info: DataInfo) -> None:
    """Refuse prompts that cannot be read, before any is.

    Raises:
        UserError: naming the prompt.
    """
    options = config.sample
    if map_name(config) and "text" in config.conditioners and not options.prompt:
        return  # captions of the data, which need not be at hand for a user's picture
    texts = prompts(config, info)
    if texts is None:
        return
    listed, _ = conditioning.distinct(texts)
    more = [text for text in (options.negative_prompt, options.prompt_to) if text]
    tokenizer_of(info).tokenize([*listed, *more])
    if options.prompt_to and (
        not options.prompt or options.prompt.startswith(_OF_MANY)
    ):
        raise UserError(
            f"config.sample.prompt_to={options.prompt_to!r} needs one prompt to come "
            f"from, and config.sample.prompt is {options.prompt!r}; give it."
        )
    if options.prompt_to and options.num_images < 2:
        raise UserError(
            f"config.sample.num_images={options.num_images} with prompt_to; a walk has "
            "two ends: use 2 or more."
        )
