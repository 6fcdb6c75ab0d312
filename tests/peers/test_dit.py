"""The diffusion transformer against the one of Hugging Face diffusers.

Every parameter, also those that start at zero, is drawn at random in the diffusers
layout and carried to the Flax tree by name. Their DiTTransformer2DModel is what the
published DiT checkpoints are converted to; it has the embedding of time and label once
for each block, all alike in these checkpoints, and so here.
"""

import jax
import numpy as np
import pytest

from benchmarks.diffusers_weights import random_weights
from ddpm_jax.conditioning.conditioned import Conditioned
from ddpm_jax.conditioning.label import Label
from ddpm_jax.networks.dit import DiT, sine_positions

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

_RENAMED = {
    "pos_embed.proj": "patch_in",
    "norm1.emb.timestep_embedder.linear_1": "time_0",
    "norm1.emb.timestep_embedder.linear_2": "time_1",
    "norm1.emb.class_embedder.embedding_table": "label",
    "norm1.linear": "modulation",
    "attn1.to_q": "query",
    "attn1.to_k": "key",
    "attn1.to_v": "value",
    "attn1.to_out.0": "out",
    "ff.net.0.proj": "dense_0",
    "ff.net.2": "dense_1",
    "proj_out_1": "modulation_out",
    "proj_out_2": "out",
}


def to_flax(weights):
    """Carry weights of a DiTTransformer2DModel to the tree of a conditioned `DiT`."""
    params = {}
    for path, value in weights.items():
        module, kind = path.rsplit(".", 1)
        node = params
        if module.startswith("transformer_blocks."):
            _, index, module = module.split(".", 2)
            if not module.startswith("norm1.emb"):
                node = params.setdefault(f"block_{index}", {})
        name = _RENAMED[module]
        if name == "label":
            kind = "embedding"
        elif kind == "weight":
            kind = "kernel"
            # [out, in] or [out, in, p, p] -> [in, out], or [p p in, out].
            value = np.moveaxis(value, (0, 1), (-1, -2))
            value = value.reshape(-1, value.shape[-1])
        if name == "time_0" and kind == "kernel":
            value = np.roll(value, len(value) // 2, axis=0)  # they have cosines first
        if name in ("time_0", "time_1", "label") and kind in node.get(name, {}):
            np.testing.assert_array_equal(node[name][kind], value)  # of another block
        node.setdefault(name, {})[kind] = value
    return params


def alike(weights):
    """Give each block the embedding of time and label of the first."""
    start = "transformer_blocks.0.norm1.emb"
    first = {
        name[len(start) :]: v for name, v in weights.items() if name.startswith(start)
    }
    return {
        name: first.get(name.partition(".norm1.emb")[2], value)
        for name, value in weights.items()
    }


def networks(side, channels, *, patch, heads, depth, outputs=None, classes=10):
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=8,
        in_channels=channels,
        out_channels=outputs,
        num_layers=depth,
        sample_size=side,
        patch_size=patch,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,  # as in the code of the paper
    )
    net = DiT(
        out_channels=outputs or channels,
        patch=patch,
        width=8 * heads,
        depth=depth,
        num_heads=heads,
    )
    return peer, Conditioned(net, {"label": Label(classes)})


@pytest.mark.parametrize(
    ("side", "channels", "options"),
    [
        (8, 3, {"patch": 2, "heads": 2, "depth": 3}),
        (12, 1, {"patch": 4, "heads": 6, "depth": 2, "outputs": 2, "classes": 4}),
        (5, 2, {"patch": 1, "heads": 1, "depth": 1}),
    ],
)
def test_equals_diffusers_with_the_same_weights(side, channels, options):
    peer, net = networks(side, channels, **options)
    weights = alike(random_weights(peer, np.random.default_rng(0)))
    # Their positions are no parameter: random_weights leaves them out.
    peer.load_state_dict(
        {name: torch.from_numpy(value) for name, value in weights.items()}
    )
    params = to_flax(weights)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, side, side, channels)).astype(np.float32)
    t, label = np.asarray([0, 500, 999]), np.asarray([0, 3, 1])
    cond = {"label": label}
    own = jax.eval_shape(net.init, jax.random.key(0), x, t, cond)["params"]
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, params)

    actual = jax.jit(net.apply)({"params": params}, x, t, cond)
    with torch.no_grad():
        desired = peer.eval()(
            torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
            timestep=torch.from_numpy(t),
            class_labels=torch.from_numpy(label),
        ).sample
    desired = desired.numpy().transpose(0, 2, 3, 1)
    difference, scale = np.abs(actual - desired).max(), desired.std()
    print(f"largest difference {difference:.2e} at output scale {scale:.2f}")
    assert 0.3 < scale < 3.0
    assert difference < 1e-4


@pytest.mark.parametrize("side", [4, 16])
def test_positions_are_those_of_diffusers(side):
    peer = diffusers.models.embeddings.PatchEmbed(
        height=2 * side, width=2 * side, patch_size=2, embed_dim=24
    )
    ours = sine_positions(side, side, 24)
    np.testing.assert_allclose(ours, peer.pos_embed[0].numpy(), atol=1e-6)


def test_has_as_many_parameters_as_diffusers_with_one_embedding_of_time_and_label():
    peer, net = networks(8, 4, patch=2, heads=4, depth=5, outputs=8)
    x = jax.ShapeDtypeStruct((1, 8, 8, 4), np.float32)
    own = jax.eval_shape(net.init, jax.random.key(0), x, np.zeros(1))["params"]
    embedding = sum(
        p.numel() for p in peer.transformer_blocks[0].norm1.emb.parameters()
    )
    theirs = sum(p.numel() for p in peer.parameters()) - 4 * embedding
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == theirs
