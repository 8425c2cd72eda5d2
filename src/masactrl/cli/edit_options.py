"""Options that only `masactrl edit` has."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from masactrl.cli.options import CONTROL, OUTPUT, SCALES, SEEDS

INVERSION, MASKS, JUDGES = "Inversion", "Masks", "Choosing S and L"
"""Headings of --help."""


class Mode(StrEnum):
    """Choices of --mode; the words are those of `masactrl.runs.edit_request.Mode`."""

    CACHED = "cached"
    JOINT = "joint"


class Keep(StrEnum):
    """Choices of --keep; the words are those of `masactrl.runs.edit_request.Keep`."""

    DEVICE = "device"
    MEMORY = "memory"
    DISK = "disk"


class Fit(StrEnum):
    """Choices of --fit; the words are those of `masactrl.pictures.input.Fit`."""

    AUTO = "auto"
    KEEP = "keep"


PictureArgument = Annotated[
    Path, typer.Argument(metavar="PICTURE", help="The picture: PNG, JPEG and the like.")
]
TargetNegativeOption = Annotated[
    str | None,
    typer.Option(
        "--negative",
        metavar="PROMPT",
        help="What no target should show.",
        show_default="the inversion's",
    ),
]
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare/--no-compare", help="Make every target without control, too.", show_default=True
    ),
]
FitOption = Annotated[
    Fit,
    typer.Option(
        "--fit",
        help="Scale a picture that has less than half or more than twice the model's pixels "
        "(auto), or never (keep).",
    ),
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

SourceCfgOption = Annotated[
    float | None,
    typer.Option(
        "--source-cfg",
        help=f"Guidance scale of the source, {SCALES}.",
        show_default="1; null-text: the model's",
        rich_help_panel=INVERSION,
    ),
]
ReplayOption = Annotated[
    bool | None,
    typer.Option(
        "--replay/--no-replay",
        help="Put the source back on its way at every step.",
        show_default="the inversion's",
        rich_help_panel=INVERSION,
    ),
]
DrawnSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Of what edit-friendly, virtual, --fresh-steps and the methods sdedit, "
        "blended-latent and imagic draw; " + SEEDS + ".",
        show_default="0",
        rich_help_panel=INVERSION,
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(
        "--iterations",
        help="Rounds per step of fixed-point, inner steps of null-text; 1 and more.",
        show_default="5; null-text: 10",
        rich_help_panel=INVERSION,
    ),
]
FreshOption = Annotated[
    int | None,
    typer.Option(
        "--fresh-steps",
        help="How many of the cleanest noise levels direct and ddim reach by adding noise, 0 to "
        "steps.",
        show_default="0",
        rich_help_panel=INVERSION,
    ),
]
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
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        help="Record the source once (cached), or run it with each edit (joint).",
        rich_help_panel=CONTROL,
    ),
]
KeepOption = Annotated[
    Keep,
    typer.Option(
        "--keep",
        help="Where a recorded source is kept: beside the model (device), in the host's memory, in "
        "files (disk).",
        rich_help_panel=CONTROL,
    ),
]

# Which part of the picture is the subject.

MaskFileOption = Annotated[
    Path | None,
    typer.Option(
        "--mask-file",
        metavar="FILE",
        help="White where the subject of the picture is; subject and background are kept apart.",
        show_default="none",
        rich_help_panel=MASKS,
    ),
]
TargetMaskFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--target-mask-file",
        metavar="FILE",
        help="The same for the targets: one for all, or one each.",
        show_default="that of the picture",
        rich_help_panel=MASKS,
    ),
]
MaskWordOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mask-word",
        metavar="WORD",
        help="The subject as the target prompts name it, in place of files: one for all, or one "
        "each.",
        show_default="none",
        rich_help_panel=MASKS,
    ),
]
SourceMaskWordOption = Annotated[
    str | None,
    typer.Option(
        "--source-mask-word",
        metavar="WORD",
        help="The subject as --from names it.",
        show_default="none",
        rich_help_panel=MASKS,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--mask-threshold",
        help="Attention from which a place belongs to --mask-word; above 0, up to 1.",
        show_default="0.1",
        rich_help_panel=MASKS,
    ),
]
BackgroundOption = Annotated[
    bool,
    typer.Option(
        "--keep-background",
        help="Put the picture back outside both masks.",
        rich_help_panel=MASKS,
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
