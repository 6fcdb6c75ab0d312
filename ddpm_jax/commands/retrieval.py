"""Training a CLIP-style dual encoder, which finds the caption of an image among others.

Its result says how often it does. Where the data have a rule
(`data.dataset.CaptionRule`), a caption that is true of an image counts as neither found
nor missed, and a linear probe says how well each attribute can be read off the image
embeddings: what they do not hold no decoder can know.
"""

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
from ddpm_jax.data.dataset import CaptionRule
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.estimate import Estimate
from ddpm_jax.evaluation.feature_extractor import extract
from ddpm_jax.evaluation.linear_probe import linear_probe
from ddpm_jax.evaluation.recall_at_k import num_ranked_higher, recall_at_k
from ddpm_jax.recipe import ContrastiveTask, Recipe
from ddpm_jax.specs import kind_of

FIRST, AMONG = 5, 100  # R@5 of 100
_RULED = 2000  # images, of data with a rule, that are looked for


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
        encoders = of.as_retrieval(of.as_clip(spec, info, params, facts))
        shares = {name: _found(encoders, source) for name, source in splits.items()}
        return facts | {"found": shares} | _probed(encoders, *splits.values())

    dual_encoder = Auxiliary(
        of.KIND,
        lambda mesh: of.contrastive_task(spec, fit, info, mesh, source.rule),
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
        {} if source.rule is None else {"facts": source.rule.facts},
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
    if source.rule is not None and len(source) > _RULED:
        source = data.subset(source, np.arange(_RULED))
    assert source.texts is not None  # as its data have
    images = data.in_memory(source)[0]
    return found(dual_encoder, images, source.texts, source.rule)


def _probed(
    dual_encoder: of.Retrieval, source: data.Dataset, test: data.Dataset
) -> dict[str, Any]:
    """Probe the embeddings for the attributes of a rule; nothing without one."""
    if source.rule is None or test.rule is None:
        return {}
    seen, classes = [], []
    for one in (source, test):
        seen.append(extract(dual_encoder.features, data.in_memory(one)[0]).features)
        assert one.rule is not None  # both have
        classes.append(one.rule.attributes(one.rule.facts))
    train, held_out = classes
    return {
        "probe": {
            name: linear_probe(seen[0], train[name], seen[1], held_out[name])._asdict()
            for name in train
        }
    }


def found(
    dual_encoder: of.Retrieval,
    images: np.ndarray,
    texts: Sequence[str],
    rule: CaptionRule | None = None,
) -> dict[str, Any]:
    """Tell how often the text of a picture is the first, and in the first few.

    Args:
        dual_encoder: the trained one.
        images: uint8 [N, H, W, C].
        texts: N of them; those that differ are what there is to choose from.
        rule: by which a text that is another's is known to be true of a picture as
            well, and does not count.

    Returns:
        "first" and "in_first_5", estimates as plain data, "among", the number of
        texts: 100, or as many as there are, and "num_images", N.

    Raises:
        UserError: there are too few texts that differ.
    """
    listed, own = conditioning.distinct(texts)
    seen = extract(dual_encoder.features, images).features
    true = None
    if rule is not None:
        _, first = np.unique(own, return_index=True)  # an example of each text
        true = rule.holds(rule.facts, rule.facts[first])
    before = num_ranked_higher(seen, dual_encoder.encode_texts(listed), own, true)
    among = min(AMONG, len(listed))

    def share(first: int) -> dict[str, float | None]:
        one: Estimate = recall_at_k(before, len(listed), k=first, among=among)
        return one._asdict()

    shares = {"first": share(1), f"in_first_{FIRST}": share(FIRST)}
    return {**shares, "among": among, "num_images": len(images)}


def _report(result: dict[str, Any], workdir: Path) -> str:
    shares = ", ".join(
        f"{found[f'in_first_{FIRST}']['value']:.1%} of "
        f"{found.get('num_images', result['num_images'][name]):,} ({name})"
        for name, found in result["found"].items()
    )
    probe = ", ".join(
        f"{name} {one['value']:.1%}" for name, one in result.get("probe", {}).items()
    )
    return (
        f"{result['name']}, weights {result['fingerprint']}: finds the caption in the "
        f"first {FIRST} of {result['found']['train']['among']} for {shares}. "
        + (f"A linear probe reads {probe} of images held out. " if probe else "")
        + f"Use it with --retrieval={workdir}."
    )
