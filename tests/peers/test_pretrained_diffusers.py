"""Checkpoints made by diffusers, imported: the same eps, the same images, and back."""

import json

import jax
import numpy as np
import pytest

from ddpm_jax import assembly
from ddpm_jax.cli import main
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.model import open_model
from ddpm_jax.diffusion.generate import generate, image_keys
from ddpm_jax.requests import Sample

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# https://huggingface.co/google/ddpm-cifar10-32/blob/main/config.json
GOOGLE = {
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "time_embedding_type": "positional",
}
CIFAR10 = GOOGLE | {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", *2 * ("DownBlock2D",)),
    "up_block_types": (*2 * ("UpBlock2D",), "AttnUpBlock2D", "UpBlock2D"),
}
SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
# Settings of the network, and of the scheduler, that change what is computed.
KINDS = {
    # As diffusers' own training example leaves them: heads of 8, zeros on both sides,
    # cosines first, another epsilon and other frequencies.
    "defaults": ({}, {}),
    "learned": (
        GOOGLE | {"norm_num_groups": 8, "layers_per_block": 2, "out_channels": 6},
        {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"},
    ),
    "classes": (
        {
            "resnet_time_scale_shift": "scale_shift",
            "attn_norm_num_groups": 4,
            "num_class_embeds": 5,
        },
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 2e-4,
            "beta_end": 0.03,
            "num_train_timesteps": 200,
        },
    ),
    "velocity": (
        {"in_channels": 1, "out_channels": 1, "sample_size": (8, 12)},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
}


def randomised(unet, seed=0):
    """Draw every parameter, also those that begin at zero or one."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for value in unet.parameters():
            noise = rng.standard_normal(value.shape).astype(np.float32)
            if value.ndim > 1:
                value.copy_(torch.from_numpy(noise / np.sqrt(value[0].numel())))
            else:
                value.copy_(value.round() + torch.from_numpy(0.1 * noise))
    return unet.eval()


def pipeline(network, scheduler):
    unet = randomised(diffusers.UNet2DModel(**network))
    return diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**scheduler))


def imported(source, workdir, *options):
    assert main(["import", f"{source}", f"{workdir}", *options]) == 0
    recipe = trained_recipe(workdir)
    return recipe, open_model(recipe, recipe.request(Sample), workdir)


def our_eps(trained, x, t, label=None):
    apply = jax.jit(assembly.network(trained.unet))
    cond = None if label is None else {"label": label}
    return np.asarray(apply(trained.params.network, x, t, cond))


def their_eps(unet, x, t, label=None):
    extra = {} if label is None else {"class_labels": torch.from_numpy(label).long()}
    with torch.no_grad():
        out = unet(torch.from_numpy(x).movedim(-1, 1), torch.from_numpy(t), **extra)
    return out.sample.movedim(1, -1).numpy()


def inputs(info, count=3):
    x = np.random.default_rng(1).standard_normal((count, *info.image_shape))
    times = np.linspace(0, 199, count).astype(np.int32)
    label = None
    if info.label_names:
        label = np.arange(count, dtype=np.int32) % len(info.label_names)
    return x.astype(np.float32), times, label


def assert_same_eps(trained, unet):
    given = inputs(trained.info)
    theirs = their_eps(unet, *given)
    assert 0.2 < theirs.std() < 5
    np.testing.assert_allclose(our_eps(trained, *given), theirs, atol=1e-4)


def assert_same_ddim(recipe, trained, pipe):
    """Fifty steps from one noise; both make eps agree with the clipped x0."""
    x, _, label = inputs(trained.info, count=2)
    spec, asked = recipe.task, recipe.request(Sample, sampler="ddim", num_steps=50)
    ours, _ = jax.jit(
        lambda params, noise: generate(
            image_keys(jax.random.key(0), np.arange(2)),
            assembly.sampler(spec, asked),
            assembly.denoiser(spec, asked, trained.unet, params),
            noise,
            assembly.levels(spec, asked),
            cond=None if label is None else {"label": label},
        )
    )(trained.params.network, x)
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(50)
    theirs = x
    for t in scheduler.timesteps:
        output = their_eps(pipe.unet, theirs, np.full(2, int(t), np.int32), label)
        prediction = torch.from_numpy(output[..., : x.shape[-1]])
        step = scheduler.step(
            prediction, t, torch.from_numpy(theirs), use_clipped_model_output=True
        )
        theirs = step.prev_sample.numpy()
    assert theirs.std() > 0.1
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-3)


def assert_loads_as(pipe, trained, folder):
    """Diffusers reads what is exported, and computes what it did before."""
    again = diffusers.DDPMPipeline.from_pretrained(folder)
    x, times, label = inputs(trained.info)
    # The rows of sines and cosines may have changed places, and so a sum its order.
    np.testing.assert_allclose(
        their_eps(again.unet.eval(), x, times, label),
        their_eps(pipe.unet, x, times, label),
        atol=1e-5,
    )
    for name in ("num_train_timesteps", "variance_type", "prediction_type"):
        assert again.scheduler.config[name] == pipe.scheduler.config[name]
    np.testing.assert_array_equal(
        again.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod
    )


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_and_the_program_agree_there_and_back(kind, tmp_path):
    network, scheduler = KINDS[kind]
    pipe = pipeline(SMALL | network, scheduler)
    pipe.save_pretrained(tmp_path / "theirs")
    run, ours = tmp_path / "run", tmp_path / "ours"
    recipe, trained = imported(tmp_path / "theirs", run)
    assert main(["export", f"{run}", f"{ours}"]) == 0
    assert_loads_as(pipe, trained, ours)
    assert_same_eps(trained, pipe.unet)
    assert_same_ddim(recipe, trained, pipe)


def test_the_published_cifar10_network_as_it_is_stored(tmp_path):
    """Exactly the files of google/ddpm-cifar10-32, with the attention's older names."""
    pipe = pipeline(CIFAR10, {"variance_type": "fixed_large"})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in pipe.unet.state_dict().items():
        for new, word in old.items():
            name = name.replace(f".{new}.", f".{word}.")
        weights[name] = value
    assert "mid_block.attentions.0.proj_attn.weight" in weights
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    config = {"_class_name": "UNet2DModel", "act_fn": "silu", "in_channels": 3}
    config |= {"out_channels": 3, "mid_block_scale_factor": 1, **CIFAR10}
    scheduler = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    recipe, trained = imported(tmp_path, tmp_path / "run")
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(trained.params.network)) == 35_746_307
    )
    spec = recipe.task
    assert (spec.variance, spec.schedule.num_levels) == ("large", 1000)
    x, times, _ = inputs(trained.info, count=2)
    ours, theirs = our_eps(trained, x, times), their_eps(pipe.unet, x, times)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
