"""`masactrl bench ablation`: what S, L, places and masks do, as figures; the paper's ablations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.model import load_model
from masactrl.cli.options import (
    CfgOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    FromOption,
    LoraOption,
    ModelOption,
    OutOption,
    OverwriteOption,
    SeedOption,
    StartLayerOption,
    StartStepOption,
    StepsOption,
    ToOption,
)
from masactrl.cli.parsing import parse_photo
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.models import LoadedModel
    from masactrl.runs.invert import EditRequest, InversionRequest
    from masactrl.studies.ablation import AblationResult


def ablation(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A prompt, or the file of a picture.")
    ],
    to: ToOption,
    prompt: FromOption = "",
    word: Annotated[
        str | None,
        typer.Option(
            "--mask-word",
            help="The subject, a word of --to and of the source's prompt: adds a row with and "
            "without masks.",
            show_default="no such row",
        ),
    ] = None,
    seed: SeedOption = None,
    steps: StepsOption = None,
    cfg: CfgOption = None,
    start_step: StartStepOption = None,
    start_layer: StartLayerOption = None,
    model: ModelOption = "puppets",
    lora: LoraOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    out: OutOption = Path("out"),
    overwrite: OverwriteOption = False,
) -> None:
    """Make the same edit with another starting step, starting layer, place, and with masks.

    Writes a figure a row, as PNG and SVG. S and L are those that are not varied.

    Example: masactrl bench ablation "a cat standing" --to "a cat running" --mask-word cat -o out
    """
    photo = parse_photo(source)
    if photo is None and prompt:
        raise ConfigError("--from belongs to a picture, and SOURCE is taken for a prompt.")
    if photo is not None and seed is not None:
        raise ConfigError("--seed belongs to a prompt; a picture has its noise from the inversion.")
    if len(to) != 1:
        raise ConfigError(f"An ablation has one --to and {len(to)} were given.")
    with quiet_libraries():
        from masactrl.runs.invert import EditRequest, InversionRequest
        from masactrl.runs.request import GenerateRequest
        from masactrl.runs.result import prepare_folder
        from masactrl.studies.ablation import ablate_generated, figure_names

        prepare_folder(out, figure_names(masks=word is not None), overwrite=overwrite)
        shared: dict[str, Any] = {
            "target_prompts": tuple(to),
            "guidance_scale": cfg,
            "start_step": start_step,
            "start_layer": start_layer,
        }
        make: Callable[[LoadedModel], AblationResult]
        if photo is None:
            generated = GenerateRequest(source_prompt=source, seed=seed or 0, steps=steps, **shared)
            words = None if word is None else (word, word)
            make = partial(ablate_generated, request=generated, words=words)
        else:
            inversion = InversionRequest(prompt=prompt, steps=steps)
            make = partial(_edited, photo, inversion, EditRequest(**shared), word)
        loaded = load_model(model, device=device, dtype=dtype, lora=lora)
        with _waiting():
            result = make(loaded)
        paths = result.save(out, overwrite=overwrite)
    for path in paths:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)


def _edited(
    photo: Path,
    inversion: InversionRequest,
    request: EditRequest,
    word: str | None,
    model: LoadedModel,
) -> AblationResult:
    from masactrl.runs.invert import invert
    from masactrl.studies.ablation import ablate_edited

    named = None if word is None else (word if inversion.prompt else None, word)
    return ablate_edited(invert(model, photo, inversion), request, words=named)


def _waiting() -> Progress:
    """A sign of life, on a terminal only."""
    console = Console(stderr=True)
    shown = Progress(
        SpinnerColumn(),
        TextColumn("Making every picture of the figures"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    shown.add_task("")
    return shown
