"""What `masactrl sweep` does once its words are understood: run and report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from masactrl.cli.console import finishing, interrupted, output, progress
from masactrl.cli.plan import show_lines
from masactrl.runs.request import GenerateRequest
from masactrl.studies.sweep_result import SWEEP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from masactrl.cli.output import Output
    from masactrl.models import LoadedModel
    from masactrl.runs.asked import Asked
    from masactrl.studies.sweep import Axes, SweepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRun:
    """One grid of S and L: values of the other axes, what is asked with them, its folder."""

    values: Mapping[str, Any]
    asked: Asked
    out: Path


def show_sweep_plans(
    model: LoadedModel, runs: Sequence[SweepRun], axes: Axes, *, as_json: bool
) -> None:
    """Print what the grids would make and cost; nothing is run.

    Raises:
        ScheduleError: an S or L is beyond the steps of the run or the layers of the model.
    """
    told = [_plan(model, run.asked, axes, run.out) | dict(run.values) for run in runs]
    if as_json:
        typer.echo(json.dumps({"plans": told} if len(told) > 1 else {"plan": told[0]}, indent=2))
        return
    for one in told:
        show_lines(one)


def _plan(model: LoadedModel, asked: Asked, axes: Axes, out: Path) -> dict[str, Any]:
    from masactrl.studies.sweep_plan import check_axes, generated_calls, planned_calls
    from masactrl.studies.sweep_result import sweep_names

    request, inversion = asked.request, asked.inversion_steps(model)
    if isinstance(request, GenerateRequest):
        settings = request.resolve(model.preset)
        steps = settings.steps
        axes = axes.filled(settings.start_step, settings.start_layer)
        check_axes(model.denoiser, axes, steps)
        calls = generated_calls(steps, axes)
    else:
        steps, usual = inversion, request.resolve(model.preset, inversion)
        ask = partial(asked.plan, model)
        calls = planned_calls(ask, request, axes, preset=model.preset, steps=steps)
        axes = axes.filled(usual.start_step, usual.start_layer)
    return {
        "model": model.name,
        "start_step": list(axes.start_steps),
        "start_layer": list(axes.start_layers),
        "cells": len(axes.cells()),
        "targets": asked.targets,
        "steps": steps,
        "steps_in_all": inversion + calls,
        "folder": str(out),
        "pictures": [f"{name}.png" for name in sweep_names(asked.targets, axes)],
    }


def run_sweeps(model: LoadedModel, runs: Sequence[SweepRun], axes: Axes, written: Output) -> None:
    """Make every grid and keep it, then the figure of all where there are several.

    Raises:
        typer.Exit: somebody interrupted; it says so.
    """
    made: list[tuple[Mapping[str, Any], SweepResult]] = []
    told: list[dict[str, Any]] = []
    for run in runs:
        result, stopped = _run(model, run.asked, axes)
        paths = result.save(run.out, overwrite=written.overwrite, metadata=written.metadata)
        made.append((run.values, result))
        told.append(_told(result, paths, as_json=written.as_json) | dict(run.values))
        if stopped:
            break
    whole = len(made) == len(runs) and all(result.whole for _, result in made)
    figure: str | None = None
    if len(runs) > 1 and whole:
        from masactrl.studies.sweep_grids import grids_figure

        figure = str(grids_figure(made).save(runs[0].out.parent / SWEEP)[0])
    if written.as_json:
        several = {"grids": told, "figure": figure}
        typer.echo(json.dumps(several if len(runs) > 1 else told[0], indent=2))
    elif figure is not None:
        output().print(figure, highlight=False, soft_wrap=True, markup=False)
    if stopped:
        done = sum(len(result.targets[0].cells) for _, result in made)
        missing = "" if whole else "; there is no figure"
        cells = len(runs) * len(made[0][1].axes.cells())
        interrupted(f"{done} of {cells} cells are done{missing}")


def _run(model: LoadedModel, asked: Asked, axes: Axes) -> tuple[SweepResult, bool]:
    """Make the source and all cells, or as many as there are when somebody interrupts.

    Also says whether somebody did.
    """
    from masactrl.studies.sweep import sweep, sweep_calls

    errors = Console(stderr=True)
    with progress(errors, "Inverting", asked.inversion_steps(model)) as on_step:
        source = asked.open(model, on_step)
    title = "Denoising" if source is model else "Editing"
    total = sweep_calls(source, asked.request, axes)
    with finishing(errors) as stopping, progress(errors, title, total) as on_step:
        return sweep(source, asked.request, axes, on_step=on_step, stop=stopping), stopping()


def _told(result: SweepResult, paths: Sequence[Path], *, as_json: bool) -> dict[str, Any]:
    """Return what was made as values that JSON knows; print it for people, unless ``as_json``."""
    if not as_json:
        done = len(result.targets[0].cells)
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
    return {**result.to_json(), "figure": str(paths[0]) if result.whole else None}


def _listed(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
