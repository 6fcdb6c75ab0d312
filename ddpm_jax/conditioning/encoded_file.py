"""What a frozen encoder said of texts, kept so that training starts at once next time.

cache folder/text/KEY.npz       lengths [U], vectors [sum of lengths, D], pooled [U, P]

KEY names the encoder, the length and every text, so that a change of any leads to
another file. Places without a token are not stored. A damaged file is written anew.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.conditioning.encoded_text import Encoded
from ddpm_jax.runtime import files

_VERSION = 1  # of what is stored, and of how it is computed


def path_of(texts: Sequence[str], fingerprint: str, max_length: int) -> Path:
    """Name the file that keeps what an encoder says of texts.

    Args:
        texts: in their order.
        fingerprint: of the encoder.
        max_length: L.
    """
    digest = hashlib.sha256(f"{_VERSION} {fingerprint} {max_length}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return files.cache_folder("text", f"{digest.hexdigest()[:32]}.npz")


def kept(path: Path, max_length: int, encode: Callable[[], Encoded]) -> Encoded:
    """Return what the file holds; if there is none, encode and write it.

    Args:
        path: from `path_of`.
        max_length: L.
        encode: makes it, a right-padded row for each text, float32.
    """
    try:
        return _unpack(files.read_npz(path), max_length)
    except (FileNotFoundError, files.DamagedError):
        pass
    encoded = encode()
    lengths = encoded.mask.sum(axis=1).astype(np.int32)
    vectors = encoded.sequence[encoded.mask]
    arrays = {"lengths": lengths, "vectors": vectors, "pooled": encoded.pooled}
    with files.optional("encoded texts"):
        files.write_npz(path, arrays)
    return encoded


def _unpack(arrays: dict[str, np.ndarray], max_length: int) -> Encoded:
    try:
        lengths, vectors, pooled = (
            arrays[name] for name in ("lengths", "vectors", "pooled")
        )
        mask = np.arange(max_length) < lengths[:, None]
        sequence = np.zeros((*mask.shape, vectors.shape[1]), np.float32)
        sequence[mask] = vectors
        if len(pooled) != len(lengths):
            raise ValueError("rows do not agree")
    except (KeyError, IndexError, ValueError) as error:
        raise files.DamagedError(str(error)) from error
    return Encoded(sequence, mask, pooled)
