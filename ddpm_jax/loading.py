"""Loading any trained model from its folder; `ddpm_jax.load` is the front door.

    diffusion     DiffusionModel       sample, denoiser, encode, decode, show
    classifier    ClassifierModel      features, logits
    autoencoder   AutoencoderModel     encode, decode
    contrastive   ContrastiveModel     encode_images, encode_texts
    vae, gan, flow  LatentModel        sample, interpolate; encode and log_likelihood
    your own      whatever its `TaskSpec.open` returns

Classifier, autoencoder and dual encoder are the small auxiliary models that diffusion
models are made and scored with.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import assembly, specs
from ddpm_jax.assembly import autoencoder as autoencoder_folder
from ddpm_jax.assembly import auxiliary, features, retrieval
from ddpm_jax.codecs import Autoencoder, Codec, latents
from ddpm_jax.commands import about
from ddpm_jax.commands.import_autoencoder import read_autoencoder
from ddpm_jax.commands.import_model import read_model
from ddpm_jax.commands.model import Trained, open_model, open_worse, trained
from ddpm_jax.commands.parameters import worse_of
from ddpm_jax.commands.sampled import open_task
from ddpm_jax.errors import UserError, shown
from ddpm_jax.evaluation.feature_extractor import (
    FeatureExtractor,
    Outputs,
    extract,
    make_extract,
)
from ddpm_jax.model import DiffusionModel, as_float
from ddpm_jax.requests import Edit, Sample
from ddpm_jax.requests.keywords import in_keywords, read
from ddpm_jax.runtime import arguments
from ddpm_jax.runtime.devices import data_mesh, sharded, spread
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.recent import Recent
from ddpm_jax.runtime.startup import use_all_cores
from ddpm_jax.tasks.spec import TaskSpec
from ddpm_jax.training import checkpoints as store
from ddpm_jax.weights import diffusers, diffusers_autoencoder

_OF_DIFFUSERS = "diffusers"
_PARAMETERS = ("step", "ema", "ema_std")


class ClassifierModel:
    """A small classifier, whose features serve scores.

    Attributes:
        name: for a person to read.
        fingerprint: of its weights.
        label_names: of its classes.
        image_shape: (H, W, C) that it takes.
        params: a tree of arrays.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        """Wrap an opened features network."""
        self.name, self.fingerprint = extractor.name, extractor.fingerprint
        self.label_names, self.image_shape = (
            extractor.label_names,
            extractor.image_shape,
        )
        self.params = extractor.params
        self._run = _Extraction(extractor)

    def features(self, images: Any) -> np.ndarray:
        """Compute features float32 [N, D] of images.

        Args:
            images: [N, H, W, C], uint8, or floating point in [-1, 1], which is rounded
                to bytes, as of images that are scored.

        Raises:
            UserError: they are of another size or type.
        """
        return np.asarray(self._run(images).features)

    def logits(self, images: Any) -> np.ndarray:
        """Compute the logits float32 [N, K] of the classes; see `features`.

        Raises:
            UserError: as there.
        """
        return np.asarray(self._run(images).logits)


class AutoencoderModel:
    """A KL autoencoder, the first stage of a latent diffusion model.

    Attributes:
        name: for a person to read.
        fingerprint: of its weights and the scale of its latents.
        image_shape: (H, W, C) that it was trained on.
        latent_shape: (h, w, c) of their latents.
        factor: H / h.
        params: a tree of arrays.
        codec: that latent diffusion uses.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        """Wrap an opened autoencoder."""
        self.name, self.fingerprint = autoencoder.name, autoencoder.fingerprint
        self.image_shape = autoencoder.image_shape
        self.latent_shape, self.factor = autoencoder.latent_shape, autoencoder.factor
        self.params = jax.tree.map(jnp.asarray, autoencoder.params)
        self.codec: Codec = latents(autoencoder, autoencoder.image_shape)
        self._shape_of = autoencoder.shape_of
        self._encode, self._decode = map(
            jax.jit, (self.codec.encode, self.codec.decode)
        )

    def encode(self, images: Any) -> jax.Array:
        """Map images to the means of their latents' posteriors, of unit variance.

        Args:
            images: [N, H, W, C], uint8, or floating point in [-1, 1].

        Returns:
            float32 [N, h, w, c].

        Raises:
            UserError: the images are not such as it takes.
        """
        x = as_float(self.codec, images, rank=3)
        self._shape_of(x.shape[1:])  # refuses a size that cannot be halved so often
        return self._encode(self.params, x)

    def decode(self, z: Any) -> jax.Array:
        """Map latents [N, h, w, c] to images float32 [N, H, W, C] in [-1, 1].

        Raises:
            UserError: these are no such latents.
        """
        z = arguments.floats("z", z, (None, None, self.latent_shape[-1]))
        return jnp.clip(self._decode(self.params, z), -1.0, 1.0)


class ContrastiveModel:
    """A CLIP-style dual encoder of images and texts.

    Attributes:
        name: for a person to read.
        fingerprint: of its weights.
        image_shape: (H, W, C) that it takes.
        params: a tree of arrays.
    """

    def __init__(self, opened: retrieval.Retrieval) -> None:
        """Wrap an opened dual encoder."""
        extractor = opened.features
        self.name, self.fingerprint = extractor.name, extractor.fingerprint
        self.image_shape, self.params = extractor.image_shape, extractor.params
        self._run, self._texts = _Extraction(extractor), opened.encode_texts

    def encode_images(self, images: Any) -> np.ndarray:
        """Embed images as vectors of length 1.

        Args:
            images: [N, H, W, C], uint8, or floating point in [-1, 1], which is rounded
                to bytes.

        Returns:
            float32 [N, D].

        Raises:
            UserError: they are of another size or type.
        """
        return np.asarray(self._run(images).features)

    def encode_texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """Embed texts as vectors of length 1, float32 [N, D]; of one text [1, D].

        Raises:
            UserError: the tokenizer cannot read one, or there are none.
        """
        given = [texts] if isinstance(texts, str) else texts
        several = list(given) if isinstance(given, Iterable) else []
        if not several or not all(isinstance(text, str) for text in several):
            raise UserError(
                f"texts={shown(texts)} is not text, or several texts; give one or more."
            )
        return self._texts(several)


class _Extraction:
    """A feature extractor with one compiled program for all calls."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._program = make_extract(extractor, data_mesh())

    def __call__(self, images: Any) -> Outputs:
        given = np.asarray(arguments.array("images", images))
        if np.issubdtype(given.dtype, np.floating):
            with arguments.located("images"):
                given = to_uint8(given)
        return extract(self._extractor, given, run=self._program)


Loaded = DiffusionModel | ClassifierModel | AutoencoderModel | ContrastiveModel


# --- From a folder --------------------------------------------------------------------


def load(
    run: str | os.PathLike[str],
    *,
    step: int | None = None,
    ema: bool = True,
    ema_std: float | None = None,
) -> Loaded:
    """Open the model of a folder, whatever kind it is; see `ddpm_jax.load`.

    Raises:
        UserError: the folder holds no model, a damaged one, or not such parameters.
    """
    folder = _folder(run)
    given = {"step": step, "ema": ema, "ema_std": ema_std}
    asked = read("load", Sample, given, _PARAMETERS)
    kind = _kind(folder)
    if kind == auxiliary.DIFFUSION:
        return _load_run(folder, asked)
    if asked != {"step": None, "ema": True, "ema_std": None}:
        raise UserError(
            "step, ema and ema_std choose among the parameters of a diffusion run, and "
            f"{folder} holds one set (kind {kind}); leave them out."
        )
    match kind:
        case features.KIND.name:
            return ClassifierModel(features.classifier_features(folder))
        case autoencoder_folder.KIND.name:
            return AutoencoderModel(autoencoder_folder.load(folder))
        case retrieval.KIND.name:
            return ContrastiveModel(retrieval.retrieval(folder))
        case _ if kind == _OF_DIFFUSERS:
            return _load_diffusers(folder)
        case _ if kind in specs.kinds(TaskSpec):
            return open_task(folder, kind).model
    raise UserError(
        f"{folder} holds a model of kind {kind!r}, which this version of ddpm_jax does "
        "not know; import the module that registers it, or use the version that "
        "trained it."
    )


def _folder(run: Any) -> Path:
    """Read the name of a folder, with the home of a user written out."""
    if not isinstance(run, str | os.PathLike) or not str(run).strip():
        raise UserError(
            f"run={shown(run)} names no folder; give that of a run, such as "
            "runs/digits, or of a model in diffusers' layout."
        )
    folder = Path(run)
    with contextlib.suppress(RuntimeError):  # of a user whom this machine lacks
        folder = folder.expanduser()
    return folder


def _kind(folder: Path) -> str:
    """Find out what a folder holds."""
    is_folder = False
    with contextlib.suppress(OSError):  # a name that is too long to be one
        is_folder = folder.is_dir()
    if not is_folder:
        raise UserError(
            f"{folder} is not a folder; give that of a run, such as runs/digits, or of "
            "a model in diffusers' layout."
        )
    if store.all_steps(folder):
        return about.any_metadata(folder).get("kind", auxiliary.DIFFUSION)
    if diffusers_autoencoder.is_autoencoder(folder) or diffusers.is_folder(folder):
        return _OF_DIFFUSERS
    auxiliary.refuse_another_kind(folder, auxiliary.DIFFUSION, "the model")
    raise UserError(
        f"{folder} holds no model, neither checkpoints of a run nor files of "
        "diffusers; train one with python main.py --config=RECIPE "
        f"--workdir={folder}"
    )


def _load_run(folder: Path, asked: dict[str, Any]) -> DiffusionModel:
    recipe = about.trained_recipe(folder)
    use_all_cores(recipe.training.batch_size)
    try:
        # What is sampled says what autoguidance goes away from.
        request = recipe.request(Sample, run=str(folder), autoguidance=1.0, **asked)
        opened = open_model(recipe, request, folder)
        return DiffusionModel(recipe, opened, _reader_of_worse(request, opened, folder))
    except UserError as error:
        error.args = (in_keywords(Sample, str(error)), *error.args[1:])
        raise


def _reader_of_worse(
    own: Sample, opened: Trained, folder: Path
) -> Callable[[Sample | Edit], Any]:
    """Make what reads the parameters that autoguidance goes away from, the last kept.

    Args:
        own: which parameters the model was opened with.
        opened: the model.
        folder: of its run.
    """
    kept: Recent[Any] = Recent(1)

    def read_worse(asked: Sample | Edit) -> Any:
        asked = dataclasses.replace(asked, ema=own.ema, ema_std=own.ema_std)
        return kept.get(
            worse_of(asked, opened.step),
            lambda: open_worse(asked, folder, opened.step, opened.mesh)[0],
        )

    return read_worse


def _load_diffusers(folder: Path) -> DiffusionModel | AutoencoderModel:
    if diffusers_autoencoder.is_autoencoder(folder):
        return AutoencoderModel(read_autoencoder(folder, str(folder)))
    found = read_model(folder, str(folder))
    recipe, info = found.recipe, found.info
    use_all_cores(recipe.training.batch_size)
    mesh = data_mesh(recipe.devices.fsdp)
    params = jax.tree.map(
        lambda leaf: spread(np.asarray(leaf), sharded(mesh)(leaf.shape)), found.params
    )
    opened = trained(
        assembly.build_model(recipe.task, info, mesh, folder),
        params,
        step=found.step,
        about=about.metadata(recipe, info),
        described=f"the parameters of {folder}",
    )
    return DiffusionModel(recipe, opened)
