"""What `masactrl sweep` does once its words are understood: run and report."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import typer
from rich.console import Console

from masactrl.cli.console import finishing, interrupted, output, progress
from masactrl.cli.plan import show_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.invert import EditRequest, InversionRequest
    from masactrl.runs.request import GenerateRequest
    from masactrl.studies.sweep import Axes, SweepResult


Asked: TypeAlias = "GenerateRequest | tuple[Path, InversionRequest, EditRequest]"


def show_sweep_plan(
    model: LoadedModel, asked: Asked, axes: Axes, out: Path, *, as_json: bool
) -> None:
    """Print what a sweep would make and cost; nothing is run.

    Raises:
        ScheduleError: an S or L is beyond the steps of the run or the layers of the model.
    """
    from masactrl.runs.invert import plan
    from masactrl.studies.sweep_plan import check_axes, generated_calls, planned_calls
    from masactrl.studies.sweep_result import sweep_names

    if not isinstance(asked, tuple):
        settings = asked.resolve(model.preset)
        steps, targets = settings.steps, len(settings.target_prompts)
        axes = axes.filled(settings.start_step, settings.start_layer)
        check_axes(model.pipeline.unet, axes, steps)
        calls, inversion = generated_calls(steps, axes), 0
    else:
        picture, inverted, request = asked
        steps = inversion = inverted.steps or model.preset.steps
        targets, usual = len(request.target_prompts), request.resolve(model.preset, steps)
        ask = partial(plan, model, picture, inverted)
        calls = planned_calls(ask, request, axes, preset=model.preset, steps=steps)
        axes = axes.filled(usual.start_step, usual.start_layer)
    told = {
        "model": model.name,
        "start_step": list(axes.start_steps),
        "start_layer": list(axes.start_layers),
        "cells": len(axes.cells()),
        "targets": targets,
        "steps": steps,
        "steps_in_all": inversion + calls,
        "folder": str(out),
        "pictures": [f"{name}.png" for name in sweep_names(targets, axes)],
    }
    if as_json:
        typer.echo(json.dumps({"plan": told}, indent=2))
    else:
        show_lines(told)


def run_sweep(model: LoadedModel, asked: Asked, axes: Axes) -> tuple[SweepResult, bool]:
    """Make the source and all cells, or as many as there are when somebody interrupts.

    Also says whether somebody did.
    """
    from masactrl.runs.invert import invert
    from masactrl.studies.sweep import sweep_edit, sweep_generate
    from masactrl.studies.sweep_plan import generated_calls, sweep_calls

    errors = Console(stderr=True)
    if not isinstance(asked, tuple):
        settings = asked.resolve(model.preset)
        whole = axes.filled(settings.start_step, settings.start_layer)
        total = generated_calls(settings.steps, whole)
        with finishing(errors) as stopping, progress(errors, "Denoising", total) as on_step:
            made = sweep_generate(model, asked, axes, on_step=on_step, stop=stopping)
            return made, stopping()
    picture, inversion, request = asked
    with progress(errors, "Inverting", inversion.steps or model.preset.steps) as on_step:
        session = invert(model, picture, inversion, on_step=on_step)
    total = sweep_calls(session, request, axes)
    with finishing(errors) as stopping, progress(errors, "Editing", total) as on_step:
        return sweep_edit(session, request, axes, on_step=on_step, stop=stopping), stopping()


def tell_sweep(result: SweepResult, paths: Sequence[Path], *, stopped: bool, as_json: bool) -> None:
    """Print what was made and where it is.

    Raises:
        typer.Exit: the sweep was interrupted; it says so.
    """
    done, cells = len(result.targets[0].cells), len(result.axes.cells())
    if as_json:
        figure = str(paths[0]) if result.whole else None
        typer.echo(json.dumps({**result.to_json(), "figure": figure}, indent=2))
    else:
        recipe, axes = result.recipe, result.axes
        lines = [
            f"{recipe.model.name} on {recipe.device} ({recipe.dtype}): {done} cells, "
            f"S={_listed(axes.start_steps)}, L={_listed(axes.start_layers)}, "
            f"{result.seconds:.1f} s",
            *([str(paths[0])] if result.whole else []),
            f"every cell as a picture: {paths[-1].parent / 'target*-S*-L*.png'}",
        ]
        for line in lines:
            output().print(line, highlight=False, soft_wrap=True, markup=False)
    if stopped:
        missing = "" if result.whole else "; there is no figure"
        interrupted(f"{done} of {cells} cells are done{missing}")


def _listed(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
