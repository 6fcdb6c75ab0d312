"""What the page asks for, as a config; and the command line that asks for the same."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import build, config
from ddpm_jax.build import DataInfo
from ddpm_jax.errors import UserError

# What a person can leave empty, and what that means then.
_MAY_BE_EMPTY = {"sample.seed", "sample.num_steps", "sample.labels"} | {
    *("sample.prompt", "sample.negative_prompt")
}

_EXACT = 2**53 - 1  # JavaScript's numbers: a larger one may be that of a neighbor


def chosen(
    cfg: ConfigDict,
    info: DataInfo,
    options: Mapping[str, Any],
    *,
    most_images: int | None = None,
) -> ConfigDict:
    """Set options such as "sample.seed", and refuse what cannot work.

    Args:
        cfg: of the model; it is left as it is.
        info: of the model's data.
        options: by their names in the config, as the page gives them: a number may be
            a float without a fraction, or None where its field was left empty.
        most_images: refuse more than this many, if `sample.num_images` is asked for.

    Returns:
        A config of its own.

    Raises:
        UserError: naming the first option that cannot be.
    """
    # Not a copy: that forgets what type an option has that is unset.
    changed = config.from_json(config.to_json(cfg))
    for name, value in options.items():
        if value is None and name not in _MAY_BE_EMPTY:
            raise UserError(f"{name} is empty; give a number.")
        section, option = name.split(".")
        if isinstance(value, int | float) and abs(value) > _EXACT:
            raise UserError(
                f"{name}={value} is more than a number of a page holds exactly; use up "
                "to 2^53-1, or the command line."
            )
        if isinstance(value, float) and not isinstance(cfg[section][option], float):
            if not value.is_integer():
                raise UserError(f"{name}={value} is not a whole number; give one.")
            value = int(value)
        config.update(changed, {section: {option: value}})
    count = changed.sample.num_images
    if most_images is not None and count > most_images:
        raise UserError(
            f"sample.num_images={count} is more than the page draws at a time; use 1 "
            f"to {most_images}."
        )
    build.check(changed, info)
    return changed


def labels_text(chosen_names: Sequence[str], info: DataInfo) -> str:
    """Write chosen class names as `config.sample.labels` reads them.

    Args:
        chosen_names: of `info.label_names`, or "none".
        info: of the model's data.
    """
    known = list(info.label_names or ())

    def word(name: str) -> str:
        plain = "," not in name and name == name.strip()
        return name if plain or name not in known else str(known.index(name))

    return ",".join(map(word, chosen_names))


def command_line(cfg: ConfigDict, changed: ConfigDict, mode: str, workdir: str) -> str:
    """Write the command that makes the same images.

    Args:
        cfg: of the model, as the checkpoint has it.
        changed: what was asked for.
        mode: of main.py.
        workdir: of the model.
    """
    words = ["python", "main.py", f"--mode={mode}", f"--workdir={workdir}"]
    for section in ("sample", "edit"):
        for name in sorted(changed[section]):
            value = changed[section][name]
            if value != cfg[section][name]:
                words.append(f"--config.{section}.{name}={value}")
    return " ".join(map(shlex.quote, words))
