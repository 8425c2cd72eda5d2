"""`masactrl puppets`: the embedded model's own workshop.

Import torch and what needs it inside the commands, so that `masactrl --help` stays quick.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.options import DeviceOption, JsonOption, ModelOption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL import Image

    from masactrl.puppets.measured import EditSide

app = typer.Typer(
    help="The embedded model: its world, its training, its measurements.", no_args_is_help=True
)


class Stage(StrEnum):
    """Choices of --stage, in the order in which they run."""

    PICTURES = "pictures"
    VAE = "vae"
    INSPECTOR = "inspector"
    DIFFUSION = "diffusion"


class What(StrEnum):
    """What `measure` measures."""

    PROMPTS = "prompts"
    EDITS = "edits"
    GRID = "grid"


SeedOption = Annotated[int, typer.Option(help="Seed, 0 or more; the same seed, the same result.")]
StepsOption = Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")]
CountOption = Annotated[int, typer.Option(min=1, help="Pictures, or pairs of pictures.")]


@app.command()
def world(
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG to write.")] = Path("world.png"),
    columns: Annotated[int, typer.Option(min=1, max=32, help="Pictures in a row.")] = 8,
    rows: Annotated[int, typer.Option(min=1, max=32, help="Rows.")] = 6,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of a picture, pixels.")] = 128,
    seed: SeedOption = 1_000_000,
) -> None:
    """Render scenes of the puppet world (no model involved): what the embedded model has learned.

    Seeds from 1000000 on were never trained on.
    """
    with quiet_libraries():
        from masactrl.images import Tile, contact_sheet, tensor_to_images
        from masactrl.puppets.renderer import render
        from masactrl.puppets.scene import sample_scenes

        pictures = tensor_to_images(
            render(sample_scenes(columns * rows, seed=seed), size).image, signed=False
        )
        tiles = [Tile(image=picture) for picture in pictures]
    _save(out, contact_sheet([tiles[k : k + columns] for k in range(0, len(tiles), columns)]))


@app.command()
def train(
    directory: Annotated[
        Path, typer.Option(help="Pictures, checkpoints, logs and the trained model.")
    ],
    minutes: Annotated[
        float,
        typer.Option(help="Time of all training stages together; more continues a finished run."),
    ] = 120.0,
    stage: Annotated[
        list[Stage] | None,
        typer.Option(help="Run this stage only; repeatable.", show_default="all"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=64, help="Training pictures to render.")] = 40_000,
    size: Annotated[int, typer.Option(min=64, help="Side in pixels, a multiple of 64.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per step of the U-Net.")] = 32,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    stop_after: Annotated[
        float | None,
        typer.Option(
            help="Stop this session of the U-Net's training after so many minutes; the same "
            "command goes on from there.",
            show_default="never",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained model to begin with.", show_default="from scratch"),
    ] = None,
) -> None:
    """Train the embedded model: pictures, autoencoder, inspector, text encoder with U-Net.

    An interrupted run goes on where its last checkpoint was (every five minutes) when the same
    command is given again.

    Example: masactrl puppets train --directory runs/puppets --minutes 180
    """
    errors = Console(stderr=True)

    def show(stage: str, record: Mapping[str, float]) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in record.items())
        errors.print(f"{stage:<9}  {figures}", highlight=False, soft_wrap=True)

    with quiet_libraries():
        from masactrl.puppets.recipe import STAGES, Recipe, train_puppets

        recipe = Recipe(
            directory=directory,
            minutes=minutes,
            stages=STAGES if not stage else tuple(s.value for s in Stage if s in stage),
            pictures=pictures,
            size=size,
            batch=batch,
            seed=seed,
            device=device,
            stop_after=stop_after,
            start_from=start_from,
        )
        model = train_puppets(recipe, on_record=show)
    typer.echo(str(model))


@app.command()
def measure(
    what: Annotated[
        What,
        typer.Argument(
            help="prompts: does a picture show what its prompt says; edits: does control keep the "
            "animal and let it act; grid: edits for every S and L."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for table and pictures.")],
    model: ModelOption = "puppets",
    count: CountOption = 200,
    steps: StepsOption = 50,
    cfg: Annotated[
        float | None,
        typer.Option(min=1, help="Guidance scale; 1 is off.", show_default="the model's"),
    ] = None,
    start_step: Annotated[
        list[int] | None,
        typer.Option(help="S; repeat it for the grid.", show_default="the model's"),
    ] = None,
    start_layer: Annotated[
        list[int] | None,
        typer.Option(help="L; repeat it for the grid.", show_default="the model's"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures made at once.")] = 24,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a model of the puppet world with the inspector as judge.

    Example: masactrl puppets measure edits --count 50 -o measured
    """
    from masactrl.result import prepare_folder

    prepare_folder(out, [what.value], overwrite=True)
    with quiet_libraries():
        from masactrl.models import load_pipeline
        from masactrl.puppets import figures
        from masactrl.puppets.inspector import Inspector
        from masactrl.puppets.measure import measure_edits, measure_grid, measure_prompts

        loaded = load_pipeline(model, device=device)
        inspector = Inspector.load()
        preset = loaded.preset
        told = _progress(what.value)
        guidance = preset.guidance_scale if cfg is None else cfg
        s, layers = start_step or [preset.start_step], start_layer or [preset.start_layer]
        rows: dict[str, Mapping[str, float]]
        if what is What.PROMPTS:
            agreement = measure_prompts(
                loaded.pipeline,
                inspector,
                count=count,
                steps=steps,
                guidance=guidance,
                batch=batch,
                seed=seed,
                on_progress=told,
            )
            rows = {"share right": agreement.shares}
            sheet = figures.prompt_sheet(agreement)
        elif what is What.EDITS:
            edits = measure_edits(
                loaded.pipeline,
                inspector,
                start_step=s[0],
                start_layer=layers[0],
                pairs=count,
                steps=steps,
                guidance=guidance,
                batch=batch,
                seed=seed,
                on_progress=told,
            )
            rows = {"no control": _row(edits.uncontrolled), "MasaCtrl": _row(edits.controlled)}
            sheet = figures.edit_sheet(edits)
        else:
            grid = measure_grid(
                loaded.pipeline,
                inspector,
                start_steps=s,
                start_layers=layers,
                pairs=count,
                steps=steps,
                guidance=guidance,
                batch=batch,
                seed=seed,
                on_progress=told,
            )
            rows = {
                f"S={step} L={layer}": _row(side)
                for step, row in zip(grid.start_steps, grid.cells, strict=True)
                for layer, side in zip(grid.start_layers, row, strict=True)
            } | {"no control": _row(grid.uncontrolled)}
            sheet = figures.draw_grid(grid)
    _save(out / f"{what.value}.png", sheet)
    text = json.dumps(
        {"model": loaded.name, "count": count, "steps": steps, "guidance": guidance, "rows": rows},
        indent=2,
    )
    (out / f"{what.value}.json").write_text(text + "\n")
    typer.echo(text) if as_json else _table(rows)


def _progress(label: str) -> Callable[[int, int], None]:
    """Progress on standard error, a line at each tenth."""
    errors = Console(stderr=True)
    said = -1

    def told(done: int, total: int) -> None:
        nonlocal said
        if (tenth := 10 * done // total) > said:
            said = tenth
            errors.print(f"{label}: {done} of {total}", highlight=False)

    return told


def _row(side: EditSide) -> dict[str, float]:
    return {"identity error": side.identity_error, **asdict(side)}


def _table(rows: Mapping[str, Mapping[str, float]]) -> None:
    table = Table()
    table.add_column("")
    for name in next(iter(rows.values())):
        table.add_column(name, justify="right")
    for label, row in rows.items():
        table.add_row(label, *(f"{value:.3g}" for value in row.values()))
    output().print(table)


def _save(path: Path, picture: Image.Image) -> None:
    from masactrl.images import save_png

    save_png(path, picture, None)
    typer.echo(str(path))
