"""What `masactrl edit` does once its words are understood: session file, run and report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from masactrl.cli.console import output, progress
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from masactrl.edit import EditRequest, EditResult, EditSession, InversionRequest
    from masactrl.editing import EditPlan
    from masactrl.models import LoadedModel


def run_edit(
    model: LoadedModel,
    picture: tuple[Path, Image],
    asked: InversionRequest,
    request: EditRequest,
    cost: EditPlan,
    file: Path | None,
    limit: int,
) -> EditResult:
    """Invert the picture (its file, and what it shows), or read the inversion, and edit."""
    from masactrl.edit import invert, load_session

    path, opened = picture
    found: EditSession | None = None
    if file is not None and file.exists():
        found = load_session(file, model)
        _check_same(file, found, opened, asked)
    steps = request.resolve(model.preset, asked.steps or model.preset.steps).steps
    total = cost.calls + (steps if found is None else 0)
    with progress(Console(stderr=True), "Denoising", total) as on_step:
        if found is None:
            found = invert(model, path, asked, limit=limit, on_step=on_step)
            if file is not None:
                found.save(file)
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


def show_plan(cost: EditPlan, *, as_json: bool) -> None:
    """Print what an edit will cost."""
    if as_json:
        typer.echo(json.dumps(asdict(cost), indent=2))
        return
    for line in cost.lines():
        output().print(line, highlight=False, soft_wrap=True)


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


def report(result: EditResult, paths: Sequence[Path]) -> None:
    """Print how the pictures were made, and where they are."""
    console = output()
    made, quality = result.request, result.quality
    width, height = result.picture.size
    console.print(
        f"{result.model} on {result.device} ({result.dtype}): {width}x{height}, "
        f"{result.inversion.method} inversion, {made.steps} steps, guidance "
        f"{made.guidance_scale:g}, S={made.start_step}, L={made.start_layer}, "
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
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
