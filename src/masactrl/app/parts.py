"""The parts of a tab: the component of a field, and the places where results are shown."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from masactrl.app.fields import Field
from masactrl.app.visit import Made

__all__ = ["can_write_mp4", "draw", "filled", "keepsakes", "pictures", "player", "sentence"]


def sentence(error: Exception, *values: Any) -> gr.Error:
    """Return an error as the page shows it: files by name, for their folders are the server's."""
    words = str(error)
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and Path(one).is_absolute():
                words = words.replace(one, Path(one).name)
    return gr.Error(words, print_exception=False)


def _sent(payload: Any) -> str | None:
    """Return the path of a file as it was sent, whatever is in it.

    Gradio's own way converts what is not RGB, other than the command line does, and says of what is
    no picture what Pillow says.
    """
    return None if payload is None or payload.path is None else str(payload.path)


def draw(one: Field) -> Any:
    """Return the component of a field."""
    common: dict[str, Any] = {"label": one.label, "elem_id": None}
    if one.widget == "picture":
        common["label"] = f"{one.label}. {one.info}"  # Gradio shows no other words beside pictures
        picture: Any = gr.Image(
            type="filepath",
            format="png",
            image_mode=None,
            height=240,  # a small picture would shrink the field below its label
            sources=["upload", "clipboard"],
            **common,
        )
        picture.preprocess = _sent
        return picture
    if one.widget == "files":
        return gr.Files(file_types=["image"], height=140, **common)
    if one.widget == "paint":
        return gr.ImageEditor(
            type="filepath",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(colors=["#ff3c3c"], color_mode="fixed", default_color="#ff3c3c"),
            buttons=[],
            height=420,
            elem_id="edit-paint",
            label=one.label,
        )
    common["info"] = one.info
    common["value"] = one.value
    if one.widget in ("text", "lines"):
        return gr.Textbox(lines=3 if one.widget == "lines" else 1, **common)
    if one.widget == "slider":
        return gr.Slider(minimum=one.low or 0, maximum=one.high or 1, step=one.step, **common)
    if one.widget in ("whole", "number"):
        precision = 0 if one.widget == "whole" else None
        return gr.Number(
            minimum=one.low, maximum=one.high, step=one.step, precision=precision, **common
        )
    if one.widget == "tick":
        return gr.Checkbox(**common)
    if one.many:
        return gr.CheckboxGroup(choices=list(one.choices), **common)
    return gr.Dropdown(choices=list(one.choices), **common)


def pictures(name: str) -> list[Any]:
    """Draw what a run fills first: pictures, slider, figures."""
    gallery = gr.Gallery(
        label="Pictures",
        format="png",
        elem_id=f"{name}-pictures",
        height="fit-content",  # left alone it would cut off what is lower than half of the window
        object_fit="contain",
        interactive=False,
    )
    slider = gr.ImageSlider(
        label="Without and with" if name != "edit" else "Before and after",
        format="png",
        visible=False,
        elem_id=f"{name}-slider",
        interactive=False,
    )
    return [gallery, slider, gr.Markdown(elem_id=f"{name}-note")]


def player(name: str) -> Any:
    """Draw the player of films: with a bar for MP4, else the GIF as it runs."""
    own: dict[str, Any] = {"label": "Film", "elem_id": f"{name}-film", "interactive": False}
    if can_write_mp4():
        return gr.Video(format=None, autoplay=True, loop=True, height=420, **own)
    return gr.Image(type="filepath", format="gif", height=420, **own)


def can_write_mp4() -> bool:
    """Whether PyAV, which writes MP4, is there."""
    return find_spec("av") is not None


def keepsakes(name: str) -> list[Any]:
    """Draw what is kept of a run: a fold that appears with it, its files, command and recipe."""
    with gr.Accordion(
        "Keep it: files, command, recipe", open=True, visible=False, elem_id=f"{name}-kept"
    ) as fold:
        files = gr.Files(
            label="PNG files, recipes inside",
            elem_id=f"{name}-files",
            interactive=False,
            height=150,
        )
        command = gr.Textbox(
            label="The command that makes it again",
            lines=1,
            max_lines=6,
            buttons=["copy"],
            interactive=False,
            elem_id=f"{name}-command",
        )
        with gr.Accordion("Recipe", open=False):
            recipe = gr.Code(label="Recipe", language="json", max_lines=30, interactive=False)
    return [fold, files, command, recipe]


def filled(made: Made) -> list[Any]:
    """Return what the player, where there is a film, `pictures` and `keepsakes` show for a run."""
    return [
        *([] if made.film is None else [made.film]),
        gr.Gallery(value=list(made.shown), columns=made.columns),
        gr.ImageSlider(value=made.before_after, visible=made.before_after is not None),
        made.note,
        gr.Accordion(visible=True),
        list(made.files),
        gr.Textbox(value=made.command, visible=bool(made.command)),
        made.recipe,
    ]
