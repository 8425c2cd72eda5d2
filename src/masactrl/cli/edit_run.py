"""What `masactrl edit` does once its words are understood: session file, run and report."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from masactrl.cli.console import output, progress
from masactrl.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from masactrl.cli.edit_auto import Judges
    from masactrl.models import LoadedModel
    from masactrl.runs.cost import EditPlan
    from masactrl.runs.invert import (
        EditRequest,
        EditResult,
        EditSession,
        InversionRequest,
    )
    from masactrl.studies.auto import AutoResult


def check_session_place(file: Path | None) -> None:
    """Make sure, before minutes are spent, that a new session can be kept.

    Raises:
        OutputError: its folder is not there or cannot be written to.
    """
    if file is None or file.exists():
        return
    if not file.parent.is_dir():
        raise OutputError(f"The session {file} cannot be kept: there is no folder {file.parent}.")
    if not os.access(file.parent, os.W_OK):
        raise OutputError(f"The session {file} cannot be kept: {file.parent} cannot be written to.")


def run_edit(
    model: LoadedModel,
    picture: tuple[Path, Image],
    asked: InversionRequest,
    request: EditRequest,
    cost: EditPlan,
    file: Path | None,
    limit: int,
    judges: Judges | None = None,
) -> EditResult | AutoResult:
    """Invert the picture (its file, and what it shows), or read the inversion, and edit.

    With `judges` S and L are chosen.
    """
    from masactrl.runs.invert import invert, load_session
    from masactrl.studies.auto import auto_axes, auto_calls, edit_auto

    path, opened = picture
    scorer = None if judges is None else judges.load(model)  # before minutes are spent
    found: EditSession | None = None
    if file is not None and file.exists():
        found = load_session(file, model)
        _check_same(file, found, opened, asked)
    steps = request.resolve(model.preset, asked.steps or model.preset.steps).steps
    calls = cost.calls
    if scorer is not None:
        calls = auto_calls(cost.calls, steps, auto_axes(model, steps))
    total = calls + (steps if found is None else 0)
    with progress(Console(stderr=True), "Denoising", total) as on_step:
        if found is None:
            ahead = request if scorer is None else None
            found = invert(model, path, asked, edit=ahead, limit=limit, on_step=on_step)
            if file is not None:
                found.save(file)
        if scorer is not None:
            return edit_auto(found, request, scorer, on_step=on_step)
        return found.edit(request, on_step=on_step)


def _check_same(file: Path, found: EditSession, picture: Image, asked: InversionRequest) -> None:
    """Refuse a session of another picture, or one that was inverted otherwise."""
    if found.picture.size != picture.size or found.picture.tobytes() != picture.tobytes():
        raise ConfigError(f"The session {file} is of another picture; give it another name.")
    # A number of steps that was left to the model and one that was given may be the same.
    asked = replace(asked, steps=asked.steps or found.trajectory.steps)
    made = replace(found.request, steps=found.trajectory.steps)
    different = [
        f"{name} {value!r}" for name, value in asdict(made).items() if getattr(asked, name) != value
    ]
    if different:
        raise ConfigError(
            f"The session {file} was inverted with {', '.join(different)}; ask for the same, or "
            "give another name."
        )


def show_plan(cost: EditPlan, grid: tuple[int, int] | None = None, *, as_json: bool) -> None:
    """Print what an edit will cost; `grid` is rows and cells of choosing S and L before it."""
    if as_json:
        chosen = {} if grid is None else {"auto": grid[0], "auto_cells": grid[1]}
        typer.echo(json.dumps({**asdict(cost), **chosen}, indent=2))
        return
    lines = list(cost.lines())
    if grid is not None:
        lines.append(
            f"choosing S and L first tries {grid[1]} cells: {grid[0]} rows more, "
            f"{grid[0] / cost.plain:.2f} times plain generation"
        )
    for line in lines:
        output().print(line, highlight=False, soft_wrap=True)


def tell(result: EditResult | AutoResult, paths: Sequence[Path], *, as_json: bool) -> None:
    """Print a result and where its pictures are."""
    from masactrl.runs.edit_result import EditResult

    edit = result if isinstance(result, EditResult) else result.edit
    choice = None if isinstance(result, EditResult) else result
    if as_json:
        chosen = {} if choice is None else {"auto": choice.to_json()}
        typer.echo(json.dumps({**described(edit, paths), **chosen}, indent=2))
        return
    report(edit)
    if choice is not None:
        output().print(choice.reason, highlight=False, soft_wrap=True, markup=False)
    for path in paths:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)


def described(result: EditResult, paths: Sequence[Path]) -> dict[str, object]:
    """Return the result as values that JSON knows."""
    return {
        "model": result.model,
        "device": result.device,
        "dtype": result.dtype,
        **result.report(),
        "inversion": asdict(result.inversion),
        "request": dict(result.request.recipe()),
        "pictures": {path.stem: str(path) for path in paths},
        "warnings": list(result.warnings),
    }


def report(result: EditResult) -> None:
    """Print how the pictures were made, and how well the source came back."""
    console = output()
    made, quality = result.request, result.quality
    control = f"S={made.start_step}, L={made.start_layer}"
    if made.method != "masactrl":
        options = [f"{name}={value}" for name, value in made.method_options]
        control = " ".join([made.method, *options])
    width, height = result.picture.size
    console.print(
        f"{result.model} on {result.device} ({result.dtype}): {width}x{height}, "
        f"{result.inversion.method} inversion, {made.steps} steps, guidance "
        f"{made.guidance_scale:g}, {control}, "
        f"{sum(result.seconds.values()):.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"the picture came back with {quality.psnr:.1f} dB (the model's VAE alone: "
        f"{quality.ceiling:.1f} dB)",
        highlight=False,
        soft_wrap=True,
    )
