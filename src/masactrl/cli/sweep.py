"""`masactrl sweep`: the same edit for every S and L, as one figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from masactrl.cli.console import output, progress, quiet_libraries
from masactrl.cli.edit import Method
from masactrl.cli.options import (
    OF_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    Form,
    JsonOption,
    ModelOption,
    OutOption,
    OverwriteOption,
)
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.sweep import SweepResult


def sweep(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PICTURE] AXIS=VALUES...",
            help="The picture (none with --source), and the axes: start-step and start-layer, with "
            "values like 8,10,12 or 2-8(+2).",
        ),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="PROMPT", help="What a target shows; repeat for more targets."
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT",
            help="Make the source from this prompt, in place of a picture.",
            show_default=False,
        ),
    ] = None,
    shown: Annotated[
        str | None,
        typer.Option("--from", metavar="PROMPT", help="What the picture shows; may be empty."),
    ] = None,
    inversion: Annotated[
        Method | None,
        typer.Option(help="How the picture is traced back to noise.", show_default="direct"),
    ] = None,
    out: OutOption = Path("out"),
    model: ModelOption = "puppets",
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of the noise of --source, or of inversions that draw noise; 0 to 2**63 - 1.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, 1 to 1000.", show_default=OF_MODEL)
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the targets, 1 and more.", show_default=OF_MODEL),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(help="Targets read the source only (replace), or also themselves (union)."),
    ] = Form.REPLACE,
    strength: Annotated[float, typer.Option(help="Of the control, 0 (none) to 1 (full).")] = 1.0,
    negative: Annotated[
        str | None,
        typer.Option(metavar="PROMPT", help="What no target should show.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make the same edit with every S and L, and show them as one figure.

    An axis that is left out has the model's value. The source is recorded once for all cells.

    Example: masactrl sweep photo.png --to "a photo of a running corgi" "start-step=2-8(+2)"
    start-layer=8,10,12 -o out
    """
    from masactrl.result import prepare_folder
    from masactrl.sweep_axes import parse_axes
    from masactrl.sweep_result import sweep_names

    picture, axes = _picture(words), parse_axes(_axes(words))
    if (picture is None) == (source is None):
        given = "Neither is" if source is None else "Both are"
        raise ConfigError(f"The source is a picture or --source PROMPT. {given} given; give one.")
    if source is not None and (shown is not None or inversion is not None):
        raise ConfigError("--from and --inversion belong to a picture, and --source was given.")
    with quiet_libraries():
        from masactrl.edit import EditRequest, InversionRequest
        from masactrl.generate import GenerateRequest
        from masactrl.picture_input import read_picture

        common: dict[str, Any] = {
            "target_prompts": tuple(to),
            "guidance_scale": cfg,
            "form": form.value,
            "strength": strength,
        }
        if picture is None:
            generated = GenerateRequest(
                source_prompt=source or "",
                seed=seed or 0,
                steps=steps,
                negative_prompt=negative or "",
                **common,
            )
        else:
            read_picture(picture)  # before the model is loaded
            request = EditRequest(negative_prompt=negative, **common)
            asked = InversionRequest(
                prompt=shown or "",
                method="direct" if inversion is None else inversion.value,
                steps=steps,
                seed=seed,
            )
        prepare_folder(out, sweep_names(len(to), axes), overwrite=overwrite)
        from masactrl.edit import invert
        from masactrl.models import load_pipeline
        from masactrl.sweep import sweep_calls, sweep_edit, sweep_generate

        loaded = load_pipeline(model, device=device, dtype=dtype.value)
        errors = Console(stderr=True)
        if picture is None:
            runs = 2 + max(1, len(axes.start_steps)) * max(1, len(axes.start_layers))
            total = generated.resolve(loaded.preset).steps * runs
            with progress(errors, "Denoising", total) as on_step:
                result = sweep_generate(loaded, generated, axes, on_step=on_step)
        else:
            total = asked.steps or loaded.preset.steps
            with progress(errors, "Inverting", total) as on_step:
                session = invert(loaded, picture, asked, on_step=on_step)
            with progress(errors, "Editing", sweep_calls(session, request, axes)) as on_step:
                result = sweep_edit(session, request, axes, on_step=on_step)
    paths = result.save(out, overwrite=overwrite)
    if as_json:
        told = {**result.to_json(), "figure": str(paths[0])}
        typer.echo(json.dumps(told, indent=2))
    else:
        _report(result, paths)


def _is_axis(word: str) -> bool:
    """A word with an equals sign is an axis, unless a file has this name."""
    return "=" in word and not Path(word).exists()


def _axes(words: Sequence[str]) -> list[str]:
    return [word for word in words if _is_axis(word)]


def _picture(words: Sequence[str]) -> Path | None:
    """Return the one word that is no axis."""
    pictures = [word for word in words if not _is_axis(word)]
    if len(pictures) > 1:
        raise ConfigError(
            f"{' and '.join(pictures)} are given; a sweep has one picture, and axes like "
            "start-step=2-8(+2)."
        )
    return Path(pictures[0]) if pictures else None


def _report(result: SweepResult, paths: Sequence[Path]) -> None:
    """Print what was made, and where it is."""
    recipe, axes = result.recipe, result.axes
    output().print(
        f"{recipe.model.name} on {recipe.device} ({recipe.dtype}): {len(axes.cells())} cells, "
        f"S={_listed(axes.start_steps)}, L={_listed(axes.start_layers)}, {result.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for path in paths[:2]:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)


def _listed(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
