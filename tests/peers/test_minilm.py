"""The sentence encoder against `transformers`, on the published weights.

Their BertModel and tokenizer, run by PyTorch on the same folder; the mean and the norm
of sentence-transformers are two lines, written here.
"""

import hashlib

import jax
import numpy as np
import pytest

from ddpm_jax.conditioning import MiniLM, minilm_folder
from ddpm_jax.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 48
TEXTS = [
    "a red apple",
    "A photo of two DOGS, running on the beach!",
    "naïve café — Übergröße; 東京の夜景 and Ελλάδα",
    "x",
    "don't   stop\n(it's 3.14 or 1,000,000) #hash @home",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "an emoji 🦊 that no vocabulary of 2018 has",
    "the quick brown fox jumps over the lazy dog " * 4,
]


@pytest.fixture(scope="module")
def folder():
    try:
        return minilm_folder.find_folder()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return MiniLM.open(folder, max_length=LENGTH)


@pytest.fixture(scope="module")
def theirs(folder):
    """The last hidden states, the mask, and the sentence embeddings of TEXTS."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    batch = tokenizer(
        TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    there = batch["attention_mask"][..., None].float()
    mean = (states * there).sum(1) / there.sum(1)
    pooled = torch.nn.functional.normalize(mean, dim=1)
    arrays = states, batch["attention_mask"].bool(), pooled, batch["input_ids"]
    return [array.numpy() for array in arrays]


def test_the_weights_are_those_published(folder):
    # Of revision 1110a243 of sentence-transformers/all-MiniLM-L6-v2.
    digests = {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab"
        "128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f41157"
        "2037",
    }
    for name, digest in digests.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found == digest, name


def test_tokens_are_theirs(tokenizer, theirs):
    tokens = tokenizer.tokenize(TEXTS)
    np.testing.assert_array_equal(tokens.mask, theirs[1])
    np.testing.assert_array_equal(tokens.ids, theirs[3])
    # Long enough to fill the batch unevenly, and with a word that is in no vocabulary.
    assert len(set(tokens.mask.sum(1))) > 5 and (tokens.ids == 100).any()


def test_states_and_embeddings_are_theirs(tokenizer, theirs):
    states, mask, pooled, _ = theirs
    encoded = tokenizer.read(TEXTS, cache=False)
    assert states[mask].std() > 0.1
    difference = np.abs(encoded.sequence - states * mask[..., None]).max()
    pooled_difference = np.abs(encoded.pooled - pooled).max()
    print(f"states differ by {difference:.1e}, embeddings by {pooled_difference:.1e}")
    assert difference < 1e-4 and pooled_difference < 1e-5
    np.testing.assert_array_equal(encoded.mask, mask)


def test_every_weight_counts(folder, tokenizer):
    """22,713,216 parameters in theirs, of which the pooler's are not used."""
    leaves = jax.tree.leaves(minilm_folder.read_params(folder, tokenizer.sizes))
    assert sum(leaf.size for leaf in leaves) == 22_713_216 - 384 * 385


@pytest.mark.parametrize(
    ("prompt", "near", "far"),
    [
        ("a red apple", "apple", "car"),
        ("a puppy asleep", "a dog is sleeping", "a cat is jumping"),
        ("a crimson disc", "a red circle", "a blue square"),
    ],
)
def test_like_meanings_are_neighbours(tokenizer, prompt, near, far):
    a, b, c = tokenizer.read([prompt, near, far], cache=False).pooled
    assert a @ b > a @ c + 0.1


def test_a_model_finds_the_encoder_it_was_trained_with(folder, tokenizer, monkeypatch):
    monkeypatch.delenv(minilm_folder.FOLDER_VARIABLE, raising=False)
    again = MiniLM.from_json(tokenizer.to_json())
    assert (again.fingerprint, again.max_length) == (tokenizer.fingerprint, LENGTH)
    stored = tokenizer.to_json() | {"fingerprint": "0" * 16}
    with pytest.raises(UserError, match="trained with the sentence encoder 0000"):
        MiniLM.from_json(stored)
