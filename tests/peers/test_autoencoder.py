"""AutoencoderKL of diffusers, imported: the same posterior, the same pictures."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.assembly import autoencoder
from ddpm_jax.cli import main

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SMALL = {
    "down_block_types": 2 * ("DownEncoderBlock2D",),
    "up_block_types": 2 * ("UpDecoderBlock2D",),
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "sample_size": 16,
}
KINDS = {
    # As Stable Diffusion's, with two levels fewer and narrower.
    "four levels": {
        "down_block_types": 4 * ("DownEncoderBlock2D",),
        "up_block_types": 4 * ("UpDecoderBlock2D",),
        "block_out_channels": (8, 16, 32, 32),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    "no 1x1 convolutions": {
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    },
    "no attention, grey": {
        "mid_block_add_attention": False,
        "in_channels": 1,
        "out_channels": 1,
    },
}


def make(folder, kind):
    net = diffusers.AutoencoderKL(**SMALL | KINDS[kind]).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for value in net.parameters():
            noise = rng.standard_normal(value.shape).astype(np.float32)
            if value.ndim > 1:
                value.copy_(torch.from_numpy(noise / np.sqrt(value[0].numel())))
            else:
                value.copy_(value.round() + torch.from_numpy(0.1 * noise))
    net.save_pretrained(folder)
    return net


def imported(folder, workdir, *options):
    return main(["import", f"{folder}", f"{workdir}", *options])


def images(net, side, count=2):
    shape = (count, side, side + 8, net.config.in_channels)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def assert_same(ours, net, x):
    nchw = torch.from_numpy(x).movedim(-1, 1)
    scale, shift = net.config.scaling_factor, net.config.shift_factor or 0.0
    with torch.no_grad():
        theirs = net.encode(nchw).latent_dist
        decoded = net.decode(theirs.mean).sample.movedim(1, -1).numpy()
    mean, log_variance = jax.jit(ours.posterior)(ours.params, x)
    z = theirs.mean.movedim(1, -1).numpy()
    assert z.std() > 0.1 and decoded.std() > 0.1
    np.testing.assert_allclose(mean / scale + shift, z, atol=1e-4)
    np.testing.assert_allclose(
        np.exp(log_variance / 2) / scale,
        theirs.std.movedim(1, -1).numpy(),
        atol=1e-4,
    )
    again = jax.jit(ours.decode)(ours.params, (z - shift) * scale)
    np.testing.assert_allclose(again, decoded, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_and_the_program_agree(kind, tmp_path, capsys):
    net = make(tmp_path / "vae", kind)
    assert imported(tmp_path / "vae", tmp_path / "run") == 0
    ours = autoencoder.load(tmp_path / "run")
    count = sum(value.numel() for value in net.parameters())
    assert f"autoencoder of {count:,} parameters" in capsys.readouterr().out
    assert ours.scale == net.config.scaling_factor
    side = net.config.sample_size
    assert ours.image_shape == (side, side, net.config.in_channels)
    assert_same(ours, net, images(net, side))  # the second side is another


def test_a_file_with_the_older_names_of_the_attention(tmp_path):
    net = make(tmp_path / "vae", "four levels")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in list(tensors):
        for new, word in old.items():
            if f".{new}." in name:
                tensors[name.replace(f".{new}.", f".{word}.")] = tensors.pop(name)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, path)
    assert imported(tmp_path / "vae", tmp_path / "run") == 0
    assert_same(autoencoder.load(tmp_path / "run"), net, images(net, 16, count=1))


def test_the_size_of_images_can_be_chosen(tmp_path, capsys):
    make(tmp_path / "vae", "four levels")
    size = "--config.data.image_size=64"
    assert imported(tmp_path / "vae", tmp_path / "run", size) == 0
    assert autoencoder.load(tmp_path / "run").latent_shape == (8, 8, 4)
    size = "--config.data.image_size=60"
    assert imported(tmp_path / "vae", tmp_path / "other", size) == 2
    assert "images of 60x60 do not halve 3 times" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("vae")
    make(place, "no attention, grey")
    return place


def copied(folder, tmp_path, change=None, settings=None):
    """Copy a model, with other tensors or settings."""
    place = tmp_path / "changed"
    place.mkdir()
    name = "diffusion_pytorch_model.safetensors"
    tensors = load_file(folder / name)
    (change or (lambda tensors: None))(tensors)
    save_file(tensors, place / name)
    said = json.loads((folder / "config.json").read_text()) | (settings or {})
    (place / "config.json").write_text(json.dumps(said))
    return place


LAST = "decoder.conv_out.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(LAST), rf"lacks 1 of the \d+ tensors ({LAST})"),
        (
            lambda t: t.update({"loss.logvar": np.zeros(1, np.float32)}),
            "has, beyond what this network is made of, 1 tensors (loss.logvar)",
        ),
        (
            lambda t: t.update({LAST: np.zeros(3, np.float32)}),
            f"{LAST} has shape [3], and this network takes [1]",
        ),
    ],
    ids=["lacks", "extra", "shape"],
)
def test_other_tensors_are_named(folder, tmp_path, capsys, change, said):
    place = copied(folder, tmp_path, change)
    assert imported(place, tmp_path / "run") == 2
    told = capsys.readouterr().err
    for part in said.split(r"\d+"):
        assert part in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"act_fn": "relu"}, "has act_fn='relu'"),
        ({"latents_mean": [0.0]}, "has latents_mean=[0.0]"),
        ({"use_post_quant_conv": False}, "use_quant_conv=True and use_post_quant_conv"),
        ({"out_channels": 3}, "in_channels=1 and out_channels=3"),
        (
            {"down_block_types": ["AttnDownEncoderBlock2D"] * 2},
            "AttnDownEncoderBlock2D",
        ),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "1 up_block_types and 2 block_out"),
        ({"block_out_channels": [8, 12]}, "each is a multiple of the first"),
        ({"norm_num_groups": 3}, "num_groups=3 does not divide the 8 channels"),
        ({"scaling_factor": 0.0}, "has scaling_factor=0.0; it has to be positive"),
        ({"shift_factor": "a"}, "shift_factor='a', which is not a number"),
        ({"sample_size": "large"}, "not a size in pixels"),
        ({"new_option": 1}, "new_option=1, which is not known here"),
    ],
)
def test_what_this_network_cannot_be_is_refused(
    folder, tmp_path, capsys, settings, said
):
    place = copied(folder, tmp_path, settings=settings)
    assert imported(place, tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_an_option_of_a_diffusion_model_is_refused(folder, tmp_path, capsys):
    option = "--config.schedule.kind=cosine"
    assert imported(folder, tmp_path / "run", option) == 2
    error = capsys.readouterr().err
    assert "--config.schedule.kind is no option of an autoencoder" in error


def test_a_workdir_that_is_taken_is_left_alone(folder, tmp_path, capsys):
    assert imported(folder, tmp_path / "run") == 0
    capsys.readouterr()
    assert imported(folder, tmp_path / "run") == 2
    assert "holds a model already" in capsys.readouterr().err
