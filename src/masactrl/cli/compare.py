"""`masactrl compare`: one source, one target prompt, one column a method."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import output, progress, quiet_libraries
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import (
    OF_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LoraOption,
    ModelOption,
    NoMetadataOption,
    Offload,
    OffloadOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    RevisionOption,
    SizeOption,
    parse_options,
    parse_size,
)
from masactrl.compare import (
    COMPARED,
    COMPARISON,
    Comparison,
    compare_generated,
    comparison_recipe,
)
from masactrl.request import GenerateRequest
from masactrl.result import prepare_folder, write_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence


def compare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What the source shows.")],
    to: Annotated[str, typer.Option("--to", metavar="PROMPT", help="What the target shows.")],
    out: OutOption = Path("out"),
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help=f"A method to compare; repeat for more. All are: {', '.join(COMPARED)}, "
            "style-aligned.",
            show_default=", ".join(COMPARED),
        ),
    ] = None,
    method_option: Annotated[
        list[str] | None,
        typer.Option(
            "--method-option",
            metavar="METHOD.NAME=VALUE",
            help="An option of one method, such as sdedit.strength=0.5; repeat for more.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the start noise, 0 to 2**63 - 1.")] = 0,
    model: ModelOption = "puppets",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, 1 to 1000.", show_default=OF_MODEL)
    ] = None,
    cfg: Annotated[
        float | None, typer.Option(help="Guidance scale, 1 and more.", show_default=OF_MODEL)
    ] = None,
    start_step: Annotated[
        int | None,
        typer.Option(
            help="S of masactrl, the first controlled step: 0 (noisiest) to steps - 1.",
            show_default=OF_MODEL,
        ),
    ] = None,
    start_layer: Annotated[
        int | None,
        typer.Option(
            help="L of masactrl, the first controlled self-attention layer.",
            show_default=OF_MODEL,
        ),
    ] = None,
    negative: Annotated[
        str, typer.Option(metavar="PROMPT", help="What no picture should show.")
    ] = "",
    size: SizeOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    offload: OffloadOption = Offload.NONE,
    allow_pickle: PickleOption = False,
    config: ConfigOption = None,
    no_metadata: NoMetadataOption = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Show what every method makes of the same source, side by side, with figures and seconds.

    Figures are read by the embedded inspector, so only with the embedded model.

    Example: masactrl compare "a cat standing in the meadow" --to "a cat running in the meadow"
    """
    del config  # was read before the other options
    width, height = (None, None) if size is None else parse_size(size)
    names = tuple(method or COMPARED)
    options = _by_method(method_option or ())
    request = GenerateRequest(
        source_prompt=source,
        target_prompts=(to,),
        seed=seed,
        steps=steps,
        guidance_scale=cfg,
        negative_prompt=negative,
        start_step=start_step,
        start_layer=start_layer,
        height=height,
        width=width,
    )
    for name in names:  # before the model is loaded
        GenerateRequest(source_prompt=source, target_prompts=(to,), method=name)
    prepare_folder(out, [COMPARISON, "source", "fixed-seed", *names], overwrite=overwrite)
    with quiet_libraries():
        from masactrl.models import Lora, load_pipeline

        loaded = load_pipeline(
            model,
            device=device,
            dtype=dtype.value,
            revision=revision,
            loras=[Lora.parse(one) for one in lora or ()],
            offload=offload.value,
            allow_pickle=allow_pickle,
        )
        total = request.resolve(loaded.preset).steps * len(names)
        with progress(Console(stderr=True), "Denoising", total) as on_step:
            result = compare_generated(
                loaded, request, methods=names, options=options, on_step=on_step
            )
    recipe = comparison_recipe(loaded, request, methods=names, options=options)
    pictures = {COMPARISON: result.to_sheet(), **{one.method: one.image for one in result.columns}}
    paths = write_pictures(out, pictures, None if no_metadata else recipe)
    if as_json:
        typer.echo(json.dumps(_described(result, paths), indent=2))
    else:
        _report(result, paths[0])


def _by_method(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options written METHOD.NAME=VALUE."""
    options: dict[str, dict[str, Any]] = {}
    for name, value in parse_options(words).items():
        method, dot, field = name.partition(".")
        if not dot or not field:
            raise typer.BadParameter(
                f"{name!r} names no method; write METHOD.NAME=VALUE, like sdedit.strength=0.5."
            )
        options.setdefault(method.replace("_", "-"), {})[field] = value
    return options


def _described(result: Comparison, paths: Sequence[Path]) -> dict[str, Any]:
    """The comparison as values that JSON knows."""
    return {
        "source_prompt": result.source_prompt,
        "target_prompt": result.target_prompt,
        "sheet": str(paths[0]),
        "columns": [
            {
                "method": column.method,
                "picture": str(path),
                "seconds": None if column.seconds is None else round(column.seconds, 3),
                "figures": None if column.figures is None else asdict(column.figures),
            }
            for column, path in zip(result.columns, paths[1:], strict=True)
        ],
    }


def _report(result: Comparison, sheet: Path) -> None:
    table = Table(title=f"{result.source_prompt} -> {result.target_prompt}")
    table.add_column("method")
    table.add_column("the inspector sees")
    for heading in ("identity error", "background dB", "seconds"):
        table.add_column(heading, justify="right")
    for column in result.columns:
        figures = column.figures
        table.add_row(
            column.title,
            "-" if figures is None else figures.seen,
            "-" if figures is None else f"{figures.identity_error:.1f}",
            "-" if figures is None else f"{figures.background:.1f}",
            "-" if column.seconds is None else f"{column.seconds:.1f}",
        )
    console = output()
    console.print(table)
    console.print(
        "Identity error: coat and pattern against the source, 0 is the same animal. Seconds are "
        "those of one target together with its source and the picture without control.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(str(sheet), highlight=False, soft_wrap=True, markup=False)
