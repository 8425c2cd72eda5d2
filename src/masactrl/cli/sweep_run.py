"""What `masactrl sweep` does once its words are understood: run and report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from masactrl.cli.console import finishing, interrupted, output, progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from masactrl.edit import EditRequest, InversionRequest
    from masactrl.models import LoadedModel
    from masactrl.request import GenerateRequest
    from masactrl.sweep import Axes, SweepResult


def run_sweep(
    model: LoadedModel,
    asked: GenerateRequest | tuple[Path, InversionRequest, EditRequest],
    axes: Axes,
) -> SweepResult:
    """Make the source and all cells, or as many as there are when somebody interrupts."""
    from masactrl.edit import invert
    from masactrl.sweep import sweep_calls, sweep_edit, sweep_generate

    errors = Console(stderr=True)
    if not isinstance(asked, tuple):
        runs = 2 + max(1, len(axes.start_steps)) * max(1, len(axes.start_layers))
        total = asked.resolve(model.preset).steps * runs
        with finishing(errors) as stopping, progress(errors, "Denoising", total) as on_step:
            return sweep_generate(model, asked, axes, on_step=on_step, stop=stopping)
    picture, inversion, request = asked
    with progress(errors, "Inverting", inversion.steps or model.preset.steps) as on_step:
        session = invert(model, picture, inversion, on_step=on_step)
    total = sweep_calls(session, request, axes)
    with finishing(errors) as stopping, progress(errors, "Editing", total) as on_step:
        return sweep_edit(session, request, axes, on_step=on_step, stop=stopping)


def tell_sweep(result: SweepResult, paths: Sequence[Path], *, as_json: bool) -> None:
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
    if not result.whole:
        interrupted(f"{done} of {cells} cells are done; there is no figure")


def _listed(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
