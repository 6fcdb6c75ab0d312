"""LPIPS: the distance that its own program finds, with its own weights of channels.

The network is a VGG-16 with drawn weights, since the published ones come with no
package. The program asks torchvision for it, and is given ours.
"""

import importlib.metadata
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.networks.vgg import WIDTHS, Vgg16
from ddpm_jax.tasks.autoencoder import perceptual_distance
from ddpm_jax.weights.lpips_file import read_lpips

torch = pytest.importorskip("torch")


def layers():
    """Lay out what torchvision calls vgg16().features."""
    found, before = [], 3
    for of_level in WIDTHS:
        for width in of_level:
            conv = torch.nn.Conv2d(before, width, 3, padding=1)
            torch.nn.init.kaiming_normal_(conv.weight)
            torch.nn.init.normal_(conv.bias, std=0.1)
            found += [conv, torch.nn.ReLU()]
            before = width
        found.append(torch.nn.MaxPool2d(2, 2))
    return torch.nn.Sequential(*found)


@pytest.fixture(scope="module")
def linear():
    """Find the weights of channels that the package brings."""
    files = importlib.metadata.files("lpips") or []
    (path,) = (f for f in files if str(f) == "lpips/weights/v0.1/vgg.pth")
    return path.locate()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    features = layers()
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(4, 4)}, path)
    return features, path


@pytest.fixture(scope="module")
def theirs(network):
    features, _ = network
    models = types.ModuleType("torchvision.models")
    models.vgg16 = lambda pretrained=False: types.SimpleNamespace(features=features)
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    before = sys.modules.get("torchvision")
    sys.modules["torchvision"] = torchvision
    try:
        lpips = pytest.importorskip("lpips")
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    finally:
        del sys.modules["torchvision"]
        if before is not None:
            sys.modules["torchvision"] = before


@pytest.mark.parametrize("channels", [3, 1])
def test_distances_and_their_slopes_agree(network, linear, theirs, channels):
    _, path = network
    stored = read_lpips(path, linear, WIDTHS)
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (3, 32, 40, channels)).astype(np.float32)
    b = (a + 0.3 * rng.normal(size=a.shape)).astype(np.float32)
    net = Vgg16()

    def distance(a, b):
        look = lambda x: net.apply({"params": stored.params}, x)  # noqa: E731
        return perceptual_distance(look(a), look(b), stored.weights)

    ours, slope = distance(a, b), jax.grad(lambda b: distance(a, b).sum())(b)

    def as_torch(x):
        wide = np.broadcast_to(x, (*x.shape[:-1], 3)).transpose(0, 3, 1, 2)
        return torch.tensor(wide.copy())

    second = as_torch(b).requires_grad_()
    expected = theirs(as_torch(a), second)
    expected.sum().backward()
    np.testing.assert_allclose(
        ours, expected.detach().numpy().reshape(-1), rtol=2e-4, atol=1e-6
    )
    of_theirs = second.grad.numpy().transpose(0, 2, 3, 1)
    if channels == 1:
        of_theirs = of_theirs.sum(axis=-1, keepdims=True)
    # As a whole: where a ReLU's argument is within rounding of 0 the two may differ.
    off = np.linalg.norm(slope - of_theirs) / np.linalg.norm(of_theirs)
    assert off < 1e-3
    assert float(jnp.abs(distance(a, a)).max()) == 0.0


def test_files_of_something_else_are_refused(network, linear, tmp_path):
    _, path = network
    with pytest.raises(UserError, match=r"has nothing as features\.0\.weight"):
        read_lpips(linear, linear, WIDTHS)
    with pytest.raises(UserError, match=r"has nothing as lin0\.model\.1\.weight"):
        read_lpips(path, path, WIDTHS)
    with pytest.raises(UserError, match="is not a file; LPIPS needs two"):
        read_lpips(tmp_path / "none", linear, WIDTHS)
