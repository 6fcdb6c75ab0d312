"""A trained diffusion model, to sample from in a program of one's own.

    model = ddpm_jax.load("runs/digits")
    images = model.sample(16, label=7, num_steps=50, seed=0)
    model.show(images).save("sevens.png")

Images are those of `python main.py sample` with the same options, bit for bit, before
they become bytes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ddpm_jax import assembly
from ddpm_jax.assembly import DataInfo
from ddpm_jax.codecs import Codec, Params
from ddpm_jax.commands.edit import embedded, extended, lay_blocks, lay_out
from ddpm_jax.commands.model import Trained
from ddpm_jax.commands.sample import Conditions, conditions_of, sample_batches
from ddpm_jax.conditioning.conditioned import encode
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.diffusion.denoisers import Cond, Denoiser
from ddpm_jax.diffusion.process import Prediction
from ddpm_jax.diffusion.schedules import Level, Schedule
from ddpm_jax.errors import UserError, shown
from ddpm_jax.recipe import Diffusion, Recipe
from ddpm_jax.requests import (
    Edit,
    Extend,
    Interpolate,
    Request,
    Sample,
    TextDiff,
    Variations,
)
from ddpm_jax.requests.flags import sections_of
from ddpm_jax.requests.keywords import in_keywords, read
from ddpm_jax.runtime import arguments
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.sampling.edits import in_turn, walks
from ddpm_jax.sampling.plan import Program, run_batches

# Chosen when the model is loaded, and of films, which are not made here.
_NOT_OF_SAMPLE = ("step", "ema", "ema_std", "film_frames", "film_images")
_OF_PICTURES = (*_NOT_OF_SAMPLE, "image")  # given as arrays
OPTIONS = tuple(n for n in sections_of(Sample).values() if n not in _NOT_OF_SAMPLE)
"""The keyword arguments of `DiffusionModel.sample`."""

OF_DENOISER = tuple(
    name
    for name in OPTIONS
    if name.startswith(("guidance_", "autoguidance", "picture"))
    or name in ("label", "prompt", "negative_prompt", "classifier_scale")
    or name in ("clip", "dynamic_percentile", "seed")
)
"""The keyword arguments of `DiffusionModel.denoiser`."""

OF_WALKS = tuple(
    name for name in sections_of(Interpolate).values() if name not in _OF_PICTURES
)
"""The keyword arguments of `DiffusionModel.interpolate`."""

_OF_MANY = ("file:", "data:")  # how one prompt names several

Labels = int | str | Sequence[int | str] | np.ndarray


class DiffusionModel:
    """A trained diffusion model; `ddpm_jax.load` makes it.

    Attributes:
        spec: what was trained, a `Diffusion`.
        recipe: with how it was trained, and the defaults of the options of `sample`.
        step: of its checkpoint.
        info: what it knows of its data: shape, classes, captions.
        schedule: of its noise.
        params: of its network, a tree of arrays.
        network: the Flax module, (x_t [B, ...], t [B], cond) -> output.
        codec: between items and what the chain is made of.
        metadata: of its checkpoint.
    """

    def __init__(
        self,
        recipe: Recipe[Diffusion],
        trained: Trained,
        open_worse: Callable[[Sample | Edit], Any] | None = None,
    ) -> None:
        """Put an opened model together.

        Args:
            recipe: that it was trained by; it holds the defaults of options.
            trained: the opened model.
            open_worse: request -> the other parameters of its run that autoguidance
                goes away from; None of a model that is of no run.
        """
        self._open_worse = open_worse
        self.recipe, self._trained = recipe, trained
        self.spec: Diffusion = recipe.task
        self.step: int = trained.step
        self.info: DataInfo = trained.info
        self.schedule: Schedule = self.spec.schedule.build()
        self.params: Any = trained.params.network
        self.network = trained.unet
        self.codec: Codec = trained.codec
        self.metadata: Mapping[str, Any] = trained.about
        self._encode = jax.jit(trained.codec.encode)
        self._decode = jax.jit(trained.codec.decode)

    def __repr__(self) -> str:
        """Say what it is."""
        shape = "x".join(map(str, self.info.item_shape))
        return (
            f"<DiffusionModel of {self.info.name}, items of {shape}, "
            f"{self._trained.described}>"
        )

    # --- Sampling ---------------------------------------------------------------------

    def sample(
        self,
        num_images: int | None = None,
        *,
        label: Labels | None = None,
        prompt: str | Sequence[str] | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Sample items, images or whatever else it was trained on.

        The same seed and options give the same items. Another call compiles nothing if
        only labels, prompts, the seed or the number of batches differ.

        Args:
            num_images: N; None for the default of the recipe.
            label: of a class-conditional model, an index or a name, or several, taken
                in turn; "none" for no class, None for all classes in turn.
            prompt: of a text-conditional model, one for all or several taken in turn;
                None for captions of its data.
            options: as of `python main.py sample --help`, by the same names, such as
                num_steps=50, sampler="ddim", guidance_scale=3, seed=0; defaults are
                those of the recipe.

        Returns:
            float32 [N, ...]; images [N, H, W, C] in [-1, 1].

        Raises:
            UserError: an option is not known, does not fit the model or another option,
                or an item is not finite.
        """
        given = {**options, **_present(num_images=num_images)}
        asked, prompts = self._ask("sample", OPTIONS, given, label, prompt)
        with _named_by_keywords():
            made = sample_batches(
                self.spec,
                asked,
                self._program(asked),
                self._all_params(asked),
                self._condition(asked, prompts),
            )
            return np.concatenate([batch.items for batch in made])

    def denoiser(
        self,
        *,
        label: Labels | None = None,
        prompt: str | Sequence[str] | None = None,
        params: Any = None,
        **options: Any,
    ) -> Denoiser:
        """Make the denoiser that samplers see, guidance and clipping included.

        It works inside jit, grad and vmap. Rows of x_t take labels and prompts in turn,
        as the items of `sample` do; a `cond` in the call takes their place.

        Args:
            label: as of `sample`.
            prompt: as of `sample`.
            params: of the network, for those who give them to their own jit as an
                argument; None for `self.params`, which then are constants of it.
            options: of guidance and clipping, as of `sample`.

        Returns:
            (x_t [B, ...], level, cond=None) -> Prediction.

        Raises:
            UserError: an option is not known, or does not fit the model; or these are
                parameters of another network.
        """
        asked, prompts = self._ask("denoiser", OF_DENOISER, options, label, prompt)
        network = self.params if params is None else params
        _check_params(network, self.params)
        with _named_by_keywords():
            worse = self._all_params(asked).worse
            built = assembly.denoiser(self.spec, asked, self.network, network, worse)
        kept: dict[int, Cond] = {}

        def condition(num_rows: int) -> Cond:
            if num_rows not in kept:
                of_rows = dataclasses.replace(asked, num_images=num_rows)
                with jax.ensure_compile_time_eval(), _named_by_keywords():
                    cond = self._condition(of_rows, prompts).cond
                    if params is None and worse is None:
                        read_once = jax.jit(partial(encode, self.network))
                        cond = read_once(network, cond) if cond else None
                kept[num_rows] = cond
            return kept[num_rows]

        def denoise(x_t: jax.Array, level: Level, cond: Cond = None) -> Prediction:
            x = self._rows_of_chain(x_t, level)
            return built(
                x, level, condition(len(x)) if cond is None else _rows(cond, len(x))
            )

        return denoise

    def _rows_of_chain(self, x_t: Any, level: Any) -> jax.Array:
        """Check what a denoiser is given, before a network fails at it."""
        x = arguments.array("x_t", x_t)
        *sides, channels = self.info.shape
        if x.ndim != len(sides) + 2 or x.shape[-1] != channels:
            raise UserError(
                f"x_t is of shape {list(x.shape)}; want [B, "
                f"{', '.join(map(str, self.info.shape))}]."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(f"x_t is of type {x.dtype}; want floating point.")
        if not isinstance(level, Level):
            raise UserError(
                f"level={shown(level)} is no Level; take one of the model's schedule, "
                "such as model.schedule.at(jnp.asarray(9))."
            )
        shapes = [jnp.shape(leaf) for leaf in level]
        if any(shape not in ((), (len(x),)) for shape in shapes):
            raise UserError(
                f"level is of shapes {list(map(list, shapes))} beside {len(x)} rows of "
                "x_t; want one level, or one of each."
            )
        return x

    def interpolate(
        self,
        start: Any,
        end: Any,
        num_points: int,
        *,
        label: Labels | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Walk between items: encode both, blend on a great circle, decode.

        The encoding is the deterministic chain turned round, as far as `strength`; with
        1 it ends in pure noise. Images are those of the command `edit interpolate`,
        before they become bytes.

        Args:
            start: items [N, ...], as of `encode`.
            end: as many.
            num_points: P, with both ends.
            label: of a class-conditional model, one for each point of a walk in turn;
                None for no class.
            prompt: of a text-conditional model.
            options: as of `python main.py edit interpolate --help`, by the same names,
                such as strength=0.9, num_steps=50.

        Returns:
            float32 [N, P, ...]; images in [-1, 1].

        Raises:
            UserError: an option is not known, or does not fit the model; or these are
                no such items.
        """
        if label is None and assembly.num_classes(self.spec, self.info) is not None:
            label = "none"
        text = None if label is None else _label_text(label, self.info)
        given = {**options, **_present(label=text, prompt=prompt)}
        given["num_points"] = num_points
        values = read("interpolate", Interpolate, given, OF_WALKS)
        with _named_by_keywords(Interpolate):
            asked, of_points = self._ask_edit(
                Interpolate, values, num_images=num_points
            )
            cond = self._condition(of_points, None).cond or {}
        rank = len(self.info.item_shape)
        a, b = (np.asarray(as_float(self.codec, x, rank=rank)) for x in (start, end))
        if a.shape != b.shape or a.shape[1:] != self.info.item_shape or not len(a):
            raise UserError(
                f"items of shapes {list(a.shape)} and {list(b.shape)}; want as many of "
                f"{list(self.info.item_shape)} of each, one or more."
            )
        rows, noise = walks(a, b, num_points)
        if NAME in self.spec.conditioners:
            rows |= embedded(asked, self.info, rows)
            if prompt is None:  # the embeddings say what there is
                cond.pop("text", None)
        return self._edited(asked, rows | in_turn(cond, len(a)), noise, num_points)

    def variations(
        self, images: Any, num_images: int = 4, **options: Any
    ) -> np.ndarray:
        """Sample other images with the image embedding of each (unCLIP).

        What the dual encoder's captions name is kept, the rest is drawn anew.

        Args:
            images: uint8 [N, H, W, C], or floating point in [-1, 1], which is rounded
                to bytes.
            num_images: K, of each.
            options: as of `python main.py edit variations --help`, by the same names,
                such as num_steps=20, seed=0.

        Returns:
            float32 [N, K, H, W, C] in [-1, 1].

        Raises:
            UserError: the model is no decoder of image embeddings, an option is not
                known, or does not fit; or these are no such images.
        """
        given = {**options, "num_images": num_images}
        return self._of_pictures("variations", Variations, images, given)

    def text_diff(
        self,
        images: Any,
        from_text: str,
        to_text: str,
        num_points: int = 6,
        **options: Any,
    ) -> np.ndarray:
        """Turn images by the difference of two texts (unCLIP).

        Each is encoded as its embedding and noise, and decoded while the embedding is
        turned toward the difference of the text embeddings, from 0 to `share`.

        Args:
            images: as of `variations`.
            from_text: what they show, such as "a red circle".
            to_text: what they are to show instead.
            num_points: P, images of a walk.
            options: as of `python main.py edit text-diff --help`, by the same names,
                such as share=0.4, strength=0.9.

        Returns:
            float32 [N, P, H, W, C] in [-1, 1].

        Raises:
            UserError: as `variations`; or a text cannot be read.
        """
        given = {**options, "from_text": from_text, "to_text": to_text}
        given["num_points"] = num_points
        return self._of_pictures("text_diff", TextDiff, images, given)

    def extend(
        self,
        clips: Any,
        frames: int | None = None,
        num_images: int = 1,
        *,
        label: Labels | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Make clips longer, in blocks that begin with their last frames.

        Memory is that of a block, however long the clips.

        Args:
            clips: [N, F', H, W, C] of one frame or more, uint8, or floating point in
                [-1, 1].
            frames: F", of the longer clips; None for one block more.
            num_images: K, ways to go on from each.
            label: of a class-conditional model, one for each way in turn; None for no
                class.
            prompt: of a text-conditional model; None for none.
            options: as of `python main.py extend --help`, by the same names, such as
                known=4, num_steps=50, seed=0.

        Returns:
            float32 [N, K, F", H, W, C] in [-1, 1].

        Raises:
            UserError: the model is none of clips, an option is not known or does not
                fit, or these are no such clips.
        """
        text = None if label is None else _label_text(label, self.info)
        given = {**options, **_present(label=text, prompt=prompt, frames=frames)}
        given["num_images"] = num_images
        known = [n for n in sections_of(Extend).values() if n not in _OF_PICTURES]
        values = read("extend", Extend, given, known)
        with _named_by_keywords(Extend):
            asked, _ = self._ask_edit(Extend, values)
            assert isinstance(asked, Extend)
            shape = self.info.item_shape
            pictures = np.asarray(as_float(self.codec, clips, rank=len(shape)))
            if pictures.shape[2:] != shape[1:] or not pictures.size:
                raise UserError(
                    f"clips of shape {list(pictures.shape)}; want [N, F, "
                    f"{', '.join(map(str, shape[1:]))}], one or more of each."
                )
            blocks = lay_blocks(asked, self.info, pictures)
            rows, noise, columns = lay_out(self.spec, asked, self.info, pictures)
        params = self._all_params(asked)
        model = dataclasses.replace(self._in_floating_point(), params=params)
        made = extended(asked, model, self._program(asked), rows, noise, blocks)
        return made.reshape(-1, columns, *made.shape[1:])

    def _of_pictures(
        self, function: str, request: type[Edit], images: Any, given: dict[str, Any]
    ) -> np.ndarray:
        """Edit pictures as the command does, each by itself."""
        known = sections_of(request).values()
        values = read(
            function, request, given, [n for n in known if n not in _OF_PICTURES]
        )
        with _named_by_keywords(request):
            asked, _ = self._ask_edit(request, values)
            pictures = np.asarray(images)
            if np.issubdtype(pictures.dtype, np.floating):
                pictures = np.asarray(to_uint8(pictures))
            rows, noise, columns = lay_out(self.spec, asked, self.info, pictures)
        return self._edited(asked, rows, noise, columns)

    def _ask_edit(
        self, request: type[Edit], values: dict[str, Any], **of_sample: Any
    ) -> tuple[Edit, Sample]:
        """Make the request of an edit, and that of the samples that its chain makes."""
        asked = self.recipe.request(request, run=None, **values)
        asked = assembly.leave_out_idle(self.spec, asked, values)
        samples = assembly.sample_of_edit(self.spec, asked, **of_sample)
        assembly.check_sample(self.spec, self.info, samples)
        assembly.check_edit(self.spec, asked, self.info.item_shape)
        assembly.refuse_idle(self.spec, asked)
        return asked, samples

    def _edited(
        self, asked: Edit, rows: dict[str, Any], noise: np.ndarray, columns: int
    ) -> np.ndarray:
        """Run an edit of rows [N P, ...]; float32 [N, P, ...]."""
        made = run_batches(
            self._program(asked),
            self._all_params(asked),
            assembly.sample_key(assembly.seed_of(self.spec, asked)),
            rows,
            num_rows=len(noise),
            batch_size=min(asked.batch_size, len(noise)),
            indices=noise,
            advice="use less strength.",
        )
        found = np.concatenate([batch.items for (batch,) in made])
        return found.reshape(-1, columns, *self.info.item_shape)

    def _ask(
        self,
        function: str,
        known: Sequence[str],
        given: Mapping[str, Any],
        label: Labels | None,
        prompt: str | Sequence[str] | None,
    ) -> tuple[Sample, list[str] | None]:
        """Make a request, checked, and list the prompts if there are several."""
        for name in _NOT_OF_SAMPLE[:3]:
            if name in given:
                raise UserError(
                    f"{name} chooses the parameters; give it to ddpm_jax.load."
                )
        prompts = None if prompt is None else _listed_prompts(prompt, given)
        first = prompt if prompts is None else prompts[0]
        text = None if label is None else _label_text(label, self.info)
        values = read(
            function, Sample, {**given, **_present(label=text, prompt=first)}, known
        )
        with _named_by_keywords():
            asked = self.recipe.request(Sample, run=None, **values)
            asked = assembly.leave_out_idle(self.spec, asked, values)
            assembly.check_sample(self.spec, self.info, asked)
        return asked, prompts

    def _condition(self, asked: Sample, prompts: list[str] | None) -> Conditions:
        texts = None
        if prompts is not None:
            texts = [prompts[i % len(prompts)] for i in range(asked.num_images)]
        return conditions_of(self._trained, asked, self.params, texts)

    def _all_params(self, asked: Sample | Edit) -> Params:
        """Return the parameters of a request, with those that autoguidance has."""
        own = self._trained.params._replace(worse=None)
        if asked.autoguidance == 1:
            return own
        if self._open_worse is None:
            raise UserError(
                f"config.sample.autoguidance={asked.autoguidance:g} is away from other "
                "parameters of a run, and this model was not opened from a run; leave "
                "it out."
            )
        return own._replace(worse=self._open_worse(asked))

    def _program(self, asked: Sample | Edit) -> Program:
        """Make the program of a request, which leaves images in floating point."""
        model = self._in_floating_point()
        return assembly.program(model, asked, recorded=False, what="model ")

    def _in_floating_point(self) -> Trained:
        """Return the model with a codec that leaves images in floating point."""
        codec = self.codec._replace(store=partial(_in_range, self.info))
        return dataclasses.replace(self._trained, codec=codec)

    # --- Items ------------------------------------------------------------------------

    def encode(self, images: Any) -> jax.Array:
        """Map items to what the chain is made of: pixels in [-1, 1], or latents.

        Args:
            images: [N, ...] as data and files have them, uint8 of images, or floating
                point, images in [-1, 1].

        Returns:
            float32 [N, ...].

        Raises:
            UserError: they are not such as the model's.
        """
        x = as_float(self.codec, images, rank=len(self.info.item_shape))
        if x.shape[-1] != self.info.item_shape[-1]:
            raise UserError(
                f"items of shape {list(x.shape[1:])}; this model is of "
                f"{list(self.info.item_shape)}."
            )
        return self._encode(self._trained.params.codec, x)

    def decode(self, z: Any) -> jax.Array:
        """Map x of the chain [N, ...] to items float32 [N, ...], images in [-1, 1].

        Raises:
            UserError: it is of other axes, or another number of channels.
        """
        *sides, channels = self.info.shape
        x = arguments.floats("z", z, (*(None for _ in sides), channels))
        return _in_range(self.info, self._decode(self._trained.params.codec, x))

    def show(self, items: Any, columns: int | None = None) -> Image.Image:
        """Lay out items in one picture: images on a sheet, points and curves in a plot.

        Args:
            items: [N, ...], or one [...]; uint8, or floating point as of `sample`.
            columns: images in a row; None for about a square.

        Raises:
            UserError: these are no such items, or there are none.
        """
        given = np.asarray(arguments.array("items", items))
        shape = self.info.item_shape
        if given.ndim == len(shape):
            given = given[None]
        if given.ndim != len(shape) + 1 or not len(given):
            raise UserError(
                f"items of shape {list(np.shape(items))}; want [N, "
                f"{', '.join(map(str, shape))}], or one of them."
            )
        if columns is not None:
            columns = arguments.whole("columns", columns, 1)
        with arguments.located("items"):
            sheet = self.codec.show.sheet(given, columns)
        return Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)


def as_float(codec: Codec, items: Any, rank: int) -> jax.Array:
    """Make items [N, ...] floating point, as a codec encodes them.

    Args:
        codec: of a model.
        items: as they are stored, or floating point already.
        rank: of one item.

    Raises:
        UserError: they have another number of axes, or are integers but no bytes.
    """
    x = arguments.array("items", items)
    if x.ndim != rank + 1:
        raise UserError(
            f"items of shape {list(x.shape)}; want {rank + 1} axes, the first for the "
            "items of a batch."
        )
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)
    if x.dtype != jnp.uint8:
        raise UserError(f"items are {x.dtype}; want uint8, or floating point.")
    return codec.load(x)


def _check_params(given: Any, own: Any) -> None:
    """Refuse parameters of another network."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}

    there, here = shapes(given), shapes(own)
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            raise UserError(
                f"params{name} is {_size(there.get(name))}, and the model's is "
                f"{_size(here.get(name))}; give a tree like model.params."
            )


def _size(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _rows(cond: Any, count: int) -> Cond:
    """Check that a condition has a row of each item."""
    if not isinstance(cond, Mapping):
        raise UserError(
            f"cond={shown(cond)} is no condition; give rows by the names of "
            'conditioners, such as {"label": labels}.'
        )
    for name, rows in cond.items():
        if isinstance(rows, Mapping):  # of the negative condition
            _rows(rows, count)
            continue
        for leaf in jax.tree.leaves(rows):
            if jnp.shape(leaf)[:1] != (count,):
                raise UserError(
                    f"the condition {name!r} is of shape {list(jnp.shape(leaf))} "
                    f"beside {count} rows of x_t; give a row of each."
                )
    return cond


def _in_range(info: DataInfo, items: jax.Array) -> jax.Array:
    return jnp.clip(items, -1.0, 1.0) if info.dtype == "uint8" else items


@contextmanager
def _named_by_keywords(request: type[Request] = Sample) -> Iterator[None]:
    """Name keyword arguments in messages that name the options of a recipe."""
    try:
        yield
    except UserError as error:
        error.args = (in_keywords(request, str(error)), *error.args[1:])
        raise


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _label_text(label: Labels, info: DataInfo) -> str:
    """Write labels as the option of the command has them."""
    names = list(info.label_names or ())

    def word(one: Any) -> str:
        if isinstance(one, str):
            return assembly.label_word(names.index(one), names) if one in names else one
        if isinstance(one, int | np.integer) and not isinstance(one, bool):
            if 0 <= one < len(names):
                return assembly.label_word(int(one), names)
            if str(one) not in names:  # else it would be read as that name
                return str(one)
        raise UserError(
            f"label={shown(label)} is not a class; use an index, a name, or several."
        )

    plain = label.tolist() if hasattr(label, "tolist") else label
    several = list(plain) if isinstance(plain, list | tuple | range) else [plain]
    if not several:
        raise UserError("label is an empty sequence; give a class, or leave it out.")
    return ",".join(map(word, several))


def _listed_prompts(
    prompt: str | Sequence[str], given: Mapping[str, Any]
) -> list[str] | None:
    """List several prompts; None if it is one, which the request can hold."""
    if isinstance(prompt, str):
        return None
    several = list(prompt) if isinstance(prompt, Iterable) else []
    if not several or not all(isinstance(text, str) for text in several):
        raise UserError(f"prompt={shown(prompt)} is not text, or several texts.")
    for text in several:
        if not text.strip():
            raise UserError("a prompt is blank; say what the picture shows.")
        if text.startswith(_OF_MANY):
            raise UserError(f"prompt {shown(text)} stands for several; give it alone.")
    if given.get("prompt_to"):
        raise UserError("prompt_to needs one prompt to come from; give one.")
    return several
