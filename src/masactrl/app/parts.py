"""The parts of a tab: the component of a field, and the place where results are shown."""

from __future__ import annotations

from typing import Any

import gradio as gr

from masactrl.app.fields import Field

__all__ = ["draw", "results"]

_WIDE = 4  # columns of a gallery


def draw(one: Field) -> Any:
    """Return the component of a field."""
    common: dict[str, Any] = {"label": one.label, "elem_id": None}
    if one.widget == "picture":
        return gr.Image(type="filepath", format="png", sources=["upload", "clipboard"], **common)
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


def results(name: str) -> list[Any]:
    """Draw what a run fills: pictures, slider, figures, files, command, recipe."""
    gallery = gr.Gallery(
        label="Pictures",
        columns=_WIDE,
        format="png",
        elem_id=f"{name}-pictures",
        height="auto",
        object_fit="contain",
        interactive=False,
    )
    slider = gr.ImageSlider(
        label="Without and with" if name != "edit" else "Before and after",
        format="png",
        visible=name in ("set", "edit"),
        elem_id=f"{name}-slider",
        interactive=False,
    )
    note = gr.Markdown(elem_id=f"{name}-note")
    files = gr.Files(
        label="PNG files, recipes inside", elem_id=f"{name}-files", interactive=False, height=150
    )
    command = gr.Code(
        label="The command that makes it again",
        language="shell",
        wrap_lines=True,
        lines=2,
        max_lines=6,
        interactive=False,
    )
    with gr.Accordion("Recipe", open=False):
        recipe = gr.Code(label="Recipe", language="json", max_lines=30, interactive=False)
    return [gallery, slider, note, files, command, recipe]
