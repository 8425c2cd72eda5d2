"""The tab that refills the fields of another from a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from masactrl.app.parts import sentence
from masactrl.app.studio import Studio
from masactrl.errors import ConfigError
from masactrl.runs.recipe import find_recipe

__all__ = ["draw_open_tab"]


def draw_open_tab(studio: Studio, controls: Mapping[str, Mapping[str, Any]], tabs: Any) -> None:
    """Draw the tab that refills the fields of a tab from a picture."""
    gr.Markdown(
        "Drop a PNG that masactrl made, or the .json file beside a sheet: the fields of the tab "
        "that made it are filled with its settings. Nothing is run."
    )
    dropped = gr.File(
        label="A picture with its recipe", file_types=[".png", ".json"], elem_id="open-file"
    )
    note = gr.Markdown(elem_id="open-note")
    recipe = gr.Code(
        label="Recipe", language="json", max_lines=30, interactive=False, elem_id="open-recipe"
    )
    names = {tab: tuple(drawn) for tab, drawn in controls.items()}
    outputs = [one for drawn in controls.values() for one in drawn.values()]

    def fill(request: gr.Request, path: str | None) -> list[Any]:
        studio.claim(str(request.session_hash), path)
        if not path:
            return [gr.skip()] * (len(outputs) + 3)
        try:
            found = studio.open_result(Path(path), names)
            text = json.dumps(find_recipe(Path(path)), indent=2)
        except ConfigError as error:
            raise sentence(error, path) from error
        filled = [
            found.values.get(name, gr.skip()) if tab == found.tab else gr.skip()
            for tab, known in names.items()
            for name in known
        ]
        return [*filled, found.told, text, gr.Tabs(selected=found.tab)]

    # Through the queue, which is what shows errors in the page; not the device's place in it.
    dropped.upload(fill, dropped, [*outputs, note, recipe, tabs], api_name="open")
