"""The first half of unCLIP: image embeddings of prompts, for a decoder.

    text --prior--> image embedding --decoder--> image

A prior samples two embeddings of each prompt, and the one with the larger inner product
with the text embedding is kept. Prior and decoder have to be of one dual encoder
(CLIP): otherwise what the one makes means nothing to the other.

Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP
    Latents", section 2.2.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import assembly
from ddpm_jax.codecs.embeddings import unit
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.encoding import image_embeddings
from ddpm_jax.commands.model import (
    Described,
    Trained,
    describe_model,
    digest,
    model_request,
    open_model,
)
from ddpm_jax.conditioning import distinct
from ddpm_jax.conditioning.clip import Clip
from ddpm_jax.conditioning.image_embedding import NAME
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Embeddings, Recipe
from ddpm_jax.requests import Sample
from ddpm_jax.runtime.recent import Recent
from ddpm_jax.sampling.plan import run_batches

TEXT, NEAREST = "text", "nearest"
"""What may stand in the place of the run of a prior."""

NUM_DRAWS = 2
"""Embeddings that are sampled of a prompt."""

_opened: Recent[Any] = Recent(2)


class Embedded(NamedTuple):
    """The image embeddings of samples.

    Attributes:
        rows: float32 [N, D], of length 1.
        described: where they come from, for a person to read.
    """

    rows: np.ndarray
    described: str


class _Prior(NamedTuple):
    """The run of a prior that fits a decoder, whose parameters are not read yet."""

    recipe: Recipe[Diffusion]
    folder: Path
    asked: Sample
    found: Described


def check_prior(spec: Diffusion, info: assembly.DataInfo, asked: Sample) -> None:
    """Refuse a prior that does not fit the decoder, before any compile.

    Raises:
        UserError: it is not there, is no prior, or is of another dual encoder; or
            there is no prompt for it.
    """
    if asked.prior:
        _check_text(spec, asked)
    if asked.prior not in ("", TEXT, NEAREST):
        _prior_of(info, asked.prior)


def _check_text(spec: Diffusion, asked: Sample) -> None:
    if spec.text is None:
        raise UserError(
            f"config.sample.prior={asked.prior!r} makes embeddings of prompts, and "
            "this model was trained without text; leave the option out."
        )


def _prior_of(info: assembly.DataInfo, run: str) -> _Prior:
    folder = Path(run).expanduser()
    what = f"config.sample.prior={run!r}"
    try:
        recipe = trained_recipe(folder)
    except UserError as error:
        raise UserError(
            f"{what} holds no prior: {error} Or use prior text, or none."
        ) from error
    spec = recipe.task
    if not isinstance(spec, Diffusion) or not isinstance(spec.codec, Embeddings):
        raise UserError(
            f"{what} is no prior, which has codec embeddings; train one as "
            "configs/shapes_prior.py does."
        )
    asked = recipe.request(Sample, run=run)
    found = describe_model(spec, asked, folder)
    one, other = (made.runs.get(assembly.CLIP) for made in (info, found.info))
    if one is None or other is None or one.fingerprint != other.fingerprint:
        theirs = other.fingerprint if other else "none"
        ours = one.fingerprint if one else "none"
        raise UserError(
            f"{what} is of the dual encoder {theirs}, and this decoder of {ours}; use "
            "a prior that was trained with the same."
        )
    return _Prior(recipe, folder, asked, found)


def prior_request(info: assembly.DataInfo, asked: Sample) -> dict[str, Any]:
    """Describe by what the embeddings of a request are decided, as plain data."""
    if asked.prior in ("", TEXT, NEAREST):
        return {}
    prior = _prior_of(info, asked.prior)
    options = digest(dataclasses.asdict(prior.asked))
    model = model_request(prior.asked, prior.found)
    return {"prior_model": {**model, "options": options}}


def embeddings_of(
    model: assembly.Model, asked: Sample, texts: Sequence[str]
) -> Embedded | None:
    """Make the image embeddings that condition a decoder; None if none do.

    Embedding i depends on the seed, on i and on its text alone.

    Args:
        model: the decoder.
        asked: by which prior, and from which seed.
        texts: N prompts.

    Raises:
        UserError: as `check_prior`, or a prompt cannot be read.
    """
    if not asked.prior or NAME not in model.spec.conditioners:
        return None
    _check_text(model.spec, asked)
    clip = assembly.clip_of(model.info)
    encoded = clip.encode_texts(texts)
    if asked.prior == TEXT:
        return Embedded(encoded, "the text embeddings of the prompts")
    if asked.prior == NEAREST:
        name = f"{model.info.name}'s images with the nearest captions"
        return Embedded(_nearest(model, clip, encoded), f"the embeddings of {name}")
    trained, own = _open(model.info, asked.prior)
    seed = assembly.seed_of(model.spec, asked)
    rows = drawn(trained, own, texts, seed, NUM_DRAWS)
    scores = np.einsum("nkd,nd->nk", rows, encoded)
    best = rows[np.arange(len(rows)), scores.argmax(axis=1)]
    return Embedded(
        best,
        f"the prior in {asked.prior}, {trained.described}: {NUM_DRAWS} draws of each "
        "prompt, of which the better match is kept",
    )


def _open(info: assembly.DataInfo, run: str) -> tuple[Trained, Sample]:
    """Open a prior, or find it among those that were opened last."""
    recipe, folder, asked, found = _prior_of(info, run)
    key = (str(folder.resolve()), digest(found.about.get("checksums")))
    return _opened.get(key, lambda: open_model(recipe, asked, folder)), asked


def drawn(
    trained: Trained, asked: Sample, texts: Sequence[str], seed: int, num_draws: int
) -> np.ndarray:
    """Sample embeddings of texts.

    Args:
        trained: a prior.
        asked: how its chains are run.
        texts: N of them.
        seed: of the noise.
        num_draws: K, of each text.

    Returns:
        float32 [N, K, D], of length 1.

    Raises:
        UserError: a text cannot be read, or an embedding is not finite.
    """
    count = num_draws * len(texts)
    asked = dataclasses.replace(asked, num_images=count, prompt="", label="")
    repeated = [text for text in texts for _ in range(num_draws)]
    cond = assembly.text_cond(trained.info, repeated, asked.negative_prompt)
    made = run_batches(
        assembly.program(trained, asked, recorded=False),
        trained.params,
        assembly.prior_key(seed),
        cond,
        num_rows=count,
        batch_size=min(asked.batch_size, count),
        advice="use a prior that was trained for longer, or at a lower rate.",
    )
    rows = unit(np.concatenate([batch.items for (batch,) in made]))
    return rows.reshape(len(texts), num_draws, -1)


def _nearest(model: assembly.Model, clip: Clip, encoded: np.ndarray) -> np.ndarray:
    """Take for each text [N, D] the embedding of the image with the nearest caption."""
    images, captions = _of_training(model.spec, clip)
    return images[(encoded @ captions.T).argmax(axis=1)]


def _of_training(spec: Diffusion, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Embed the training images and their captions, or find them: [M, D] each."""

    def make() -> tuple[np.ndarray, np.ndarray]:
        source = spec.data.open()
        assert source.texts is not None  # the data are those of a model with text
        images, _ = image_embeddings(source, clip)
        listed, places = distinct(source.texts)
        return images, clip.encode_texts(listed)[places]

    return _opened.get(("training", clip.fingerprint, repr(spec.data)), make)
