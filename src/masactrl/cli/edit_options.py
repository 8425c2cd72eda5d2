"""Options that only `masactrl edit` has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from masactrl.cli.output import OUTPUT
from masactrl.settings.shared import INVERSION

JUDGES = "Choosing S and L"
"""Heading of --help."""


PictureArgument = Annotated[
    Path, typer.Argument(metavar="PICTURE", help="The picture: PNG, JPEG and the like.")
]
PixelOption = Annotated[
    int | None,
    typer.Option(
        "--pixel-limit",
        help="Refuse pictures of more pixels, 1 to 178 million.",
        show_default="64 million",
    ),
]

# How the source is inverted and kept.

SessionOption = Annotated[
    Path | None,
    typer.Option(
        "--session",
        metavar="FILE",
        help="A .safetensors that keeps the inversion: read when it is there, else written.",
        show_default="none",
        rich_help_panel=INVERSION,
    ),
]

# Who chooses S and L.

AutoOption = Annotated[
    bool,
    typer.Option(
        "--auto",
        help="Try a small grid of S and L, and take what is judged best.",
        rich_help_panel=JUDGES,
    ),
]
JudgeClipOption = Annotated[
    str | None,
    typer.Option(
        "--judge-clip",
        metavar="MODEL",
        help="Hub id or folder of the CLIP that judges prompts; the embedded model has its own "
        "judge.",
        show_default="openai/clip-vit-large-patch14",
        rich_help_panel=JUDGES,
    ),
]
JudgeDinoOption = Annotated[
    str | None,
    typer.Option(
        "--judge-dino",
        metavar="MODEL",
        help="The same of the DINO that judges subjects.",
        show_default="facebook/dinov2-small",
        rich_help_panel=JUDGES,
    ),
]
EditPlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        "--dry-run",
        help="Say what the edit will cost in steps and memory; stop.",
        rich_help_panel=OUTPUT,
    ),
]
