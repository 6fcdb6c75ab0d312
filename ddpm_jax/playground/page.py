"""The page: tabs, with the request on the left and its output on the right."""

from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_jax import assembly
from ddpm_jax.playground import fields, gate, painter, panel, pictures, work
from ddpm_jax.playground.jobs import Studio, most_images
from ddpm_jax.playground.panel import Asked, Place
from ddpm_jax.playground.points_tab import CANVAS, Desk, points_tab
from ddpm_jax.requests import (
    ImageToImage,
    Inpaint,
    Interpolate,
    Sample,
    TextDiff,
    Variations,
)

STYLE = """
.gradio-container { max-width: 1180px !important; margin: auto; }
.picture img { image-rendering: pixelated; width: 100%; height: 100%;
  object-fit: contain; }
.status { min-height: 44px; }
"""
THEME = gr.themes.Default(  # fonts that are there: none is fetched
    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)


def make_page(studio: Studio | None, desk: Desk) -> gr.Blocks:
    """Lay out the page.

    Args:
        studio: the model; None for the Points tab alone, which trains its own.
        desk: where jobs work; its folder holds uploads and results.
    """
    title = "ddpm_jax" if studio is None else f"ddpm_jax: {studio.workdir}"
    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        if studio is None:
            gr.Markdown("## A diffusion model of points that you draw")
        else:
            _model_tabs(studio, desk.folder)
        with gr.Tab("Points", elem_id="tab-points"):
            points_tab(desk)
    return page


def _model_tabs(studio: Studio, folder: Path) -> None:
    info = studio.trained.info
    shape = "x".join(map(str, info.image_shape))
    example = work.example_reader(studio)
    gr.Markdown(
        f"## {studio.workdir}\nTrained on {info.name}, {shape}; drawing with "
        f"{studio.trained.described}."
    )
    with gr.Tab("Draw", elem_id="tab-draw"):
        _draw_tab(Place(studio, folder, "sample"))
    edits = {
        "image-to-image": ("Image to image", "tab-image", _image_tab),
        "inpaint": ("Inpaint", "tab-inpaint", _inpaint_tab),
        "interpolate": ("Interpolate", "tab-interpolate", _interpolate_tab),
        "variations": ("Variations", "tab-variations", _variations_tab),
        "text-diff": ("Text difference", "tab-text-diff", _text_diff_tab),
    }
    for mode, (name, element, tab) in edits.items():
        if assembly.edit_methods(studio.recipe.task, mode):  # not every model can
            with gr.Tab(name, elem_id=element):
                tab(Place(studio, folder, mode), example)


def kinds_of_inputs(page: gr.Blocks) -> dict[int, tuple[str, ...]]:
    """List the kinds of the inputs of each event, for `gate.Policy`."""

    def kind(component: Any) -> str:
        if isinstance(component, gr.Image):
            return gate.UPLOAD
        if isinstance(component, gr.HTML):
            return gate.POINTS if component.elem_id == CANVAS else gate.MASK
        return gate.FIELD

    return {
        number: tuple(map(kind, event.inputs)) for number, event in page.fns.items()
    }


def _draw_tab(place: Place) -> None:
    recipe = place.studio.recipe
    most = most_images(recipe)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asked = fields.chain_options(
                place, "empty: all", "some captions of the data"
            )
            asked["sample.num_images"] = gr.Number(
                min(20, most, recipe.request(Sample).num_images),
                label=f"Images, 1 to {most}",
                elem_id="sample-images",
            )
            asked |= fields.more_options(place)
            buttons = fields.buttons(place, "Draw")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    panel.connect(place, asked, buttons, shown)


def _image_tab(place: Place, example: Any) -> None:
    spec = place.studio.recipe.task
    defaults = place.studio.recipe.request(ImageToImage)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asked: Asked = {"picture": fields.picture(place, "picture", example, 0)}
            T = spec.schedule.num_levels
            level = gr.Slider(
                1,
                T,
                value=round(defaults.strength * T),
                step=1,
                label=f"Noise to level t of {T}, and back",
                elem_id=f"{place.mode}-level",
                buttons=[],
            )
            asked["level"] = level
            asked |= fields.chain_options(
                place, "empty: unconditional", "unconditional"
            )
            asked["edit.num_images"] = fields.count(
                place, defaults.num_images, "Images"
            )
            asked |= fields.more_options(place)
            buttons = fields.buttons(place, "Noise and back")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    panel.connect(place, asked, buttons, shown)


def _inpaint_tab(place: Place, example: Any) -> None:
    spec = place.studio.recipe.task
    defaults = place.studio.recipe.request(Inpaint)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            picture = fields.picture(place, "picture", example, 0)
            mask = gr.HTML(
                {},
                html_template=painter.TEMPLATE,
                css_template=painter.CSS,
                js_on_load=painter.SCRIPT,
                apply_default_css=False,
                elem_id="inpaint-mask",
            )
            asked: Asked = {"picture": picture, "mask": mask}
            with gr.Row():
                asked["edit.method"] = fields.method(place)
                asked["edit.num_images"] = fields.count(
                    place, defaults.num_images, "Images"
                )
            asked |= fields.chain_options(
                place, "empty: unconditional", "unconditional"
            )
            asked |= fields.more_options(place)
            buttons = fields.buttons(place, "Fill")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    shape = place.studio.trained.info.image_shape

    def to_canvas(path: str | None) -> dict:
        if path is None:
            return {}
        kept = pictures.keep_upload(place.folder, path, "the picture")
        return pictures.canvas(kept, shape, padded=bool(spec.data.pad_to))

    picture.change(
        panel.with_message(to_canvas),
        panel.as_sent(picture),
        mask,
        show_progress="hidden",
        api_visibility="private",
    )
    panel.connect(place, asked, buttons, shown)


def _interpolate_tab(place: Place, example: Any) -> None:
    defaults = place.studio.recipe.request(Interpolate)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                asked: Asked = {
                    name: fields.picture(place, name, example, number)
                    for number, name in enumerate(work.PICTURES[place.mode])
                }
            with gr.Row():
                asked["edit.method"] = fields.method(place)
                asked["edit.num_points"] = fields.count(
                    place, defaults.num_points, "Points"
                )
            asked["edit.strength"] = fields.share(
                place, "strength", defaults.strength, "Share of the chain walked"
            )
            asked |= fields.chain_options(
                place, "empty: unconditional", "unconditional"
            )
            asked |= fields.more_options(place)
            buttons = fields.buttons(place, "Interpolate")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    panel.connect(place, asked, buttons, shown)


def _variations_tab(place: Place, example: Any) -> None:
    defaults = place.studio.recipe.request(Variations)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asked: Asked = {"picture": fields.picture(place, "picture", example, 0)}
            asked["edit.num_images"] = fields.count(
                place, defaults.num_images, "Images"
            )
            asked |= fields.chain_options(
                place, "empty: the image alone", "the image alone"
            )
            asked |= fields.more_options(place)
            buttons = fields.buttons(place, "Vary")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    panel.connect(place, asked, buttons, shown)


_WHOLE = 0.9  # of the chain: the noise then holds little of what the texts are about


def _text_diff_tab(place: Place, example: Any) -> None:
    defaults = place.studio.recipe.request(TextDiff)
    caption = (place.studio.trained.info.captions or ("",))[0]
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            asked: Asked = {"picture": fields.picture(place, "picture", example, 0)}
            with gr.Row():
                for name, label in (
                    ("from_text", "From: what it shows"),
                    ("to_text", "To: what it is to show instead"),
                ):
                    asked[f"edit.{name}"] = gr.Textbox(
                        label=label,
                        placeholder=caption if name == "from_text" else "",
                        elem_id=f"{place.mode}-{name.partition('_')[0]}",
                        min_width=150,
                    )
            asked["edit.share"] = fields.share(
                place, "share", defaults.share, "How far the embedding is turned"
            )
            asked["edit.strength"] = fields.share(
                place,
                "strength",
                max(_WHOLE, defaults.strength),
                "Share of the chain walked",
            )
            asked["edit.num_points"] = fields.count(
                place, defaults.num_points, "Points"
            )
            asked |= fields.chain_options(
                place, "empty: the image alone", "the image alone", encodes=True
            )
            asked |= fields.more_options(place, encodes=True)
            buttons = fields.buttons(place, "Turn")
        with gr.Column(scale=3, min_width=420):
            shown = panel.lay_out(place.mode)
    panel.connect(place, asked, buttons, shown)
