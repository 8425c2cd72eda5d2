"""The page: tabs, controls and what happens on a click. It knows gradio, and no algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from masactrl.app import fields, requests
from masactrl.app.drawn import drawn_examples
from masactrl.app.edit_fields import edit_fields
from masactrl.app.layout_fields import animate_fields, layout_fields
from masactrl.app.open_tab import draw_open_tab
from masactrl.app.studio import Studio
from masactrl.app.tab import draw_tab, session_of
from masactrl.errors import MasaCtrlError
from masactrl.models.presets import PUPPETS
from masactrl.studies.sweep_plan import generated_calls

__all__ = ["build", "serve"]

TITLE = "masactrl"
_DAY = 86_400  # seconds
_LARGEST_UPLOAD = "50mb"
_EXAMPLES = (
    ("a cat standing in the snow, facing left", "a cat running in the snow, facing left", 3, 12, 1),
    ("a horse standing in the meadow", "a horse jumping in the meadow", 11, 12, 1),
    (
        "a fox running in the forest",
        "a fox sitting in the forest\na fox lying in the forest",
        5,
        12,
        1,
    ),
)
"""Source, targets, seed, steps and S; few steps, so that they are there in seconds on a CPU."""


def build(studio: Studio) -> gr.Blocks:
    """Return the page of a studio, ready to be served."""
    limits = studio.limits
    preset = limits.preset
    studio.watch_cache(Path(get_upload_folder()))
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_DAY // 24, _DAY)) as page:
        gr.Markdown(
            f"# {TITLE}\nThe same subject, doing something else. Model: **{studio.model.name}**, "
            f"{preset.steps} steps, control from step {preset.start_step} and layer "
            f"{preset.start_layer} of {limits.layers}, guidance {preset.guidance_scale:g}."
        )
        with gr.Tabs(selected="set") as tabs:
            with gr.Tab("Consistent set", id="set"):
                shown = (*fields.offered(fields.set_fields(limits), limits), *layout_fields(limits))
                controls = draw_tab(studio, "set", shown, studio.make_set)
                if studio.model.family in PUPPETS:
                    names = ("source_prompt", "target_prompts", "seed", "steps", "start_step")
                    gr.Examples(
                        [list(one) for one in _EXAMPLES],
                        inputs=[controls[name] for name in names],
                        label="Examples (12 steps, seconds on a CPU)",
                    )
            with gr.Tab("Edit a photo", id="edit"):
                gr.Markdown(
                    "Good for another pose, action or view of what the picture shows. Not for "
                    "another style or colour, and not for a side that it does not show."
                )
                shown = (*fields.offered(edit_fields(limits), limits), *layout_fields(limits))
                edit = draw_tab(studio, "edit", shown, studio.make_edit)
                if studio.model.family in PUPPETS:
                    gr.Examples(
                        drawn_examples(studio.cache / "drawn"),
                        inputs=[edit["picture"], edit["source_prompt"], edit["target_prompts"]],
                        label="Drawn animals, for somebody without a photo",
                    )
            with gr.Tab("Grid", id="grid"):
                grid = (*fields.offered(fields.grid_fields(limits), limits), *layout_fields(limits))
                cost = partial(_grid_cost, tuple(one.name for one in grid))
                swept = draw_tab(studio, "grid", grid, studio.make_grid, cost=cost)
            with gr.Tab("Compare", id="compare"):
                compared = (
                    *fields.offered(fields.compare_fields(limits), limits),
                    *layout_fields(limits),
                )
                compare = draw_tab(studio, "compare", compared, studio.make_comparison)
            filled = {"set": controls, "edit": edit, "grid": swept, "compare": compare}
            if limits.networks:
                with gr.Tab("Animate", id="animate"):
                    filled["animate"] = draw_tab(
                        studio, "animate", animate_fields(limits), studio.make_animation, film=True
                    )
                    # What the example's source shows is not what a visitor's picture shows.
                    filled["animate"]["photo"].upload(
                        lambda: "",
                        outputs=filled["animate"]["source_prompt"],
                        api_visibility="private",
                    )
            with gr.Tab("Open a result", id="open"):
                draw_open_tab(studio, filled, tabs)
        page.unload(_leaver(studio))
    studio.keep_cache()
    page.queue(default_concurrency_limit=4)
    return page


def serve(
    page: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    browser: bool = False,
    wait: bool = True,
) -> str:
    """Serve the page and return its address; returns only when it is stopped, unless told not to.

    Fonts and scripts come from this machine; nothing is asked of another one.
    """
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=browser,
        prevent_thread_lock=not wait,
        quiet=True,
        show_error=True,
        max_file_size=_LARGEST_UPLOAD,
        ssr_mode=False,
        theme=theme,
        footer_links=[],
    )
    return address


def _grid_cost(names: Sequence[str], *values: Any) -> str:
    """Say what a grid will cost, before it is run."""
    try:
        request, axes = requests.grid_request(dict(zip(names, values, strict=True)))
    except (MasaCtrlError, TypeError, ValueError) as error:
        return f"{error}"
    return (
        f"{len(axes.cells())} cells and two plain pictures, {request.steps} steps each: "
        f"{generated_calls(request.steps or 0, axes)} steps in all."
    )


def _leaver(studio: Studio) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        studio.leave(session_of(request))

    return leave
