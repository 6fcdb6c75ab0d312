"""The same command in small: options that make its work a matter of seconds."""

from ddpm_jax.requests import COMMANDS
from ddpm_jax.requests.flags import flag_of, sections_of
from ddpm_jax.requests.sections import SECTIONS

# Whatever the command says of these, it gets them: later flags win. Those the command
# says nothing of are set as well, so that all commands agree on the model.
ALWAYS = {
    "model.channels": "8",
    "model.num_groups": "4",
    "model.channel_multipliers": "(1,)",
    "model.num_res_blocks": "1",
    "model.attention_resolutions": "()",
    "model.num_heads": "1",
    "training.num_steps": "4",
    "training.batch_size": "4",
    "training.warmup_steps": "1",
    "training.report_every": "2",
    "training.sample_every": "4",
    "training.sample_num_steps": "2",
    "training.checkpoint_every": "2",
    "training.keep_every": "2",
    "sample.num_images": "4",
    "sample.batch_size": "4",
    "sample.num_steps": "5",
    "sample.film_frames": "2",
    "sample.film_images": "2",
    "edit.num_images": "2",
    "likelihood.num_images": "4",
    "likelihood.batch_size": "4",
    "likelihood.num_steps": "4",
    "likelihood.rtol": "0.1",
    "likelihood.atol": "0.1",
    "evaluate.num_images": "12",
    "evaluate.batch_size": "12",
    "evaluate.allow_few": "True",
    "features.num_features": "8",
    "features.channels": "4",
    "features.num_groups": "4",
    "features.channel_multipliers": "(1,)",
    "features.num_steps": "2",
    "features.batch_size": "8",
    "features.warmup_steps": "1",
    "retrieval.num_features": "8",
    "retrieval.channels": "4",
    "retrieval.num_groups": "4",
    "retrieval.channel_multipliers": "(1,)",
    "retrieval.num_steps": "2",
    "retrieval.batch_size": "8",
    "retrieval.warmup_steps": "1",
    "autoencoder.channels": "4",
    "autoencoder.num_groups": "4",
    "autoencoder.channel_multipliers": "(1,1)",
    "autoencoder.num_res_blocks": "1",
    "autoencoder.num_steps": "2",
    "autoencoder.batch_size": "8",
    "autoencoder.warmup_steps": "1",
    "autoencoder.discriminator_start": "1",
    "autoencoder.discriminator_channels": "4",
    "autoencoder.discriminator_layers": "1",
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
}
OF_THE_FLOW = ("likelihood.rtol", "likelihood.atol")
# Of recipes: fewer pictures, attention on smaller maps, no package of others.
OF_RECIPES = {
    "configs/emoji.py": {"model.text": "words"},
    "configs/emoji_large.py": {"model.channel_multipliers": "(1,1,1)"},
    "configs/emoji_retrieval.py": {"model.text": "words"},
    "configs/folder.py:64": {"model.channel_multipliers": "(1,1,1)"},
    "folder:64": {"model.channel_multipliers": "(1,1,1)"},
    "configs/shapes.py": {"data.source": "shapes:400"},
    "configs/shapes_large.py": {"data.source": "shapes:400"},
}


def flags(words):
    """Return the flags to append to a command line."""
    command = next((c for c in COMMANDS if words[: len(c.split())] == c.split()), None)
    known = sections_of(COMMANDS[command]) if command else {}
    names = {flag_of(field): option for option, field in known.items()}
    heads = [word.partition("=")[0] for word in words]
    said = {names.get(head, head.removeprefix("--config.")) for head in heads}
    options = {**ALWAYS, **{name: v for name, v in WHERE_SET.items() if name in said}}
    recipe = next((w.partition("=")[2] for w in words if w.startswith("--config=")), "")
    if not recipe:  # a run carries the options of its model
        options = {k: v for k, v in options.items() if not k.startswith("model.")}
    options |= OF_RECIPES.get(recipe, {})
    # No equation is solved then; and what a model is trained with it keeps.
    if command is None or "--method=bound" in words:
        options = {k: v for k, v in options.items() if k not in OF_THE_FLOW}
    return [
        flag
        for name, value in options.items()
        if (flag := _flag(name, value, command, known, recipe))
    ]


def _flag(name, value, command, known, recipe):
    """Spell an option for a command, if it is one there."""
    if name in known:
        flag = flag_of(known[name])
        return flag if value == "True" else f"{flag}={value}"
    of_another = name.partition(".")[0] in SECTIONS
    if command in (None, "import") or (recipe and (not known or not of_another)):
        return f"--config.{name}={value}"
    return ""
