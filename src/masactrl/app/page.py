"""The page: tabs, controls and what happens on a click. It knows gradio, and no algorithm."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from masactrl.app import fields, parts, requests
from masactrl.app.edit_fields import edit_fields
from masactrl.app.fields import Field
from masactrl.app.studio import Made, Report, Stopped, Studio
from masactrl.errors import ConfigError, MasaCtrlError
from masactrl.recipe import find_recipe

__all__ = ["build", "serve"]

TITLE = "masactrl"
_DEVICE = "device"  # one job at a time: a controlled pipeline is mutable state
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
    ),
)
"""Source, targets, seed, steps and S; few steps, so that they are there in seconds on a CPU."""

Runner = Callable[[str, Mapping[str, Any], Report], Made]


def build(studio: Studio) -> gr.Blocks:
    """Return the page of a studio, ready to be served."""
    limits = studio.limits
    preset = limits.preset
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(_DAY // 24, _DAY)) as page:
        gr.Markdown(
            f"# {TITLE}\nThe same subject, doing something else. Model: **{studio.model.name}**, "
            f"{preset.steps} steps, control from step {preset.start_step} and layer "
            f"{preset.start_layer} of {limits.layers}, guidance {preset.guidance_scale:g}."
        )
        with gr.Tabs(selected="set") as tabs:
            with gr.Tab("Consistent set", id="set"):
                controls = _tab(studio, "set", fields.set_fields(limits), studio.make_set)
                if studio.model.family == "puppets":
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
                edit = _tab(studio, "edit", edit_fields(limits), studio.make_edit)
            with gr.Tab("Grid", id="grid"):
                grid = fields.grid_fields(limits)
                cost = partial(_grid_cost, tuple(one.name for one in grid))
                _tab(studio, "grid", grid, studio.make_grid, cost=cost)
            with gr.Tab("Compare", id="compare"):
                compared = fields.compare_fields(limits)
                compare = _tab(studio, "compare", compared, studio.make_comparison)
            with gr.Tab("Open a result", id="open"):
                filled = {"set": controls, "edit": edit, "compare": compare}
                _open_tab(studio, filled, tabs)
        page.unload(_leaver(studio))
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


def _tab(
    studio: Studio,
    name: str,
    shown: Sequence[Field],
    runner: Runner,
    *,
    cost: Callable[..., str] | None = None,
) -> dict[str, Any]:
    """Draw one tab: controls left, results right; return the controls by name."""
    controls: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=2):
            for one in (one for one in shown if not one.fold):
                controls[one.name] = parts.draw(one)
            with gr.Row():
                run = gr.Button("Run", variant="primary", elem_id=f"{name}-run")
                halt = gr.Button("Stop", variant="stop", elem_id=f"{name}-stop")
            if "seed" in controls:
                dice = gr.Button("Another seed", size="sm")
                dice.click(
                    _any_seed, outputs=controls["seed"], queue=False, api_visibility="private"
                )
            with gr.Accordion("Advanced", open=False):
                for one in (one for one in shown if one.fold):
                    controls[one.name] = parts.draw(one)
            if cost is not None:
                told = gr.Markdown(cost(*(one.value for one in shown)))
        with gr.Column(scale=3):
            results = parts.results(name)
    ordered = [controls[one.name] for one in shown]
    names = tuple(one.name for one in shown)
    if cost is not None:
        gr.on(
            [one.change for one in ordered],
            cost,
            ordered,
            told,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
    if {"steps", "start_step"} <= controls.keys():
        controls["steps"].input(
            _scaled_start(studio),
            controls["steps"],
            controls["start_step"],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
    run.click(
        _handler(runner, names),
        ordered,
        results,
        concurrency_id=_DEVICE,
        concurrency_limit=1,
        api_name=name,
    )
    halt.click(_stopper(studio), queue=False, api_visibility="private")
    return controls


def _handler(runner: Runner, names: Sequence[str]) -> Callable[..., Any]:
    """Return the function behind Run: values in, results out, errors as sentences."""

    def run(request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Denoising", unit="steps")

        try:
            made = runner(_session(request), dict(zip(names, values, strict=True)), report)
        except Stopped:
            gr.Info("Stopped; nothing was kept of the run at hand.")
            return [gr.skip()] * 6
        except MasaCtrlError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except RuntimeError as error:
            if "memory" not in str(error).lower():
                raise
            raise gr.Error(
                "The device has no memory left for this; lower width and height, or ask for fewer "
                "targets at once.",
                print_exception=False,
            ) from error
        return [
            list(made.shown),
            made.before_after,
            made.note,
            list(made.files),
            made.command,
            made.recipe,
        ]

    return run


def _open_tab(studio: Studio, controls: Mapping[str, Mapping[str, Any]], tabs: Any) -> None:
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

    def fill(path: str | None) -> list[Any]:
        if not path:
            return [gr.skip()] * (len(outputs) + 3)
        try:
            found = studio.open_result(Path(path), names)
            text = json.dumps(find_recipe(Path(path)), indent=2)
        except ConfigError as error:
            # The path is the server's own; it would tell the visitor nothing.
            sentence = str(error).replace(path, Path(path).name)
            raise gr.Error(sentence, print_exception=False) from error
        filled = [
            found.values.get(name, gr.skip()) if tab == found.tab else gr.skip()
            for tab, known in names.items()
            for name in known
        ]
        return [*filled, found.told, text, gr.Tabs(selected=found.tab)]

    # Through the queue, which is what shows errors in the page; not the device's place in it.
    dropped.upload(fill, dropped, [*outputs, note, recipe, tabs], api_name="open")


def _grid_cost(names: Sequence[str], *values: Any) -> str:
    """Say what a grid will cost, before it is run."""
    try:
        rows = requests.grid_requests(dict(zip(names, values, strict=True)))
    except (MasaCtrlError, TypeError, ValueError) as error:
        return f"{error}"
    cells = sum(len(row) for row in rows)
    steps = rows[0][0].steps or 0
    return f"{cells} runs of {steps} steps: {cells * steps} steps in all."


def _scaled_start(studio: Studio) -> Callable[[Any], int]:
    """Return the function that moves S along when steps change, to the same part of the run."""
    preset = studio.limits.preset

    def scaled(steps: Any) -> int:
        count = max(int(steps or 1), 1)
        return min(round(preset.start_step * count / preset.steps), count - 1)

    return scaled


def _stopper(studio: Studio) -> Callable[..., None]:
    def stop(request: gr.Request) -> None:
        studio.stop(_session(request))

    return stop


def _leaver(studio: Studio) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        studio.leave(_session(request))

    return leave


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _any_seed() -> int:
    return random.randrange(fields.LARGEST_SEED)
