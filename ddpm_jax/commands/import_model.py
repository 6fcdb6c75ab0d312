"""Importing: a workdir made of a model that another program trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax import assembly, specs
from ddpm_jax.assembly import DataInfo
from ddpm_jax.commands import about
from ddpm_jax.commands.import_autoencoder import import_autoencoder
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Data, Diffusion, Recipe, from_json, recipe, to_json
from ddpm_jax.requests import Sample
from ddpm_jax.runtime import files
from ddpm_jax.training import checkpoints as store
from ddpm_jax.weights import (
    diffusers,
    diffusers_autoencoder,
    diffusers_scheduler,
    diffusers_unet,
    hub,
    openai,
    torch_layout,
)
from ddpm_jax.weights.pretrained import Pretrained
from ddpm_jax.weights.safetensors_file import read_safetensors
from ddpm_jax.weights.torch_file import read_tensors

RECORD = "ddpm_jax.json"
"""What export writes beside a diffusers model: all that it cannot say."""

_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


class Asked(NamedTuple):
    """What a user says of a model of another program.

    Attributes:
        overrides: options of the recipe, "--config.a.b=value".
        step: that the model is stored under; None for what its files say.
        qkv_order: how an OpenAI checkpoint packs query, key and value.
    """

    overrides: Sequence[str] = ()
    step: int | None = None
    qkv_order: str = "legacy"

    @property
    def values(self) -> dict[str, Any]:
        """Return option -> value of all options of the recipe that were given.

        Raises:
            UserError: one is not known, or of a wrong type.
        """
        plain = recipe(Diffusion())
        return specs.given_values(plain, self.overrides, slot=Diffusion)

    @property
    def given(self) -> dict[str, Any]:
        """Return `values`, and what is no option of a recipe beside them."""
        return {**self.values, "qkv_order": self.qkv_order}


def import_model(source: str, workdir: Path, asked: Asked) -> None:
    """Make a workdir of a pretrained model, as if it had been trained here.

    Its parameters, raw and averaged, are those of the checkpoint, its optimizer is
    fresh, and its config says all that sampling needs.

    Args:
        source: a folder, a file of weights, or OWNER/NAME on the Hugging Face hub.
        workdir: where to; it may hold no model yet.
        asked: what the user gave.

    Raises:
        UserError: the checkpoint cannot be read, or is no model that can be built here.
    """
    if store.latest_step(workdir) is not None:
        raise UserError(f"{workdir} holds a model already; use another folder.")
    place = _place(source)
    if diffusers_autoencoder.is_autoencoder(place):
        import_autoencoder(place, source, workdir, asked.values)
        return
    found = read_model(place, source, asked)
    _save(workdir, found, source)
    _announce(workdir, found)


class Imported(NamedTuple):
    """A model of another program's files.

    Attributes:
        recipe: all that sampling needs.
        info: what the model knows of its data.
        params: a tree of arrays, in the layout of the network here.
        step: of its training.
    """

    recipe: Recipe[Diffusion]
    info: DataInfo
    params: Any
    step: int


def read_model(place: Path, source: str, asked: Asked | None = None) -> Imported:
    """Read a diffusion model of another program, writing nothing.

    Args:
        place: a folder, or a file of weights.
        source: what the user calls it.
        asked: what the user says of it; None for nothing.

    Raises:
        UserError: it cannot be read, or is no model that can be built here.
    """
    asked = Asked() if asked is None else asked
    folder, pretrained = _read(place, source, asked.given)
    record = read_record(folder)
    if record is None:
        made = _recipe(pretrained, asked)
        null_row = made.task.condition_dropout > 0
        info = _info(made.task.data, pretrained, null_row=null_row)
        step = asked.step or 0
    else:
        made, info, step = record
        made = _overridden(to_json(made), asked)
        null_row, step = True, step if asked.step is None else asked.step
        _check_record(folder, pretrained, made, info)
    if step < 0:
        raise UserError(f"--step={step} is negative; use 0 or more.")
    assembly.check(made.task, info)
    assembly.check_sample(made.task, info, made.request(Sample))
    shapes = assembly.param_shapes(made.task, info)
    params = torch_layout.to_flax(pretrained, shapes, null_row=null_row)
    return Imported(made, info, params, step)


# --- Reading --------------------------------------------------------------------------


def _place(source: str) -> Path:
    """Find what `source` is: a folder or a file here, fetched if it has to be."""
    place = Path(source).expanduser()
    if not place.exists():
        if not hub.is_repository(source):
            raise UserError(
                f"{source} is neither a folder nor a file here, nor OWNER/NAME "
                "of a repository on huggingface.co."
            )
        print(f"Fetching {source} from huggingface.co.", flush=True)
        place = hub.fetch(source)
    return place


def _read(
    place: Path, source: str, given: Mapping[str, Any]
) -> tuple[Path, Pretrained]:
    """Read a diffusion model: (the folder it lies in, the checkpoint)."""
    if place.is_dir() and diffusers.is_folder(place):
        return place, diffusers.read(place, source, given)
    path = _file_in(place) if place.is_dir() else place
    read = read_safetensors if path.suffix == ".safetensors" else read_tensors
    tensors = read(path)
    if not openai.is_state_dict(tensors):
        first = ", ".join(sorted(tensors)[:3])
        raise UserError(
            f"{path} names its tensors otherwise than improved-diffusion and "
            f"guided-diffusion ({first}, ...); of a diffusers model give the folder "
            "that holds config.json."
        )
    return path.parent, openai.read(tensors, str(path), given)


def _file_in(folder: Path) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix in _FILES and p.is_file())
    if len(found) != 1:
        has = f"{len(found)} files of weights" if found else "no file of weights"
        raise UserError(
            f"{folder} has no config.json and {has}; give a diffusers folder "
            "(config.json, scheduler_config.json, diffusion_pytorch_model.safetensors),"
            " or the .pt file of improved-diffusion or guided-diffusion itself."
        )
    return found[0]


def read_record(folder: Path) -> tuple[Recipe, DataInfo, int] | None:
    """Read the `RECORD` of an exported model.

    Args:
        folder: of the model; anyone may have changed what is in it.

    Returns:
        Its recipe, its data and its step; None if the folder has no record.

    Raises:
        UserError: it is damaged, or says what cannot be.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        made, info = from_json(record["config"]), about.info_of(record)
        _check_described(info, record["step"])
        return made, info, record["step"]
    except files.DamagedError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"it lacks {error}"
    except (AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
    raise UserError(
        f"{path} cannot be read ({reason}); remove it, and only what the other files "
        "say is used."
    )


def _check_described(info: DataInfo, step: object) -> None:
    """Look at the types of what a record says.

    Raises:
        ValueError: one cannot be.
    """
    if type(step) is not int or step < 0:
        raise ValueError("its step is not a whole number")
    sides = info.image_shape
    if len(sides) != 3 or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError("its image_shape is not three whole numbers")
    if not all(
        isinstance(text, str) for text in (info.name, *(info.label_names or ()))
    ):
        raise ValueError("a name in it is no text")


def _check_record(
    folder: Path, pretrained: Pretrained, made: Recipe[Diffusion], info: DataInfo
) -> None:
    """Refuse a record that is not of the model beside it."""
    network, scheduler = settings_of(made, info)
    again = {
        "network": diffusers_unet.unet_options("", network, None)[0],
        **diffusers_scheduler.scheduler_options("", scheduler)[0],
    }
    facts = _flat(pretrained.facts)
    changed = [name for name, v in _flat(again).items() if facts.get(name) != v]
    if changed:
        raise UserError(
            f"{folder / RECORD} says otherwise than the files beside it "
            f"({', '.join(changed)}); remove it, and only what they say is used."
        )


# --- The recipe and the data ----------------------------------------------------------


def _recipe(pretrained: Pretrained, asked: Asked) -> Recipe[Diffusion]:
    facts, given = _flat(pretrained.facts), asked.values
    for option, value in given.items():
        is_fact = option.startswith("conditioners.") or option in facts
        if is_fact and facts.get(option) != value:
            raise UserError(
                f"config.{option}={value} is not what {pretrained.name} is made for"
                f"{f', which is {facts[option]}' if option in facts else ''}; leave it "
                "out."
            )
    plain = to_json(recipe(Diffusion(data=Data(source=""))))
    # At once: a loss that is a default may need a variance that is a fact.
    decided = _merged(_merged(plain, pretrained.defaults), pretrained.facts)
    made = _overridden(decided, asked)
    spec, fitted = made.task, dict[str, Any]()
    if not spec.data.source:
        fitted["data"] = _later_data(pretrained.image_shape, given)
    if "preview_steps" not in given:  # at most all
        fitted["preview_steps"] = min(spec.preview_steps, spec.schedule.num_levels)
    return from_json(_merged(to_json(made), fitted))


def _overridden(stored: Mapping[str, Any], asked: Asked) -> Recipe[Diffusion]:
    """Set the options that the user gave."""
    return from_json(specs.override(stored, asked.overrides, slot=Diffusion))


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested options by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _merged(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Set nested options in plain data; a node of another kind begins anew."""
    made = dict(config)
    for name, value in options.items():
        old = made.get(name)
        if not isinstance(value, Mapping):
            made[name] = value
        elif isinstance(old, Mapping) and value.get("kind", old.get("kind")) == (
            old.get("kind")
        ):
            made[name] = _merged(old, value)
        else:
            made[name] = dict(value)
    return made


def _later_data(
    shape: tuple[int, int, int], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Bring pictures that training is given later to what the network is made for."""
    height, width, channels = shape
    size = height if height == width else (height, width)
    wanted = {"image_size": size, "channels": channels}
    return {name: v for name, v in wanted.items() if f"data.{name}" not in given}


def _info(of: Data, pretrained: Pretrained, *, null_row: bool) -> DataInfo:
    """Describe the data: those that are named, or what the checkpoint tells."""
    classes = pretrained.num_classes
    if classes is not None and null_row:
        classes -= 1
    shape = pretrained.image_shape
    if not of.source:
        names = None if classes is None else tuple(map(str, range(classes)))
        return DataInfo(pretrained.name, shape, names, about.UNKNOWN_DATA)
    info = assembly.data_info(of.open())
    has = len(info.label_names or ())
    if info.image_shape != shape or (classes is not None and has != classes):
        raise UserError(
            f"{info.name} has images of {info.image_shape} and {has} classes, and "
            f"{pretrained.name} is made for {shape} and {classes or 0}; use data like "
            "those it was trained on."
        )
    return info


def settings_of(made: Recipe[Diffusion], info: DataInfo) -> tuple[dict, dict]:
    """Write what diffusers should know of a model: its network, its process.

    Raises:
        UserError: naming what it cannot express.
    """
    classes = assembly.num_classes(made.task, info)
    plain = to_json(made)
    network = diffusers_unet.unet_config(
        plain["network"],
        plain["conditioners"],
        info.image_shape,
        assembly.model(made.task, info).network.out_channels,
        None if classes is None else classes + 1,
    )
    return network, diffusers_scheduler.scheduler_config(plain, plain["sample"])


# --- The workdir ----------------------------------------------------------------------


def _save(workdir: Path, found: Imported, source: str) -> None:
    made, params = found.recipe, jax.tree.map(jnp.asarray, found.params)
    info = found.info
    state = assembly.start_state(made.task, info, made.training, params, found.step)
    described = about.metadata(made, info) | {about.IMPORTED: source}
    with store.open_checkpoints(workdir) as checkpoints:
        files.write_json(workdir / "config.json", to_json(made))
        store.save(checkpoints, state, described, wait=True)


def _announce(workdir: Path, found: Imported) -> None:
    spec, info, params, step = found.recipe.task, *found[1:]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    classes = assembly.num_classes(spec, info)
    condition = f"{classes} classes" if classes else "unconditional"
    shape = "x".join(map(str, info.image_shape))
    lines = (
        f"model    {info.name}, {count:,} parameters, {condition}, images of {shape}",
        f"process  {specs.kind_of(spec.schedule)}, T={spec.schedule.num_levels:,}, "
        f"predicts {spec.prediction}, variance {spec.variance}",
        f"run      {workdir}, step {step:,}",
        f"Generate with it: python main.py sample {workdir}",
    )
    print("\n".join(lines), flush=True)
