"""The same command in small: options that make its work a matter of seconds."""

import json
from pathlib import Path

from ddpm_jax.assembly import leave_out_idle
from ddpm_jax.cli import load_recipe, read_line
from ddpm_jax.networks import UNet
from ddpm_jax.recipe import Diffusion, from_json
from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.flags import flag_of, sections_of
from ddpm_jax.requests.sections import SECTIONS
from ddpm_jax.specs import kind_of

# Whatever the command says of these, it gets them: later flags win. Those the command
# says nothing of are set as well, so that all commands agree on the model.
_TRAINED = {
    "training.num_steps": "2",
    "training.batch_size": "8",
    "training.warmup_steps": "1",
}
_CLASSIFIER = {
    "network.num_features": "8",
    "network.channels": "4",
    "network.num_groups": "4",
    "network.channel_multipliers": "(1,)",
    **_TRAINED,
}
_AUTOENCODER = {
    "network.channels": "4",
    "network.num_groups": "4",
    "network.channel_multipliers": "(1,1)",
    "network.num_res_blocks": "1",
}
OF_NETWORKS = {
    "unet": {
        "network.channels": "8",
        "network.num_groups": "4",
        "network.channel_multipliers": "(1,)",
        "network.num_res_blocks": "1",
        "network.attention_resolutions": "()",
        "network.num_heads": "1",
    },
    "video_unet": {
        "network.channels": "8",
        "network.num_groups": "4",
        "network.channel_multipliers": "(1,)",
        "network.attention_resolutions": "()",
        "network.num_heads": "1",
    },
    "mlp": {"network.width": "8", "network.depth": "1"},
    "dit": {"network.width": "8", "network.depth": "1", "network.num_heads": "2"},
    "prior_transformer": {"network.width": "8", "network.depth": "1"},
    # In the place of a U-Net, where a document says nothing of networks: its programs
    # compile in a third of the time.
    "unet as mlp": {
        "network.kind": "mlp",
        "network.width": "8",
        "network.depth": "1",
        "network.num_frequencies": "0",
    },
    "vector_autoencoder": {"network.width": "8", "network.depth": "1"},
    "vector_generator": {"network.width": "8", "discriminator.width": "8"},
    "coupling_flow": {"network.width": "4", "network.num_steps": "1"},
    "image_generator": {
        "network.channels": "4",
        "network.num_groups": "4",
        "discriminator.channels": "4",
        "discriminator.num_groups": "4",
    },
}
OF_KINDS = {
    "diffusion": {
        "training.num_steps": "4",
        "training.batch_size": "4",
        "training.warmup_steps": "1",
        "training.report_every": "2",
        "training.preview_every": "4",
        "preview_steps": "2",
        "training.checkpoint_every": "2",
        "training.keep_every": "2",
    },
    "vae": {**_TRAINED, "kl_warmup": "1"},
    "gan": _TRAINED,
    "flow": _TRAINED,
    "classifier": _CLASSIFIER,
    "contrastive": _CLASSIFIER,
    "autoencoder": {
        **_AUTOENCODER,
        **_TRAINED,
        "discriminator_start": "1",
        "discriminator.channels": "4",
        "discriminator.num_groups": "4",
        "discriminator.num_layers": "1",
    },
}
OF_REQUESTS = {
    "sample.num_images": "4",
    "sample.batch_size": "4",
    "sample.num_steps": "5",
    "sample.film_frames": "2",
    "sample.film_images": "2",
    "edit.num_images": "2",
    "likelihood.num_images": "4",
    "likelihood.batch_size": "4",
    "likelihood.num_steps": "4",
    "likelihood.num_samples": "2",
    "likelihood.rtol": "0.1",
    "likelihood.atol": "0.1",
    "evaluate.num_images": "12",
    "evaluate.batch_size": "12",
    "evaluate.allow_few": "True",
}
# Changed only where the command sets them, which it then still does.
WHERE_SET = {
    "edit.num_resamples": "2",  # of method repaint alone
    "edit.num_points": "3",
    "evaluate.guidance_scales": "1,2",
    "evaluate.num_seeds": "2",
    "evaluate.sample_steps": "2,3",
    "evaluate.checkpoints": "2,4",
    "sample.step": "2",
    "sample.autoguidance_step": "2",
}
# Of those, what models that are no diffusion models look at.
OF_LATENT_MODELS = (
    *("sample.num_images", "sample.batch_size", "evaluate.num_images"),
    *("evaluate.batch_size", "evaluate.allow_few", "edit.num_points"),
    "evaluate.num_seeds",
    *("likelihood.num_images", "likelihood.batch_size", "likelihood.num_samples"),
)
OF_A_VAE = "likelihood.num_samples"
LATENT_MODELS = ("vae", "gan", "flow")
OF_THE_FLOW = ("likelihood.rtol", "likelihood.atol")
# Of recipes: fewer pictures, attention on smaller maps, no package of others.
OF_RECIPES = {
    "configs/tune.py:runs/digits": {"loss.num_stages": "2"},
    "configs/progressive.py:runs/digits": {
        **{"loss.num_stages": "3", "sample.num_steps": "1", "preview_steps": "1"},
    },
    "configs/meanflow.py:runs/digits_flow": {"sample.num_steps": "1"},
    "configs/emoji.py": {"conditioners.text.kind": "words"},
    "configs/emoji_dit.py": {"conditioners.text.kind": "words"},
    "configs/emoji_large.py": {"network.channel_multipliers": "(1,1,1)"},
    "configs/emoji_retrieval.py": {"text.kind": "words"},
    "configs/folder.py:64": {"network.channel_multipliers": "(1,1,1)"},
    "folder:64": {"network.channel_multipliers": "(1,1,1)"},
    "configs/shapes.py": {"data.source": "shapes:400"},
    "configs/shapes_large.py": {"data.source": "shapes:400"},
    "configs/shapes_clip.py": {"data.source": "shapes:partial:400"},
    "configs/shapes_prior.py": {"data.source": "shapes:partial:400"},
    "configs/shapes_prior.py:regression": {
        "data.source": "shapes:partial:400",
        **{"sample.num_steps": "1", "preview_steps": "1"},  # of two levels
    },
    "configs/shapes_unclip.py": {"data.source": "shapes:partial:400"},
    "configs/sprites_clip.py": {"text.kind": "words"},
    "configs/sprites_prior.py:regression": {
        **{"sample.num_steps": "1", "preview_steps": "1"},
    },
    "configs/solids.py": {"data.source": "solids:60"},
    "configs/solids.py:32": {"data.source": "solids:60"},
    "configs/solids.py:blind": {"data.source": "solids:blind:60"},
}


def says_network(words):
    """Say whether a command is about the network: its options, or its weights."""
    about = ("--config.network", "export", "import", "benchmarks")
    return any(word.startswith(about) for word in words)


def flags(words, perceptron=False):
    """Return the flags to append to a command line.

    Args:
        words: of the command line.
        perceptron: whether U-Nets become perceptrons, where these take the items.
    """
    command = next((c for c in COMMANDS if words[: len(c.split())] == c.split()), None)
    known = sections_of(COMMANDS[command]) if command else {}
    names = {flag_of(field): option for option, field in known.items()}
    heads = [word.partition("=")[0] for word in words]
    said = {names.get(head, head.removeprefix("--config.")) for head in heads}
    options = {**OF_REQUESTS, **{n: v for n, v in WHERE_SET.items() if n in said}}
    recipe = next((w.partition("=")[2] for w in words if w.startswith("--config=")), "")
    made = load_recipe(recipe)[0] if recipe else None
    kind = made.kind if made else _kind_of_run(words)
    network = kind_of(made.task.network) if made else None
    for word in words:
        if made and word.startswith("--config.network.kind="):
            network = word.partition("=")[2]
    if recipe or command in (None, "import"):
        options = {**OF_KINDS[kind], **options}
    if kind in LATENT_MODELS:
        options = {n: v for n, v in options.items() if n in OF_LATENT_MODELS}
        if made:
            options |= {**OF_KINDS[kind], **OF_NETWORKS.get(network, {})}
            if network == "kl_autoencoder":
                options |= _AUTOENCODER
    elif kind != "diffusion":
        options = {**OF_KINDS[kind]}
    elif made:  # a run carries the options of its network
        if perceptron and _becomes_perceptron(made, recipe):
            network = "unet as mlp"
        options = {**OF_NETWORKS[network], **options}
    if kind != "vae":
        options.pop(OF_A_VAE, None)
    options |= OF_RECIPES.get(recipe, {})
    # No equation is solved then; and what a model is trained with it keeps.
    if command is None or "--method=bound" in words:
        options = {k: v for k, v in options.items() if k not in OF_THE_FLOW}
    found = {
        name: flag
        for name, value in options.items()
        if (flag := _flag(name, value, command, known, recipe))
    }
    idle = _idle(words, found, made) if known else set()
    return [flag for name, flag in found.items() if known.get(name) not in idle]


def _idle(words, added, made):
    """Name the fields of a request that would do nothing beside what a line says."""
    said, line = read_line(words), read_line([*words, *added.values()])
    request = COMMANDS[line.command](**line.values)
    task = made.task if made else _task_of_run(words)
    left = leave_out_idle(task, request, said.values)
    return {n for n in line.values if getattr(left, n) != getattr(request, n)}


def _task_of_run(words):
    config = _config_of_run(words)
    return Diffusion() if config is None else from_json(config).task


def _becomes_perceptron(made, recipe):
    """Say whether a perceptron may take the place of the network of a recipe."""
    own = {"network.channel_multipliers"} & set(OF_RECIPES.get(recipe, {}))
    large = own or recipe.removeprefix("configs/").startswith("folder")
    text = "text" in made.task.conditioners  # is read by attention
    return isinstance(made.task.network, UNet) and not large and not text


def _kind_of_run(words):
    """Return the kind of the run that a command is on, a diffusion model by default."""
    return (_config_of_run(words) or {"kind": "diffusion"})["kind"]


def _config_of_run(words):
    for word in words:
        config = Path(word) / "config.json"
        if not word.startswith("-") and config.exists():
            return json.loads(config.read_text())
    return None


def _flag(name, value, command, known, recipe):
    """Spell an option for a command, if it is one there."""
    if name in known:
        flag = flag_of(known[name])
        return flag if value == "True" else f"{flag}={value}"
    of_another = name.partition(".")[0] in (*SECTIONS, "training", "preview_steps")
    if command in (None, "import") or (recipe and (not known or not of_another)):
        return f"--config.{name}={value}"
    return ""
