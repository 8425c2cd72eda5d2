"""`masactrl attention`: where does a point of a target look in its source?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from masactrl.cli.console import (
    finishing,
    interrupted,
    output,
    progress,
    quiet_libraries,
    said,
)
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.cli.rerun import differences, given_inputs, load_stated
from masactrl.errors import ConfigError
from masactrl.pictures.files import write_text
from masactrl.runs.layout import LayoutWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.recipe import Recipe, find_recipe
from masactrl.runs.result import prepare_folder, write_pictures

if TYPE_CHECKING:
    from masactrl.rerun.attention import Question
    from masactrl.studies.attention import AttentionView

NAME = "attention"


@takes(
    Output,
    only(ModelSpec, "loras", "device", "offload", "allow_pickle"),
    only(LayoutWords, "layout_model"),
)
def attention(
    given: Given,
    picture: Annotated[
        Path, typer.Argument(help="A PNG that generate or edit made, such as target1-controlled.")
    ],
    at: Annotated[
        list[str],
        typer.Option(
            "--at",
            metavar="X,Y",
            help="A point of the target in pixels from its upper left corner, such as 64,40; "
            "repeat for a row each.",
        ),
    ],
    layer: Annotated[
        int | None,
        typer.Option(
            help="A controlled self-attention layer, L to the model's last.",
            show_default="the mean over all",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(help="A controlled step, S to steps - 1.", show_default="the mean over all"),
    ] = None,
    target: Annotated[
        int | None,
        typer.Option(min=1, help="Which target, 1 for the first.", show_default="the picture's"),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="PATH",
            help="Path of a picture that went in; repeat in the recipe's order.",
            show_default="none",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Path of the model, where it was a folder or a file.",
            show_default="the recipe's, if it is the embedded one or a Hub id",
        ),
    ] = None,
) -> None:
    """Make a picture again and show where points of it looked in the source.

    Writes attention.png and .svg: the target with the point, the source with the weights of
    attention over it, and the source lit by them. Weights are the mean over heads of the softmax in
    the controlled layers.

    Ctrl-C finishes the picture and keeps it; a second Ctrl-C stops at once.

    Example: masactrl attention out/target1-controlled.png --at 64,40 --layer 13
    """
    points = [_point(words) for words in at]
    made = Recipe.parse(find_recipe(picture))
    written = given.build(Output)
    prepare_folder(written.out, [NAME], overwrite=written.overwrite)
    errors = Console(stderr=True)
    with quiet_libraries():
        from masactrl.rerun import kinds
        from masactrl.rerun.attention import (
            attention_recipe,
            attention_steps,
            question_of,
            rerun_watched,
        )

        number = _target(made.picture) if target is None else target
        recipe = attention_recipe(made, points, target=number, step=step, layer=layer)
        total = attention_steps(recipe)
        networks = given.build(LayoutWords).networks()
        paths, changed = given_inputs(made, inputs or ())
        loaded = load_stated(made, model, given.build(ModelSpec))
        for sentence in (*changed, *differences(made, loaded)):
            said(errors, "Warning", sentence)
        with finishing(errors) as stopping:
            with progress(errors, "Denoising", total) as on_step:
                view = rerun_watched(
                    loaded,
                    recipe,
                    kinds.RerunInputs(inputs=paths, on_step=on_step, networks=networks),
                )
            figure = view.to_figure(*points, target=number - 1, step=step, layer=layer)
            drawn = {NAME: figure.to_image()}
            kept = recipe if written.metadata else None
            (path,) = write_pictures(written.out, drawn, kept)
            write_text(written.out / f"{NAME}.svg", figure.to_svg())
            stopped = stopping()
    _tell(view, question_of(recipe), path, as_json=written.as_json)
    if stopped:
        interrupted("the picture was finished first")


def _point(words: str) -> tuple[float, float]:
    """Return x and y of a point written X,Y."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", words)
    if match is None:
        raise typer.BadParameter(f"{words!r} is no point; write X,Y in pixels, like 64,40.")
    return float(match[1]), float(match[2])


def _target(picture: str) -> int:
    """Return which target a picture of that name shows."""
    match = re.fullmatch(r"target(\d+)-(?:controlled|mask)", picture)
    if match is None:
        raise ConfigError(
            f"The picture is the {picture!r} of its run, no target with control; say which "
            "target's points are meant with --target 1."
        )
    return int(match[1])


def _tell(view: AttentionView, asked: Question, path: Path, *, as_json: bool) -> None:
    """Print for every point where most of the weight lies, and where the figure is."""
    found: list[dict[str, Any]] = []
    for x, y in asked.points:
        look = view.look(x, y, target=asked.target - 1, step=asked.step, layer=asked.layer)
        weights = view.weights(look)
        row, column = divmod(int(weights.argmax()), weights.shape[1])
        found.append(
            {
                "at": [x, y],
                "most": [column, row],
                "share_of_source": round(float(look.map.sum()), 4),
                "steps": list(look.steps),
                "layers": list(look.layers),
            }
        )
    if as_json:
        typer.echo(json.dumps({"points": found, "picture": str(path)}, indent=2))
        return
    for one, (x, y) in zip(found, asked.points, strict=True):
        column, row = one["most"]
        output().print(f"{x:g},{y:g} looks most at {column},{row} of the source", highlight=False)
    output().print(str(path), highlight=False, soft_wrap=True, markup=False)
