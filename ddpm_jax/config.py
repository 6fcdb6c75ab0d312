"""Every option there is, with its default: the CIFAR-10 recipe of Ho et al. 2020.

A recipe in configs/ calls `default()` and changes what it must. The result is locked,
so a misspelt option is an error and not a silent no-op. A stored run keeps its config
as JSON; `from_json` reads it back.
"""

import json
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ddpm_jax.errors import UserError


def default() -> ConfigDict:
    """Return a fresh, locked ConfigDict of all options."""
    config = ConfigDict()
    # what is trained: diffusion, classifier, contrastive (a dual encoder of images and
    # captions) or autoencoder
    config.kind = "diffusion"
    # 0 to 2^63-1: of initialisation, batch order, noise, dropout and sampling
    config.seed = 0
    config.data = _data()
    config.model = _model()
    config.diffusion = _diffusion()
    config.training = _training()
    config.mesh = _mesh()
    config.sample = _sample()
    config.edit = _edit()
    config.cascade = _cascade()
    config.likelihood = _likelihood()
    config.evaluate = _evaluate()
    config.features = _features()
    config.retrieval = _retrieval()
    config.autoencoder = _autoencoder()
    config.exchange = _exchange()
    return config.lock()


def _data() -> ConfigDict:
    return ConfigDict(
        {
            # digits, shapes, folder:PATH, npy:FILE, npz:FILE, or the name of a TFDS
            # data set; "" of an imported model whose data are not known
            "source": "cifar10",
            "split": "train",
            "data_dir": placeholder(str),  # of TFDS data sets; else $TFDS_DATA_DIR
            # bring images to this side, or height and width as 32,48; 0: as they are
            "image_size": placeholder(object),
            "resize": "crop",  # how: crop, pad_black, pad_white or squash
            "channels": placeholder(int),  # 1 grey, 3 color, 4 RGBA; 0: as stored
            "pad_to": placeholder(object),  # pad with zeros to such a size; 0: not
            "flip": True,  # mirror half of the training images left to right
            "on_device_mb": 1024,  # keep images of up to so many MB on each device
            # of folder:PATH, see docs/your-pictures.md
            "skip_broken": False,  # leave out files that cannot be read
            "label_field": placeholder(str),  # class in metadata.jsonl; unset: "label"
            "sample_bits": 16,  # that 16-bit gray files use; 12: 4095 is white
            "hold_out": 0,  # every so many pictures are the split test; 0: none
            "cache": True,  # keep decoded images on disk, if memory is too small
            # the folder of an autoencoder, in whose latents diffusion is to take place,
            # see docs/latents.md; "": in pixels
            "latents": "",
        }
    )


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "channels": 128,  # of the first level
            "channel_multipliers": (1, 2, 2, 2),  # one per level, finest first
            "num_res_blocks": 2,  # per level on the way down, one more on the way up
            "attention_resolutions": (16,),  # shorter side of maps with attention
            "num_heads": 1,  # of each attention
            "head_channels": placeholder(int),  # of each head, instead of num_heads
            "num_groups": 32,  # of each group normalisation
            # four in which published networks differ: docs/pretrained.md
            "norm_epsilon": 1e-6,  # of each group normalisation
            "frequency_shift": 1,  # of the time code: 1, or 0
            "downsample_padding": 0,  # zeros before each side of a map that is halved
            "resample_blocks": False,  # halve and double maps inside residual blocks
            "dropout": 0.1,  # before the second convolution of a block
            "scale_shift": False,  # time scales and shifts features, not only adds
            "class_conditional": False,  # tell the network the label
            "text": "",  # tell it the caption, read by words, bytes or minilm
            "text_length": placeholder(int),  # tokens; unset: the longest caption's
            "text_width": 128,  # of the encoder that words and bytes are read by
            "text_depth": 2,  # its blocks
            "text_heads": 4,  # of each of its attentions
            "self_conditioning": False,  # show the network its own last x0
            # draw from a picture: low_res, grey or masked; see docs/cascade.md
            "picture": "",
            "picture_factor": 2,  # of low_res: how many times smaller it is
            "picture_noise": 0.0,  # of low_res: most noise laid over it, 0 to 1
            "dtype": "float32",  # of the computation: float32 or bfloat16
            "attention": "plain",  # or cudnn: fused, on GPUs and in bfloat16 alone
            "remat": False,  # recompute blocks in the backward pass: less memory
        }
    )


def _diffusion() -> ConfigDict:
    return ConfigDict(
        {
            "schedule": "linear",  # see build/names.py
            "num_levels": 1000,  # T
            "beta_start": placeholder(float),  # of linear and quadratic; unset: 1e-4
            "beta_end": placeholder(float),  # likewise; unset: 0.02
            "t_range": placeholder(int),  # tell the network t * t_range / T
            "prediction": "eps",  # what the network outputs: eps, x0 or v
            "variance": "large",  # of the reverse step: small, large or learned
            "zero_terminal_snr": False,  # rescale a table to end in pure noise
            # simple, weighted, mean, bound or hybrid; or by SNR: truncated_snr,
            # min_snr or p2
            "loss": "simple",
            "min_snr_gamma": 5.0,  # of min_snr: the most that an x0-error weighs
            "p2_k": 1.0,  # of p2: the weight of the eps-error is 1 / (k + SNR)^gamma
            "p2_gamma": 1.0,
            # how training levels are drawn: uniform, stratified, antithetic or (for
            # loss bound) importance
            "times": "uniform",
        }
    )


def _training() -> ConfigDict:
    return ConfigDict(
        {
            "num_steps": 800_000,
            "batch_size": 128,  # over all devices
            "accumulate": 1,  # parts that a batch is worked through in: less memory
            "learning_rate": 2e-4,  # after the warm-up
            "warmup_steps": 5000,
            "decay": "constant",  # of the learning rate after the warm-up: or cosine
            # steps at which a cosine has reached 0 and begins anew: docs/going-on.md
            "restarts": (),
            # a run to begin with: WORKDIR or WORKDIR@STEP; "": with drawn parameters
            "init_from": "",
            "max_grad_norm": 1.0,  # gradients are clipped to this global norm; 0: never
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "ema_decay": 0.9999,  # of the averaged parameters, after a warm-up
            "ema_stds": (),  # further averages, as shares of the run: docs/ema.md
            "label_dropout": 0.1,  # share of labels and captions hidden, for guidance
            "report_every": 100,  # steps: progress, metrics.jsonl, TensorBoard
            "wandb": placeholder(str),  # project of Weights & Biases; unset: not sent
            "sample_every": 10_000,  # steps: a grid of samples; 0 for never
            "sample_num_steps": 100,  # DDIM steps of those grids
            "checkpoint_every": 5000,  # steps
            "keep_last": 3,  # checkpoints
            "keep_every": 100_000,  # steps: these checkpoints stay; 0 for none
        }
    )


def _mesh() -> ConfigDict:
    return ConfigDict(
        {
            # devices that share parameters, averages and optimiser state, a part each;
            # 1: a copy on every device. It must divide the devices: docs/clusters.md
            "fsdp": 1,
        }
    )


def _sample() -> ConfigDict:
    return ConfigDict(
        {
            "num_images": 64,
            "batch_size": 64,  # images drawn at a time, over all devices
            "sampler": "ancestral",  # see build/names.py
            "num_steps": placeholder(int),  # unset: all T
            "spacing": "trailing",  # or sections:20,10,10; see build/names.py
            "variance": placeholder(str),  # unset: that of config.diffusion
            "eta": 0.0,  # of ddim: 0 deterministic, 1 ancestral
            "churn": 0.0,  # of euler and heun, EDM's S_churn: 0 deterministic
            "churn_low": 0.0,  # S_tmin, as sigma / alpha
            "churn_high": placeholder(float),  # S_tmax; unset: no bound
            "churn_noise": 1.0,  # S_noise
            "rtol": 1e-4,  # of adaptive
            "atol": 1e-4,
            "clip": True,  # clamp the predicted x0 to [-1, 1]; latents never are
            "dynamic_percentile": 0.0,  # clip by each image's own range; 0: not, 0.995
            "guidance_scale": 1.0,  # 1 conditional, 0 unconditional, more: guidance
            "guidance_low": 0.0,  # guide only above this sigma / alpha
            "guidance_high": placeholder(float),  # and up to this; unset: no bound
            "guidance_rescale": 0.0,  # restore the contrast that guidance adds: 0 to 1
            "classifier_scale": 0.0,  # guide by a classifier fitted to the data
            # of a model with text: a prompt, file:PATH with one in each line, or
            # data:SPLIT for the captions of a split; "": some that it was trained on
            "prompt": "",
            "negative_prompt": "",  # what guidance goes away from
            "prompt_to": "",  # go from the prompt to this one, with the same noise
            # of a model that draws from a picture: data:SPLIT for those of a split; "":
            # of the split it was trained on
            "picture": "",
            "picture_noise": 0.0,  # laid over a low_res one: 0 to model.picture_noise
            "labels": "",  # such as "7" or "0,1,2", repeated in turn; "": all in turn
            "seed": placeholder(int),  # unset: config.seed
            "ema": True,  # averaged parameters, not the raw ones
            "ema_std": placeholder(float),  # length of an average built from ema_stds
            "step": placeholder(int),  # of the checkpoint; unset: the newest
            "film_frames": 16,  # frames of the film strip and the GIF
            "film_images": 8,  # images in them
        }
    )


def _edit() -> ConfigDict:
    return ConfigDict(
        {
            "image": "",  # a file, or data:7 of the data set; several with commas
            "mask": "",  # of inpaint: a file, white where the picture is to be filled
            "method": placeholder(str),  # unset: the mode's first in sampling/edits.py
            "num_images": 4,  # made of each picture given, with different noise
            "strength": 0.5,  # share of the chain that a given picture is taken through
            "num_points": 6,  # of a walk between two pictures
            "factor": placeholder(int),  # of upscale; unset: 2, or as it was trained
            "weight": 1.0,  # of method guidance; above 2 it may diverge
            "jump_length": placeholder(int),  # steps repaint goes back; unset: N / 25
            "num_resamples": 10,  # walks of each stretch by repaint: docs/editing.md
            "iterations": 3,  # of the equation behind each step of an encoding
        }
    )


def _cascade() -> ConfigDict:
    return ConfigDict(
        {
            # of cascade, see docs/cascade.md
            "stages": "",  # workdirs of models that enlarge, smallest first: A,B
            # of these stages, one value for all or one for each, such as 20,50; "": as
            # their own config.sample has it
            "samplers": "",
            "num_steps": "",
            "guidance_scales": "",
            "dynamic_percentiles": "",
            "noise": "",  # over the picture that is enlarged, 0 to model.picture_noise
        }
    )


def _likelihood() -> ConfigDict:
    return ConfigDict(
        {
            "source": placeholder(str),  # of images; unset: config.data.source
            "split": "test",  # of it
            "method": "both",  # bound, ode or both
            "num_images": placeholder(int),  # the first of the split; unset: all
            "batch_size": 64,  # images measured at a time, over all devices
            "seed": placeholder(int),  # unset: config.seed
            "variance": placeholder(str),  # bound: unset: that of config.diffusion
            "clip": True,  # bound: clamp the predicted x0 to [-1, 1], as in sampling
            "num_steps": placeholder(int),  # bound: unset: all T
            "ode_steps": placeholder(int),  # ODE: Runge-Kutta steps; unset: adaptive
            "rtol": 1e-4,  # ODE: of the adaptive steps
            "atol": 1e-4,
            "num_probes": 1,  # ODE: sign vectors of the trace; 0: exact, D times dearer
        }
    )


def _evaluate() -> ConfigDict:
    return ConfigDict(
        {
            # what is scored: the model's samples, or folder:PATH, npz:FILE, data:SPLIT
            # (real images), reconstructions:SPLIT (the same, through the autoencoder of
            # data.latents), or noise
            "images": "",
            "num_images": 10_000,  # of a folder, file or split: at most what it has
            "num_seeds": 1,  # drawn with sample.seed, the seed after it, and so on
            "checkpoints": "",  # such as 1000,2000, or all; "": config.sample.step
            "sample_steps": "",  # such as 10,20,50: scores over config.sample.num_steps
            "guidance_scales": "",  # such as 1,2,4: over config.sample.guidance_scale
            "scores": "all",  # or some, such as frechet,kernel; see build/evaluation.py
            # the network that looks: inception, or the run of a classifier
            "features": "inception",
            "retrieval": "",  # of rank: the run of a dual encoder
            "weights": placeholder(
                str
            ),  # of inception: a file; else $DDPM_JAX_INCEPTION
            "resize": "tensorflow",  # to inception's size: tensorflow, pytorch or clean
            "batch_size": 64,  # images seen at a time, over all devices
            "reference": "",  # npz:FILE of published statistics; "": config.data
            "reference_split": "train",  # of config.data
            "floor_split": "test",  # real images scored for comparison; "": none
            "allow_few": False,  # score fewer images than there are features
        }
    )


def _features() -> ConfigDict:
    return ConfigDict(
        {
            # kind classifier: the small classifier, for evaluate.features
            "num_features": 128,  # width of the layer that is used
            "channels": 16,  # of the first level
            "channel_multipliers": (1, 2, 4),  # one per level, finest first
            "num_res_blocks": 1,  # per level
            "num_groups": 8,  # of each group normalisation
            "num_steps": 2000,
            "batch_size": 128,  # over all devices
            "accumulate": 1,  # parts that a batch is worked through in: less memory
            "learning_rate": 3e-3,  # after the warm-up; then it falls on a cosine
            "warmup_steps": 100,
            "weight_decay": 1e-2,  # of AdamW
            "ema_decay": 0.995,  # of the averaged parameters, which are those kept
            "label_smoothing": 0.1,  # share of the target spread over all classes
            "max_shift": 2,  # pixels that a picture may be moved, each way
            "report_every": 100,  # steps
            "checkpoint_every": 500,  # steps
        }
    )


def _retrieval() -> ConfigDict:
    return ConfigDict(
        {
            # kind contrastive: the dual encoder, for evaluate.retrieval;
            # config.model.text says how captions are read
            "num_features": 128,  # length of the vectors
            "channels": 16,  # of the first level
            "channel_multipliers": (1, 2, 4),  # one per level, finest first
            "num_res_blocks": 1,  # per level
            "num_groups": 8,  # of each group normalisation
            "num_steps": 2000,
            "batch_size": 128,  # over all devices, and what is told apart
            "learning_rate": 2e-3,  # after the warm-up; then it falls on a cosine
            "warmup_steps": 100,
            "weight_decay": 1e-2,  # of AdamW
            "ema_decay": 0.995,  # of the averaged parameters, which are those kept
            "max_shift": 3,  # pixels that a picture may be moved, each way
            "report_every": 100,  # steps
            "checkpoint_every": 500,  # steps
        }
    )


def _autoencoder() -> ConfigDict:
    return ConfigDict(
        {
            # kind autoencoder: docs/latents.md
            "latent_channels": 4,
            "channels": 64,  # of the first level
            "channel_multipliers": (1, 2, 4),  # one per level; all but the last halve
            "num_res_blocks": 2,  # per level of the encoder, one more in the decoder
            "num_groups": 32,  # of each group normalisation, the discriminator's too
            "attention": True,  # in the middle
            "dtype": "float32",  # of the computation: float32 or bfloat16
            "num_steps": 50_000,
            "batch_size": 64,  # over all devices
            "learning_rate": 4e-4,  # after the warm-up; then it falls on a cosine
            "warmup_steps": 500,
            "adam_b1": 0.5,
            "adam_b2": 0.9,
            "ema_decay": 0.999,  # of the averaged parameters, which are those kept
            "kl_weight": 1e-6,  # beside errors summed over an image's numbers
            # the network whose maps are compared: the run of a classifier, or
            # lpips:VGG16_FILE,LINEAR_FILE; "": none
            "perceptual": "",
            "perceptual_weight": 1.0,
            "discriminator_weight": 0.5,  # beside the adaptive weight; 0: none
            "discriminator_start": 25_000,  # steps before it is used and trained
            "discriminator_channels": 64,  # of its first layer
            "discriminator_layers": 2,  # how often it halves
            "report_every": 100,  # steps
            "checkpoint_every": 1000,  # steps, to go on from after an interruption
        }
    )


def _exchange() -> ConfigDict:
    return ConfigDict(
        {
            # of import: what a file of weights does not say of itself
            "step": 0,  # that the model is stored under
            # how an OpenAI checkpoint packs query, key and value: legacy, or new if it
            # was trained with use_new_attention_order
            "qkv_order": "legacy",
        }
    )


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Return the config as plain JSON data."""
    return json.loads(config.to_json())


def from_json(stored: dict[str, Any]) -> ConfigDict:
    """Read back what `to_json` gave; options that are newer take their default.

    Raises:
        UserError: if it holds an option this version does not know.
    """
    config = default()
    update(config, stored)
    return config


def update(config: ConfigDict, values: Any, prefix: str = "") -> None:
    """Set options from nested plain data, in place, with the types of the defaults.

    Raises:
        UserError: naming the first option that is unknown or has a wrong type.
    """
    if not isinstance(values, dict):  # of a stored config that somebody changed
        where = f"section {prefix[:-1]!r}" if prefix else "the config"
        raise UserError(f"{where} is {values!r:.80}; it holds options by name.")
    for name, value in values.items():
        if name not in config:
            known = ", ".join(sorted(config))
            where = f"section {prefix[:-1]!r}" if prefix else "config"
            raise UserError(f"unknown option {prefix}{name}; {where} has {known}.")
        if isinstance(config[name], ConfigDict):
            update(config[name], value, f"{prefix}{name}.")
            continue
        try:
            config[name] = tuple(value) if isinstance(value, list) else value
        except TypeError:
            wanted = type(config[name]).__name__
            raise UserError(
                f"option {prefix}{name} got {value!r}; it wants a {wanted}."
            ) from None


# By the name of an option, in whatever section: more is a slip, and costs hours or all
# memory before anything comes of it.
_CEILINGS = {
    "num_levels": 1_000_000,
    "num_seeds": 10_000,
    "num_points": 10_000,
    "num_resamples": 10_000,
    "iterations": 10_000,
    "num_probes": 100_000,
    "channels": 65_536,
    "latent_channels": 65_536,
    "discriminator_channels": 65_536,
    "discriminator_layers": 30,
    "num_features": 1_000_000,
    "num_res_blocks": 1000,
    "text_length": 65_536,
    "text_width": 65_536,
    "text_depth": 1000,
    "image_size": 65_536,
    "pad_to": 65_536,
    "batch_size": 2**31 - 1,  # rows are counted in int32
    "num_images": 2**31 - 1,
}


def check_ceilings(config: ConfigDict, prefix: str = "config") -> None:
    """Refuse numbers so large that they are a slip, or that no array can count.

    Raises:
        UserError: naming the first.
    """
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            check_ceilings(value, f"{prefix}.{name}")
            continue
        most = _CEILINGS.get(name, 2**64 - 1)  # the largest seed
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and not -(2**63) <= number <= most:
                raise UserError(
                    f"{prefix}.{name}={value} is out of range; use {most:,} or less."
                )


def differences(old: ConfigDict, new: ConfigDict, prefix: str = "") -> list[str]:
    """List "name: old -> new" for every option in which two configs differ."""
    found = []
    for name in sorted(new):
        if isinstance(new[name], ConfigDict):
            found += differences(old[name], new[name], f"{prefix}{name}.")
        elif old[name] != new[name]:
            found.append(f"{prefix}{name}: {old[name]!r} -> {new[name]!r}")
    return found
