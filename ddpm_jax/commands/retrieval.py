"""Training the dual encoder that finds the caption of an image among others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import assembly, conditioning, data
from ddpm_jax.assembly import auxiliary
from ddpm_jax.assembly import retrieval as of
from ddpm_jax.commands.fitting import Auxiliary, train_auxiliary
from ddpm_jax.commands.splits import with_test_split
from ddpm_jax.conditioning import reopen
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate
from ddpm_jax.evaluation.feature_extractor import extract
from ddpm_jax.evaluation.recall_at_k import num_ranked_higher, recall_at_k
from ddpm_jax.recipe import ContrastiveTask, Recipe
from ddpm_jax.specs import kind_of

FIRST, AMONG = 5, 100  # R@5 of 100


def retrieval(recipe: Recipe[ContrastiveTask], workdir: Path) -> int:
    """Train a dual encoder on the captions of the data of a recipe, and write it.

    Returns:
        0 if it is done, else 128 plus the number of the signal that interrupted it.

    Raises:
        UserError: data, options or workdir do not fit.
    """
    spec, fit = recipe.task, recipe.training
    splits = with_test_split(spec.data, workdir)
    source, test = splits.values()
    info = assembly.data_info(source, spec)
    of.check_retrieval(spec, fit, info)
    _check_texts(kind_of(spec.text), info, test)

    def measure(params: Any, splits: dict[str, data.Dataset]) -> dict[str, Any]:
        facts = {
            "name": f"retrieval network of {info.name}",
            "fingerprint": auxiliary.fingerprint(auxiliary.flat_params(params)),
            "image_shape": list(info.image_shape),
            "tokenizer": dict(info.tokenizer or {}),
            "captions": list(info.captions[:1]),
        }
        encoders = of.as_retrieval(of.match_network(spec, info), params, facts)
        shares = {name: _found(encoders, source) for name, source in splits.items()}
        return facts | {"found": shares}

    dual_encoder = Auxiliary(
        of.KIND,
        lambda mesh: of.contrastive_task(spec, fit, info, mesh),
        measure,
        of.retrieval,
        _report,
    )
    return train_auxiliary(
        recipe,
        workdir,
        dual_encoder,
        splits,
        info,
        lambda: assembly.captions(info, source.texts or ()),
    )


def _check_texts(kind: str, info: assembly.DataInfo, test: data.Dataset) -> None:
    """Refuse captions of the test that cannot be read, before the training."""
    try:
        reopen(info.tokenizer or {}).tokenize(list(test.texts or ()))
    except UserError as error:
        raise UserError(
            f"config.text.kind={kind!r} cannot read a caption held out: "
            f"{error} Or let minilm or bytes read."
        ) from error


def _found(dual_encoder: of.Retrieval, source: data.Dataset) -> dict[str, Any]:
    assert source.texts is not None  # as its data have
    return found(dual_encoder, data.in_memory(source)[0], source.texts)


def found(
    dual_encoder: of.Retrieval, images: np.ndarray, texts: Sequence[str]
) -> dict[str, Any]:
    """Tell how often the text of a picture is the first, and in the first few.

    Args:
        dual_encoder: the trained one.
        images: uint8 [N, H, W, C].
        texts: N of them; those that differ are what there is to choose from.

    Returns:
        "first" and "in_first_5", estimates as plain data, and "among", the number of
        texts: 100, or as many as there are.

    Raises:
        UserError: there are too few texts that differ.
    """
    listed, own = conditioning.distinct(texts)
    seen = extract(dual_encoder.features, images).features
    before = num_ranked_higher(seen, dual_encoder.encode_texts(listed), own)
    among = min(AMONG, len(listed))

    def share(first: int) -> dict[str, float | None]:
        one: Estimate = recall_at_k(before, len(listed), k=first, among=among)
        return one._asdict()

    return {"first": share(1), f"in_first_{FIRST}": share(FIRST), "among": among}


def _report(result: dict[str, Any], workdir: Path) -> str:
    shares = ", ".join(
        f"{found[f'in_first_{FIRST}']['value']:.1%} of {result['num_images'][name]:,} "
        f"({name})"
        for name, found in result["found"].items()
    )
    return (
        f"{result['name']}, weights {result['fingerprint']}: finds the caption in the "
        f"first {FIRST} of {result['found']['train']['among']} for {shares}. Use it "
        f"with --retrieval={workdir}."
    )
