"""State dicts of OpenAI's programs: what shapes tell, what is asked, what is refused.

That the numbers then mean the same is held to a PyTorch network in tests/peers.
"""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.cli import main
from ddpm_jax.errors import UserError
from ddpm_jax.weights import openai

GIVEN = {
    "data.image_size": 8,
    "schedule.kind": "cosine",
    "schedule.num_levels": 1000,
    "network.num_heads": 2,
}


def state_dict():
    """32 channels, then 64 with attention; one block a level; added time; a variance.

    Name by name as their programs number them.
    """
    shapes = {
        "time_embed.0.weight": (128, 32),
        "time_embed.2.weight": (128, 128),
        "input_blocks.0.0.weight": (32, 3, 3, 3),
        "input_blocks.2.0.op.weight": (32, 32, 3, 3),
        "output_blocks.1.2.conv.weight": (64, 64, 3, 3),
        "out.0.weight": (32,),
        "out.2.weight": (6, 32, 3, 3),
    }
    blocks = {
        "input_blocks.1.0": (32, 32),
        "input_blocks.3.0": (32, 64),
        "middle_block.0": (64, 64),
        "middle_block.2": (64, 64),
        "output_blocks.0.0": (128, 64),
        "output_blocks.1.0": (96, 64),
        "output_blocks.2.0": (96, 32),
        "output_blocks.3.0": (64, 32),
    }
    for name, (before, now) in blocks.items():
        shapes[f"{name}.in_layers.0.weight"] = (before,)
        shapes[f"{name}.in_layers.2.weight"] = (now, before, 3, 3)
        shapes[f"{name}.emb_layers.1.weight"] = (now, 128)
        shapes[f"{name}.out_layers.0.weight"] = (now,)
        shapes[f"{name}.out_layers.3.weight"] = (now, now, 3, 3)
        if before != now:
            shapes[f"{name}.skip_connection.weight"] = (now, before, 1, 1)
    for name in ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1"):
        shapes |= {f"{name}.norm.weight": (64,), f"{name}.qkv.weight": (192, 64, 1)}
        shapes[f"{name}.proj_out.weight"] = (64, 64, 1)
    name = "output_blocks.1.1"
    shapes |= {f"{name}.norm.weight": (64,), f"{name}.qkv.weight": (192, 64, 1)}
    shapes[f"{name}.proj_out.weight"] = (64, 64, 1)
    for name, shape in list(shapes.items()):
        shapes[name.replace("weight", "bias")] = shape[:1]
    rng = np.random.default_rng(0)
    return {
        name: 0.05 * rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def test_images_that_are_not_square_are_given_by_height_and_width():
    found = openai.read(state_dict(), "it", GIVEN | {"data.image_size": (8, 12)})
    assert found.image_shape[:2] == (8, 12)
    assert found.defaults["data"]["image_size"] == (8, 12)
    square = openai.read(state_dict(), "it", GIVEN)
    assert found.facts == square.facts  # the shorter side says where attention is
    for size in ("8x12", (8, 12, 3), (8, 0)):
        with pytest.raises(UserError, match="is not a size"):
            openai.read(state_dict(), "it", GIVEN | {"data.image_size": size})


def test_the_settings_that_shapes_tell():
    found = openai.read(state_dict(), "it", GIVEN)
    assert found.image_shape == (8, 8, 3) and found.num_classes is None
    assert found.facts["network"] | {"num_groups": 32} == {
        "kind": "unet",
        "channels": 32,
        "channel_multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
        "num_groups": 32,
        "norm_epsilon": 1e-5,
        "frequency_shift": 0,
        "downsample_padding": 1,
        "patch": 1,
        "resample_blocks": False,
        "scale_shift": False,
    }
    assert found.facts["conditioners"] == {}
    assert found.facts["variance"] == "learned"
    assert found.defaults["loss"] == {"kind": "hybrid"}


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_packed_attention_is_parted_by_head_or_by_kind(order):
    """Rows numbered by (kind, head, place) in the order in which each packs them."""
    tensors = state_dict()
    kind, head, place = np.ix_(range(3), range(2), range(32))
    codes = 10_000 * kind + 1000 * head + place  # [3, 2, 32]
    packed = codes.swapaxes(0, 1) if order == "legacy" else codes
    tensors["middle_block.1.qkv.bias"] = packed.reshape(-1).astype(np.float32)
    found = openai.read(tensors, "it", GIVEN | {"qkv_order": order})
    for number, word in enumerate(("query", "key", "value")):
        name = found.name_of(("mid_attention", word, "bias"))
        np.testing.assert_array_equal(found.tensors[name], codes[number].reshape(-1))


def test_what_is_not_told_is_asked_for_all_at_once():
    with pytest.raises(UserError) as refusal:
        openai.read(state_dict(), "it", {"schedule.num_levels": 4000})
    text = str(refusal.value)
    assert "does not hold how it was trained" in text
    for option in ("data.image_size=64", "schedule.kind=cosine", "num_heads=4"):
        assert f"--config.{option}" in text or option in text
    assert "--config.schedule.t_range=1000" in text
    assert "num_levels=" not in text.partition("t_range")[0]


def test_linear_betas_shrink_with_the_number_of_levels():
    given = GIVEN | {"schedule.kind": "linear", "schedule.t_range": 1000}
    found = openai.read(state_dict(), "it", given | {"schedule.num_levels": 4000})
    # 1000 / T times 1e-4 and 0.02, as in the code of Nichol & Dhariwal 2021.
    assert found.defaults["schedule"]["beta_start"] == pytest.approx(2.5e-5)
    assert found.defaults["schedule"]["beta_end"] == pytest.approx(5e-3)


def pooled(tensors):
    for leaf in ("weight", "bias"):
        del tensors[f"input_blocks.2.0.op.{leaf}"]


def upsampler(tensors):
    tensors["input_blocks.0.0.weight"] = np.zeros((32, 6, 3, 3), np.float32)


def classifier(tensors):
    for leaf in ("weight", "bias"):
        del tensors[f"out.2.{leaf}"]


def narrow(tensors):
    tensors["time_embed.0.weight"] = np.zeros((256, 64), np.float32)


def short(tensors):
    for name in [name for name in tensors if name.startswith("middle_block")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pooled, "conv_resample=False"),
        (upsampler, "takes 6 channels and gives 6.*An upsampler"),
        (classifier, "not a diffusion model"),
        (narrow, "a first convolution of 32 and a timestep embedding of 64"),
        (short, "not what follows it"),
    ],
)
def test_another_network_is_refused_by_name(change, message):
    tensors = state_dict()
    change(tensors)
    with pytest.raises(UserError, match=message):
        openai.read(tensors, "it", GIVEN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"qkv_order": "old"}, "use legacy, or new"),
        ({"network.num_heads": 5}, "do not part into config.network.num_heads=5"),
    ],
)
def test_an_option_that_cannot_be(given, message):
    with pytest.raises(UserError, match=message):
        openai.read(state_dict(), "it", GIVEN | given)


def test_a_file_becomes_a_workdir_or_names_what_it_lacks(tmp_path, capsys):
    tensors = state_dict()
    flags = [f"--config.{option}={value}" for option, value in GIVEN.items()]
    save_file(tensors, tmp_path / "model.safetensors")
    where = [f"{tmp_path}", f"{tmp_path / 'run'}"]
    assert main(["import", *where, *flags]) == 0
    assert "images of 8x8x3" in capsys.readouterr().out
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["loss"]["kind"] == "hybrid" and stored["variance"] == "learned"
    # What goes with the file may be said, what does not may not.
    where = [f"{tmp_path}", f"{tmp_path / 'another'}"]
    said = ["--config.variance=learned", "--config.loss.kind=bound"]
    assert main(["import", *where, *flags, *said]) == 0
    capsys.readouterr()
    for option, known in (("network.kind=x", "unet"), ("variance=small", "learned")):
        where = [f"{tmp_path}", f"{tmp_path / 'refused'}"]
        assert main(["import", *where, *flags, f"--config.{option}"]) == 2
        assert known in capsys.readouterr().err
    del tensors["output_blocks.2.0.skip_connection.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    where = [f"{tmp_path}", f"{tmp_path / 'other'}"]
    assert main(["import", *where, *flags]) == 2
    assert "lacks 1 of the" in capsys.readouterr().err


# --- Files that somebody made to do harm ----------------------------------------------


def is_refused_or_read(read, *arguments):
    try:
        read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return True
    return False


SHAPES = [(), (0,), (1,), (10**5,), (1,) * 5, (0, 3, 3, 3), (32, 0), (3, 3)]


def test_any_shape_of_a_tensor_is_refused_or_read():
    """Read, it is held against the network's own shape when it is carried over."""
    whole = state_dict()
    for name in whole:
        for shape in SHAPES:
            value = np.broadcast_to(np.float32(0), shape)
            is_refused_or_read(openai.read, whole | {name: value}, "it", GIVEN)
        rest = {other: value for other, value in whole.items() if other != name}
        if name != "input_blocks.0.0.weight":  # by which such a file is known
            is_refused_or_read(openai.read, rest, "it", GIVEN)


@pytest.mark.parametrize(
    "name",
    [
        *("input_blocks.", "input_blocks.x.0", "input_blocks.-1.0.weight"),
        *("input_blocks.999999999999999.0.weight", f"input_blocks.{'9' * 5000}.0"),
        *("output_blocks.", "output_blocks.x", f"output_blocks.{'9' * 5000}.0"),
        "output_blocks.999999999999999.2.in_layers.0.weight",
    ],
    ids=lambda name: name[:40],
)
def test_a_name_that_no_network_has_ends_at_once(name):
    began = time.perf_counter()
    one = np.zeros((1, 1), np.float32)
    is_refused_or_read(openai.read, state_dict() | {name: one}, "it", GIVEN)
    assert time.perf_counter() - began < 20


def test_options_of_any_value_are_refused_or_read():
    for name in (*GIVEN, "network.head_channels", "schedule.t_range"):
        for value in (-1, 0, 10**12):
            if name == "schedule.kind":
                continue
            is_refused_or_read(openai.read, state_dict(), "it", GIVEN | {name: value})
