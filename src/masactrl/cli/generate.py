"""`masactrl generate`: a source picture and its targets, from words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from masactrl.cli.console import output, progress, quiet_libraries
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
    SizeOption,
    parse_size,
)
from masactrl.generate import generate as run
from masactrl.request import GenerateRequest
from masactrl.result import SHEET, GenerateResult, picture_names, prepare_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


def generate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What the source shows.")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="PROMPT", help="What a target shows; repeat for more targets."
        ),
    ],
    out: OutOption = Path("out"),
    seed: Annotated[
        int, typer.Option(help="Of the start noise that all pictures share; 0 to 2**63 - 1.")
    ] = 0,
    model: ModelOption = "puppets",
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, 1 to 1000.", show_default=OF_MODEL)
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale, 1 and more; 1 switches guidance off.", show_default=OF_MODEL
        ),
    ] = None,
    start_step: Annotated[
        int | None,
        typer.Option(
            help="S, the first controlled step: 0 (noisiest) to steps - 1. Earlier keeps more of "
            "the source, layout included.",
            show_default=OF_MODEL,
        ),
    ] = None,
    start_layer: Annotated[
        int | None,
        typer.Option(
            help="L, the first controlled self-attention layer: 0 to 15 for Stable Diffusion and "
            "the embedded model, 0 to 69 for SDXL. Lower keeps more of the source.",
            show_default=OF_MODEL,
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(help="Targets read the source only (replace), or also themselves (union)."),
    ] = Form.REPLACE,
    strength: Annotated[float, typer.Option(help="Of the control, 0 (none) to 1 (full).")] = 1.0,
    negative: Annotated[
        str, typer.Option(metavar="PROMPT", help="What no picture should show.")
    ] = "",
    size: SizeOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a picture, and more pictures of the same subject doing something else.

    For every target there are two pictures from the same start noise, without and with control.

    Example: masactrl generate "a cat standing in the meadow" --to "a cat running in the meadow"
    --seed 7 -o out
    """
    width, height = (None, None) if size is None else parse_size(size)
    request = GenerateRequest(
        source_prompt=source,
        target_prompts=tuple(to),
        seed=seed,
        steps=steps,
        guidance_scale=cfg,
        negative_prompt=negative,
        height=height,
        width=width,
        start_step=start_step,
        start_layer=start_layer,
        form=form.value,
        strength=strength,
    )
    # Before the model is loaded: nobody should wait for pictures that cannot be kept.
    prepare_folder(out, [*picture_names(len(to)), SHEET], overwrite=overwrite)
    with quiet_libraries():
        from masactrl.models import load_pipeline

        loaded = load_pipeline(model, device=device, dtype=dtype.value)
        total = request.resolve(loaded.preset).steps
        with progress(Console(stderr=True), "Denoising", total) as on_step:
            result = run(loaded, request, on_step=on_step)
    paths = result.save(out, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(_described(result, paths), indent=2))
    else:
        _report(result, paths)


def _described(result: GenerateResult, paths: Sequence[Path]) -> dict[str, object]:
    """Return the result as values that JSON knows."""
    return {
        "model": result.model,
        "device": result.device,
        "dtype": result.dtype,
        "seconds": round(result.seconds, 3),
        "request": asdict(result.request),
        "pictures": {path.stem: str(path) for path in paths},
        "warnings": list(result.warnings),
    }


def _report(result: GenerateResult, paths: Sequence[Path]) -> None:
    """Print how the pictures were made, and where they are."""
    console = output()
    made = result.request
    console.print(
        f"{result.model} on {result.device} ({result.dtype}): {made.width}x{made.height}, "
        f"{made.steps} steps, guidance {made.guidance_scale:g}, S={made.start_step}, "
        f"L={made.start_layer}, seed {made.seed}, {result.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    for path in paths:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
