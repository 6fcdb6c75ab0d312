"""Root keys: one for each seed.

No other module makes a key of a seed.
"""

import jax
import numpy as np

from ddpm_jax.limits import check_seed


def root_key(seed: int) -> jax.Array:
    """Return the root key of a seed; each seed has its own.

    `jax.random.key` keeps only the low 32 bits of a seed, unless 64-bit types are
    enabled: of 2^32 + 1 it makes the key of 1. Here both halves of the seed always
    enter. Below 2^32 the key is that of `jax.random.key`.

    Args:
        seed: 0 to 2^63 - 1.

    Raises:
        UserError: the seed is out of range.
    """
    check_seed("seed", seed)
    high, low = divmod(seed, 2**32)
    key = jax.random.key(np.uint32(low))
    if not high:
        return key
    # The data are [high, low], or two copies of that: [4].
    data = jax.random.key_data(key).at[::2].set(np.uint32(high))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
