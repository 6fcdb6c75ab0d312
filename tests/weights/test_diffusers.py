"""The settings of diffusers models: the published ones, and what a file leaves out.

What the program says to a setting that cannot be is in tests/runs/test_exchange.py.
"""

import json
import os

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.diffusion.schedules import ScheduleSpec
from ddpm_jax.errors import UserError
from ddpm_jax.recipe import Diffusion, Jsd, Linear, LinearLogSNR, UNet
from ddpm_jax.specs import from_config, to_json
from ddpm_jax.weights import diffusers
from ddpm_jax.weights.diffusers_autoencoder import is_autoencoder
from ddpm_jax.weights.diffusers_scheduler import scheduler_config, scheduler_options
from ddpm_jax.weights.diffusers_unet import unet_config, unet_options

# https://huggingface.co/google/ddpm-celebahq-256/blob/main/config.json
FACES = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}


def test_the_network_of_the_published_faces():
    options, _ = unet_options("config.json", FACES, None)
    assert options == {
        "channels": 128,
        "channel_multipliers": (1, 1, 2, 2, 4, 4),
        "num_res_blocks": 2,
        "attention_resolutions": (16,),
        "num_heads": 1,
        "head_channels": None,
        "num_groups": 32,
        "norm_epsilon": 1e-6,
        "frequency_shift": 1,
        "downsample_padding": 0,
        "resample_blocks": False,
        "patch": 1,
        "scale_shift": False,
    }
    x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(UNet(3, **options).init, jax.random.key(0), x, t)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert round(count / 1e6) == 114  # Ho et al. 2020, appendix B


def test_what_a_file_leaves_out_is_as_diffusers_takes_it():
    """Signatures of its UNet2DModel and DDPMScheduler."""
    options, said = unet_options("config.json", {"sample_size": [64, 32]}, None)
    assert options["head_channels"] == 8 and options["norm_epsilon"] == 1e-5
    assert options["frequency_shift"] == 0 and options["downsample_padding"] == 1
    assert said["flip_sin_to_cos"] is True
    # 224, 448, 672, 896, all but the finest with attention: shorter sides 16, 8, 4.
    assert options["channel_multipliers"] == (1, 2, 3, 4)
    assert options["attention_resolutions"] == (16, 8, 4)
    facts, defaults = scheduler_options("scheduler_config.json", {})
    assert facts["variance"] == "small" and facts["prediction"] == "eps"
    schedule = from_config(facts["schedule"], ScheduleSpec)
    assert schedule == Linear(1000, beta_start=1e-4, beta_end=0.02)
    assert defaults["sample"] == {
        "sampler": "ancestral",
        "clip": True,
        "spacing": "leading",
    }


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Jsd(1000), r"config\.schedule\.kind='jsd', which diffusers cannot express"),
        (LinearLogSNR(1000), "it has linear, quadratic, cosine"),
        (Linear(1000, t_range=500), r"gives the network t \* 500 / 1000"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_process_that_diffusers_cannot_express(schedule, message):
    with pytest.raises(UserError, match=message):
        scheduler_config(to_json(Diffusion(schedule=schedule, prediction="v")), {})


def test_a_prediction_that_diffusers_cannot_express():
    for prediction in ("flow", "edm"):
        with pytest.raises(UserError, match="which diffusers' DDPMScheduler cannot"):
            scheduler_config(to_json(Diffusion(prediction=prediction)), {})


@pytest.mark.parametrize(
    ("conditioners", "change", "message"),
    [
        (
            {},
            {"channel_multipliers": (2, 2)},
            r"\(2, 2\) starts with 2, which",
        ),
        (
            {"self_conditioning": {"kind": "self_conditioning"}},
            {},
            r"config\.conditioners\.self_conditioning is not written for diffusers",
        ),
        ({}, {"resample_blocks": True}, "resample_blocks=True"),
        ({}, {"patch": 2}, "patch=2, which diffusers does not have"),
        ({}, {"kind": "transformer"}, r"kind='transformer', which diffusers does not"),
        (
            {},
            {"num_heads": 4, "attention_resolutions": (16,)},
            "num_heads=4 over attentions of different widths",
        ),
    ],
)
def test_a_network_that_diffusers_cannot_express(conditioners, change, message):
    network = to_json(UNet(channel_multipliers=(1, 2), attention_resolutions=()))
    with pytest.raises(UserError, match=message):
        unet_config(network | change, conditioners, (16, 16, 3), 3, None)


def test_heads_of_one_width_are_told_by_their_width():
    network = to_json(UNet(num_heads=4, attention_resolutions=(16,)))
    written = unet_config(network, {}, (32, 32, 3), 3, None)
    assert written["attention_head_dim"] == 64  # 256 channels
    options, _ = unet_options("config.json", written, None)
    assert options["head_channels"] == 64 and options["attention_resolutions"] == (16,)


# --- Files that somebody made to do harm ----------------------------------------------

VALUES = [None, True, "x", "", -1, 0, 1.5, 10**30, float("nan"), float("inf")]
VALUES += [[], {}, [[]], [0], [10**30], ["x"], [None, None], {"a": 1}]
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "thresholding": False,
    "trained_betas": None,
}


def is_refused_or_read(read, *arguments):
    try:
        read(*arguments)
    except UserError as error:
        assert "\n" not in str(error)
        return True
    return False


@pytest.mark.parametrize("key", FACES)
def test_any_value_of_a_setting_of_the_network_is_refused_or_read(key):
    for value in VALUES:
        for size in (None, 64):
            is_refused_or_read(unet_options, "config.json", FACES | {key: value}, size)
    assert key.startswith("_") or is_refused_or_read(
        unet_options, "config.json", FACES | {key: {"a": 1}}, None
    )


@pytest.mark.parametrize("key", SCHEDULER)
def test_any_value_of_a_setting_of_the_process_is_refused_or_read(key):
    for value in VALUES:
        settings = SCHEDULER | {key: value}
        is_refused_or_read(scheduler_options, "scheduler_config.json", settings)
    wrong = SCHEDULER | {key: {"a": 1}}
    assert is_refused_or_read(scheduler_options, "scheduler_config.json", wrong)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "nested too deep"),
        (b'{"a": ' * 200_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b"[]", "a list"),
        (b"", "Expecting value"),
        (b'{"a": "\xe9"}', "utf-8"),
    ],
)
def test_settings_that_are_none_are_refused_in_a_line(tmp_path, content, reason):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        diffusers.settings_in(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
    assert not is_autoencoder(tmp_path)


def test_settings_are_a_regular_file_of_some_size(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="not a regular file"):
        diffusers.settings_in(tmp_path / "config.json")
    assert not is_autoencoder(tmp_path)
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**40)  # of no blocks on the disk
    with pytest.raises(UserError, match="too many for JSON"):
        diffusers.settings_in(tmp_path / "large.json")
    with pytest.raises(UserError, match="there is none"):
        diffusers.settings_in(tmp_path / "absent.json")


def test_the_settings_above_are_read_as_they_are(tmp_path):
    """Or a refusal would show nothing."""
    (tmp_path / "config.json").write_text(json.dumps(FACES))
    assert diffusers.settings_in(tmp_path / "config.json") == FACES
    unet_options("config.json", FACES, None)
    scheduler_options("scheduler_config.json", SCHEDULER)
