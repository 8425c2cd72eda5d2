"""A Space: two buttons over `masactrl`, for whoever clicks a link."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

try:  # on ZeroGPU, and before torch
    import spaces
except ImportError:
    spaces = None

import gradio as gr
from PIL import Image

import masactrl
from masactrl.app.drawn import drawn_examples
from masactrl.models.presets import PUPPETS
from masactrl.pictures.input import read_picture

MODEL = masactrl.load_pipeline(os.environ.get("MASACTRL_MODEL", "puppets"))
STEPS = min(MODEL.preset.steps, 30)
SETS = [
    ["a cat standing in the snow, facing left", "a cat running in the snow, facing left", 3],
    ["a fox running in the forest", "a fox sitting in the forest\na fox lying in the forest", 5],
]

# One control at a time: a visitor may press a button while examples are still being drawn.
MODEL_IN_USE = threading.Lock()

Function = TypeVar("Function", bound=Callable[..., Any])
Shown = list[tuple[Image.Image, str]]


def on_gpu(seconds: int) -> Callable[[Function], Function]:
    """Ask ZeroGPU for a GPU during a call; without ZeroGPU the function stays what it is."""
    return spaces.GPU(duration=seconds) if spaces is not None else lambda function: function


@on_gpu(60)
def draw(source: str, targets: str, seed: float, control: float) -> Shown:
    """Draw a source and its targets, each without and with control."""
    request = masactrl.GenerateRequest(
        source_prompt=source,
        target_prompts=tuple(line for line in targets.splitlines() if line.strip()),
        seed=int(seed),
        steps=STEPS,
        strength=control,
    )
    return _shown(masactrl.generate(MODEL, request).pictures())


@on_gpu(120)
def edit(photo: str | None, shown: str, target: str, control: float) -> Shown:
    """Draw what a photo's subject does instead."""
    if photo is None:
        raise masactrl.ConfigError("Give a photo, or take one of the drawn animals.")
    session = masactrl.invert(
        MODEL,
        read_picture(Path(photo)),
        masactrl.InversionRequest(source_prompt=shown, steps=STEPS),
    )
    result = session.edit(masactrl.EditRequest(target_prompts=(target,), strength=control))
    return _shown(result.pictures())


def _shown(pictures: Any) -> Shown:
    return [(picture, name.replace("-", " ")) for name, picture in pictures.items()]


def said(function: Callable[..., Shown]) -> Callable[..., Shown]:
    """Let the page show the library's sentences, and one call after the other use the model."""

    def call(*values: Any) -> Shown:
        try:
            with MODEL_IN_USE:
                return function(*values)
        except masactrl.MasaCtrlError as error:
            raise gr.Error(str(error)) from error

    call.__name__ = function.__name__
    return call


def build(*, cache: bool = True) -> gr.Blocks:
    """Return the page; the examples' pictures are drawn once, when it starts."""
    strength = {"minimum": 0, "maximum": 1, "value": 1, "step": 0.05, "label": "Control"}
    with gr.Blocks(title="MasaCtrl", analytics_enabled=False) as page:
        gr.Markdown(
            "# MasaCtrl\nThe same subject, doing something else, without training: targets read "
            "keys and values of their source in self-attention. "
            f"Model: **{MODEL.name}**, {STEPS} steps."
        )
        with gr.Tab("A set from words"):
            words = [
                gr.Textbox(label="Source", value=SETS[0][0]),
                gr.Textbox(label="Targets, one a line", value=SETS[0][1], lines=2),
                gr.Number(label="Seed", value=3, precision=0, minimum=0),
                gr.Slider(**strength),
            ]
            button = gr.Button("Draw", variant="primary")
            drawn = gr.Gallery(label="Without and with control", format="png", columns=3)
            button.click(said(draw), words, drawn, api_name="draw", concurrency_id="gpu")
            gr.Examples(
                [[*one, 1.0] for one in SETS], words, drawn, said(draw), cache_examples=cache
            )
        with gr.Tab("A photo"):
            photo = [
                gr.Image(label="Photo", type="filepath", format="png"),
                gr.Textbox(label="What it shows (may be empty)"),
                gr.Textbox(label="What it should show instead"),
                gr.Slider(**strength),
            ]
            button = gr.Button("Edit", variant="primary")
            edited = gr.Gallery(label="Reconstruction and edit", format="png", columns=4)
            button.click(said(edit), photo, edited, api_name="edit", concurrency_id="gpu")
            if MODEL.family in PUPPETS:
                animals = drawn_examples(Path(tempfile.mkdtemp()))
                rows = [[*one, 1.0] for one in animals]
                gr.Examples(rows[1:3], photo, edited, said(edit), cache_examples=cache)
    return page.queue(default_concurrency_limit=1)


if __name__ == "__main__":
    build().launch(server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), ssr_mode=False)
