"""`masactrl puppets`: the embedded model's own workshop.

Import torch and what needs it inside the commands, so that `masactrl --help` stays quick.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from masactrl.cli.console import quiet_libraries
from masactrl.cli.measure import SeedOption, measure, save_picture

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(
    help="The embedded model: its world, its training, its measurements.", no_args_is_help=True
)


class Stage(StrEnum):
    """Choices of --stage, in the order in which they run."""

    PICTURES = "pictures"
    VAE = "vae"
    DECODER = "decoder"
    INSPECTOR = "inspector"
    DIFFUSION = "diffusion"
    CONTROLNET = "controlnet"
    ADAPTER = "adapter"
    LCM = "lcm"


class Family(StrEnum):
    """Choices of --family."""

    SD = "sd"
    SD3 = "sd3"


@app.command()
def world(
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The PNG to write.")
    ] = Path("world.png"),
    columns: Annotated[int, typer.Option(min=1, max=32, help="Pictures in a row.")] = 8,
    rows: Annotated[int, typer.Option(min=1, max=32, help="Rows.")] = 6,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of a picture, pixels.")] = 256,
    seed: SeedOption = 1_000_000,
) -> None:
    """Render scenes of the puppet world (no model involved): what the embedded model has learned.

    Seeds from 1000000 on were never trained on.

    Example: masactrl puppets world --columns 6 --rows 4 -o world.png
    """
    with quiet_libraries():
        from masactrl.pictures.images import Tile, contact_sheet, tensor_to_images
        from masactrl.puppets.renderer import render
        from masactrl.puppets.scene import sample_scenes

        pictures = tensor_to_images(
            render(sample_scenes(columns * rows, seed=seed), size).image, signed=False
        )
        tiles = [Tile(image=picture) for picture in pictures]
    save_picture(
        out, contact_sheet([tiles[k : k + columns] for k in range(0, len(tiles), columns)])
    )


@app.command()
def train(
    directory: Annotated[
        Path, typer.Option(help="Pictures, checkpoints, logs and the trained model.")
    ],
    minutes: Annotated[
        float,
        typer.Option(help="Minutes for all training stages; more of them continue a finished run."),
    ] = 120.0,
    stage: Annotated[
        list[Stage] | None,
        typer.Option(help="Run this stage only; repeatable.", show_default="all"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=64, help="Training pictures to render.")] = 40_000,
    size: Annotated[int, typer.Option(min=64, help="Side in pixels, a multiple of 64.")] = 256,
    posed: Annotated[
        int,
        typer.Option(
            min=64,
            help="Further pictures to render, in poses that no words can say: for the inspector, "
            "the ControlNet and the adapter.",
        ),
    ] = 20_000,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Pictures per step of the U-Net and what is trained beside it."),
    ] = 32,
    pixel_batch: Annotated[
        int, typer.Option(min=1, help="Pictures per step of decoder and inspector.")
    ] = 16,
    learning_rate: Annotated[float, typer.Option(help="Highest rate of the U-Net.")] = 1e-3,
    ema_decay: Annotated[
        float, typer.Option(help="Of the averaged weights; less for a short run.")
    ] = 0.998,
    lowest: Annotated[
        int,
        typer.Option(
            min=0, max=999, help="Noise seven pictures in eight at this timestep or above."
        ),
    ] = 0,
    offset_noise: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Deviation of noise that a whole channel shares.",
            show_default="0.1; sd3: 0",
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option(help="Draw the denoiser's middle to what the inspector sees.")
    ] = True,
    family: Annotated[
        Family,
        typer.Option(
            help="sd: a U-Net as in Stable Diffusion 1.x; sd3: the transformer of Stable Diffusion "
            "3 with flow matching, in the stages pictures and diffusion."
        ),
    ] = Family.SD,
    workers: Annotated[int, typer.Option(min=1, help="Processes that render.")] = 1,
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
    """Train the embedded model: pictures, autoencoder, its decoder, inspector, text and U-Net.

    Beside it a ControlNet (skeletons), a T2I-Adapter (edges; needs the extra layout) and a LoRA for
    few steps (lcm; needs the extra lora).

    An interrupted run goes on where its last checkpoint was (every five minutes) when the same
    command is given again.

    Example: masactrl puppets train --directory runs/puppets --minutes 180
    """
    errors = Console(stderr=True)

    def show(stage: str, record: Mapping[str, float]) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in record.items())
        errors.print(f"{stage:<9}  {figures}", highlight=False, soft_wrap=True)

    with quiet_libraries():
        from masactrl.puppets.training.recipe import STAGES, Recipe, train_puppets

        recipe = Recipe(
            directory=directory,
            minutes=minutes,
            stages=STAGES if not stage else tuple(s.value for s in Stage if s in stage),
            pictures=pictures,
            size=size,
            posed=posed,
            batch=batch,
            pixel_batch=pixel_batch,
            learning_rate=learning_rate,
            ema_decay=ema_decay,
            lowest=lowest,
            offset_noise=offset_noise,
            align=align,
            family=family.value,
            workers=workers,
            seed=seed,
            device=device,
            stop_after=stop_after,
            start_from=start_from,
        )
        model = train_puppets(recipe, on_record=show)
    typer.echo(str(model))


app.command()(measure)
