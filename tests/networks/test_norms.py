"""Every normalization of a network has the epsilon that the network was given.

What a group normalization does with it is in test_layers.py.
"""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from ddpm_jax.networks import Ports, TokenSequence, UNet
from ddpm_jax.networks.kl_autoencoder import KLAutoencoder
from ddpm_jax.networks.layers import GroupNorm

SIZES = {
    "channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "num_groups": 4,
    "norm_epsilon": 0.3,
}
NETWORKS = {
    "unet": UNet(1, **SIZES, attention_resolutions=(4,)),
    "resampling blocks": UNet(1, **SIZES, resample_blocks=True, scale_shift=True),
    "autoencoder": KLAutoencoder(1, 2, **SIZES),
}
X = jax.ShapeDtypeStruct((2, 4, 4, 1), np.float32)
T = jax.ShapeDtypeStruct((2,), np.int32)
TOKENS = TokenSequence(np.zeros((2, 3, 5), np.float32), np.ones((2, 3), bool))
PORTS = Ports(np.zeros((2, 32), np.float32), TOKENS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_norm_takes_the_epsilon_of_its_network(name):
    net, found = NETWORKS[name], {}

    def keep(next_fun, args, kwargs, context):
        if isinstance(context.module, GroupNorm):
            found[context.module.path] = context.module.epsilon
        return next_fun(*args, **kwargs)

    args = {"autoencoder": (X,), "unet": (X, T, PORTS)}.get(name, (X, T))
    with nn.intercept_methods(keep):
        params = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]
    flat = traverse_util.flatten_dict(params)
    # A layer normalization, of a text, has a scale of that text's width: 5.
    norms = {path[:-1] for path in flat if path[-1] == "scale" and flat[path].size > 6}
    assert len(norms) > 8 and "norm_out" in {path[-1] for path in norms}
    assert found == dict.fromkeys(norms, 0.3)
