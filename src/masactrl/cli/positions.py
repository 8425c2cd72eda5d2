"""`masactrl bench positions`: which layers of a model depend on position, to choose layers by."""

from __future__ import annotations

from typing import Annotated

import typer

from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.result import prepare_folder


@takes(
    only(ModelSpec, "model", "revision", "loras", "device", "dtype", "offload"),
    only(Output, "out", "overwrite"),
)
def positions(
    given: Given,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT...", help="A picture is made of each.")
    ],
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 8,
    count: Annotated[
        int, typer.Option("--layers", min=1, help="How many layers are chosen, 1 and more.")
    ] = 13,
    size: Annotated[
        int | None,
        typer.Option(
            min=16, help="Height and width in pixels, 16 and more.", show_default="the model's"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first picture; the next has one more.")
    ] = 0,
) -> None:
    """Measure how much every layer's output depends on where tokens stand (FLUX).

    Layers that depend least are those in which a target reads its source without being pulled to
    its pose. Prints a table, and writes the figures and positions.json.

    Example: masactrl bench positions "a cat" "a red car" --model black-forest-labs/FLUX.1-dev
    """
    written = given.build(Output)
    with quiet_libraries():
        from masactrl.bench.positions import measure_positions

        prepare_folder(written.out, ("positions",), overwrite=written.overwrite)
        loaded = given.build(ModelSpec).load()
        report = measure_positions(
            loaded.pipeline, prompts, steps=steps, count=count, height=size, width=size, seed=seed
        )
        paths = report.save(written.out)
    output().print(report.table(), highlight=False, markup=False)
    chosen = ", ".join(map(str, report.chosen))
    output().print(f"\nSchedule(layers=({chosen}))", highlight=False, markup=False)
    for path in paths:
        output().print(str(path), highlight=False, soft_wrap=True, markup=False)
