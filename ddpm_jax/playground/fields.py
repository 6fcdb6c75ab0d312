"""Fields of the tabs: the sampler, the number of images, the input images."""

from typing import Any

import gradio as gr

from ddpm_jax import assembly
from ddpm_jax.playground import pictures
from ddpm_jax.playground.panel import Asked, Place, as_sent, with_message
from ddpm_jax.requests import Sample
from ddpm_jax.requests.options import SAMPLERS, SPACINGS

_PROMPTS = {
    "prompt": "Prompt (empty: {captions})",
    "negative_prompt": "Negative prompt, with guidance above 1",
}


def chain_options(
    place: Place, no_label: str, nothing_asked: str, *, encodes: bool = False
) -> Asked:
    """Make the inputs of a chain: labels, prompts, sampler, steps, seed, guidance.

    Args:
        place: of the tab.
        no_label: what is done without a label.
        nothing_asked: what is done without a prompt.
        encodes: both chains are deterministic DDIM, whatever is asked for: there is no
            sampler to choose, and no seed.
    """
    recipe, info = place.studio.recipe, place.studio.trained.info
    spec, defaults = recipe.task, recipe.request(Sample)
    asked: Asked = {}
    knows_classes = assembly.num_classes(spec, info) is not None
    if info.tokenizer is not None:
        for name, label in _PROMPTS.items():
            asked[f"sample.{name}"] = gr.Textbox(
                label=label.format(captions=nothing_asked),
                placeholder=info.captions[0] if name == "prompt" else "",
                elem_id=f"{place.mode}-{name.replace('_', '-')}",
            )
    if knows_classes:
        asked["sample.labels"] = gr.Dropdown(
            [*(info.label_names or ()), "none"],
            multiselect=True,
            label=f"Labels, taken in turn ({no_label})",
            elem_id=f"{place.mode}-labels",
        )
    with gr.Row():
        if not encodes:
            asked["sample.sampler"] = gr.Dropdown(
                list(SAMPLERS),
                value=defaults.sampler,
                label="Sampler",
                elem_id=f"{place.mode}-sampler",
                min_width=120,
            )
        asked["sample.num_steps"] = gr.Number(
            assembly.num_steps(spec, defaults),
            label=f"Steps, 1 to {spec.schedule.num_levels}",
            elem_id=f"{place.mode}-steps",
            min_width=120,
        )
    with gr.Row():
        if not encodes:
            asked["sample.seed"] = gr.Number(
                assembly.seed_of(spec, defaults),
                label="Seed",
                elem_id=f"{place.mode}-seed",
                min_width=120,
            )
        if knows_classes or info.tokenizer is not None:
            asked["sample.guidance_scale"] = gr.Number(
                defaults.guidance_scale,
                label="Guidance scale",
                step=0.5,
                elem_id=f"{place.mode}-guidance",
                min_width=120,
            )
    return asked


def more_options(place: Place, *, encodes: bool = False) -> Asked:
    """Lay out rarely used options: eta, spacing, frames of the trajectory.

    Args:
        place: of the tab.
        encodes: as of `chain_options`; there is no eta then.
    """
    defaults = place.studio.recipe.request(Sample)
    with gr.Accordion("More", open=False), gr.Row():
        asked: Asked = {}
        if not encodes:
            asked["sample.eta"] = gr.Number(
                defaults.eta, label="Eta of ddim", step=0.1, min_width=90
            )
        return asked | {
            "sample.spacing": gr.Dropdown(
                list(SPACINGS),
                value=defaults.spacing,
                label="Spacing",
                allow_custom_value=True,
                min_width=120,
            ),
            "sample.film_frames": gr.Number(
                defaults.film_frames, label="Trajectory frames", min_width=90
            ),
        }


def share(place: Place, name: str, value: float, label: str) -> gr.Slider:
    """Make the input of a share, from 0.01 to 1."""
    return gr.Slider(
        0.01,
        1,
        value=value,
        step=0.01,
        label=label,
        elem_id=f"{place.mode}-{name}",
        buttons=[],
    )


def count(place: Place, value: int, label: str) -> gr.Number:
    """Make the input of a number of images."""
    return gr.Number(
        value, label=label, elem_id=f"{place.mode}-{label.lower()}", min_width=120
    )


def method(place: Place) -> gr.Dropdown:
    """Make the input of an edit's method."""
    methods = assembly.edit_methods(place.studio.recipe.task, place.mode)
    return gr.Dropdown(
        list(methods),
        value=methods[0],
        label="Method",
        elem_id=f"{place.mode}-method",
        min_width=120,
    )


def picture(place: Place, name: str, example: Any, number: int) -> gr.Image:
    """Make the input of an image: uploaded, or an example of the model's data."""
    with gr.Column(min_width=150):
        picture = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label=f"The {name}",
            height=190,
            elem_id=f"{place.mode}-{name}",
            elem_classes="picture",
            buttons=[],
        )
        with gr.Row():
            which = gr.Number(
                number,
                label="Example of the data",
                show_label=False,
                container=False,
                min_width=60,
                elem_id=f"{place.mode}-{name}-number",
            )
            take = gr.Button(
                "Example",
                size="sm",
                min_width=90,
                elem_id=f"{place.mode}-{name}-example",
            )

    def taken(number: float | None) -> str:
        pixels = example(number)
        assert number is not None  # `example` has refused it
        return pictures.keep_example(place.folder, pixels, int(number))

    # Queued, though it waits for nothing: messages of what is not queued get lost.
    take.click(
        with_message(taken),
        as_sent(which),
        picture,
        show_progress="hidden",
        api_visibility="private",
    )
    return picture


def buttons(place: Place, word: str) -> tuple[gr.Button, gr.Button]:
    """Lay out the button that runs the job, and the one that stops it."""
    with gr.Row():
        go = gr.Button(word, variant="primary", elem_id=f"{place.mode}-go")
        stop = gr.Button("Stop", variant="stop", elem_id=f"{place.mode}-stop")
    return go, stop
