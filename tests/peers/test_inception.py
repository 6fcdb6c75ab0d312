"""The Inception network against torch-fidelity's, layer by layer, on random weights.

The weights are saved by PyTorch in the place of the published file and read by both
programs, each with its own reader.
"""

import fidelity
import jax
import numpy as np
import pytest

from ddpm_jax.evaluation import resize
from ddpm_jax.networks.inception import InceptionV3, parameter_shapes
from ddpm_jax.weights.inception_file import load_inception
from ddpm_jax.weights.torch_file import read_tensors

torch = pytest.importorskip("torch")


def random_weights(module, rng):
    """Weights that keep activations near one; statistics that are far from 0 and 1."""
    found = {}
    for name, value in module.state_dict().items():
        noise = rng.standard_normal(value.shape)
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            continue  # as in the published file
        if value.ndim > 1:
            noise *= np.sqrt(2 / np.prod(value.shape[1:]))
        elif kind == "running_var":
            noise = rng.uniform(0.3, 3, value.shape)
        elif kind == "weight":
            noise = 1 + 0.2 * noise
        else:
            noise = 0.2 * noise
        found[name] = torch.from_numpy(noise.astype(np.float32))
    return found


@pytest.fixture(scope="module")
def extractor():
    """The class itself, kept from fetching weights when it is made."""
    part = fidelity.part("feature_extractor_inceptionv3")
    names = list(part.FeatureExtractorInceptionV3.get_provided_features_list())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            part.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None
        )
        patch.setattr(part, "load_state_dict_from_url", lambda *_, **__: {})
        return part.FeatureExtractorInceptionV3("inception", names)


@pytest.fixture(scope="module")
def weights(extractor):
    return random_weights(extractor, np.random.default_rng(0))


def activations_of_torch(extractor, images):
    """Outputs of every convolution with its ReLU, and of every block: [B, H, W, C]."""
    found = {}

    def keep(name):
        def hook(module, inputs, output):
            found[name] = output.permute(0, 2, 3, 1).numpy().copy()

        return hook

    for name, module in extractor.named_modules():
        if type(module).__name__.startswith(("BasicConv2d", "Inception")):
            module.register_forward_hook(keep(name.replace(".", "/")))
    with torch.no_grad():
        features = extractor(torch.from_numpy(images).permute(0, 3, 1, 2))
    return found, dict(zip(extractor.features_list, features, strict=True))


def activations_of_flax(params, x):
    """The same, of the Flax network."""
    outputs, state = InceptionV3().apply(
        {"params": params}, x, capture_intermediates=True
    )
    flat = jax.tree_util.tree_leaves_with_path(state["intermediates"])
    return outputs, {
        "/".join(key.key for key in path[:-2]): leaf
        for path, leaf in flat
        if path[0].key != "__call__"
    }


def test_equals_torch_fidelity_layer_by_layer(extractor, weights, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    extractor.load_state_dict(torch.load(path, weights_only=True))
    params, _ = load_inception(path, parameter_shapes())

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 40, 61, 3)).astype(np.uint8)
    theirs, named = activations_of_torch(extractor, images)
    x = resize.prepare(images, resize.tensorflow)
    (features, logits), ours = jax.jit(activations_of_flax)(params, x)

    assert len(theirs) == 94 + 11 and set(theirs) <= set(ours)
    pairs = {name: (ours[name], theirs[name]) for name in theirs}
    pairs["pool_3"] = features, named["2048"].numpy()
    pairs["logits"] = logits, named["logits_unbiased"].numpy()
    worst = 0.0
    for name, (own, other) in pairs.items():
        assert own.shape == other.shape, name
        assert other.std() > 1e-2, name
        worst = max(worst, relative := np.abs(own - other).max() / other.std())
        assert relative < 1e-4, name
    print(f"{len(pairs)} layers, largest difference {worst:.1e} of the layer's spread")
    bias = (named["logits"] - named["logits_unbiased"]).numpy()
    assert np.abs(bias).max() > 0.1  # so that the logits above would show it


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_pytorch_writes(tmp_path, zipped):
    """A module's state with its metadata, views, shared storages, every type."""
    grid = torch.randn(10, 12)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict()
    state |= {
        "turned": grid.t(),
        "part": grid[2:5, 3:9:2],
        "whole": grid,
        "spread": grid[:1].expand(4, 12),
        "parameter": torch.nn.Parameter(grid * 2),
        "none": torch.zeros(0, 3),
        "alone": torch.tensor(3.0),
        "above": grid > 0,
        **{str(d): grid.to(d) for d in (torch.float64, torch.float16, torch.int64)},
        **{str(d): grid.to(d) for d in (torch.int32, torch.int16, torch.int8)},
        "bytes": torch.arange(9, dtype=torch.uint8),
    }
    path = tmp_path / "state.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = read_tensors(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
