"""Options that several verbs have, written once so that they mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, get_args

import typer

from masactrl.runs.request import LARGEST_SIDE, MethodName

OF_MODEL = "the model's"
"""Shown as the default of what the model's preset decides."""

CONTROL, MODEL, OUTPUT = "Control", "Model and device", "Output"
"""Headings of --help, beside the command's own options."""

SEEDS = "0 to 2**63 - 1"
STEPS = "1 to 1000"
SCALES = "1 and more; 1 switches guidance off"


class Form(StrEnum):
    """Choices of --form; the words are those of `masactrl.runs.request.Form`."""

    REPLACE = "replace"
    UNION = "union"


class Inversion(StrEnum):
    """Choices of --inversion; the words are those of `masactrl.inversion.INVERSIONS`."""

    DIRECT = "direct"
    DDIM = "ddim"
    FIXED_POINT = "fixed-point"
    NEGATIVE_PROMPT = "negative-prompt"
    NULL_TEXT = "null-text"
    EDIT_FRIENDLY = "edit-friendly"
    VIRTUAL = "virtual"


class Offload(StrEnum):
    """Choices of --offload; the words are those of `masactrl.models.adapters.Offload`."""

    NONE = "none"
    MODEL = "model"
    SEQUENTIAL = "sequential"


class Dtype(StrEnum):
    """Choices of --dtype; the words are those of `masactrl.models.choose_dtype`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


# What the pictures show.

SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="What the source picture shows.")
]
ToOption = Annotated[
    list[str],
    typer.Option("--to", metavar="PROMPT", help="What a target shows; repeat for more targets."),
]
FromOption = Annotated[
    str, typer.Option("--from", metavar="PROMPT", help="What the picture shows; may be empty.")
]
NegativeOption = Annotated[
    str,
    typer.Option(
        "--negative", metavar="PROMPT", help="What no picture should show.", show_default="nothing"
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help=f"Of the start noise that all pictures share; {SEEDS}.",
        show_default="0",
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help=f"Denoising steps, {STEPS}.",
        show_default=OF_MODEL,
    ),
]
CfgOption = Annotated[
    float | None,
    typer.Option(
        "--cfg",
        help=f"Guidance scale of the prompts, {SCALES}.",
        show_default=OF_MODEL,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help=f"Width x height in pixels, multiples of 8 up to {LARGEST_SIDE}.",
        show_default=OF_MODEL,
    ),
]
InversionOption = Annotated[
    Inversion, typer.Option("--inversion", help="How the picture is traced back to noise.")
]

# Who controls the targets, and where.

StartStepOption = Annotated[
    int | None,
    typer.Option(
        "--start-step",
        help="S, the first controlled step: 0 (noisiest) to steps - 1. Earlier keeps more of the "
        "source, layout included.",
        show_default=OF_MODEL,
        rich_help_panel=CONTROL,
    ),
]
StartLayerOption = Annotated[
    int | None,
    typer.Option(
        "--start-layer",
        help="L, the first controlled self-attention layer: 0 to 15 for Stable Diffusion and the "
        "embedded model, 0 to 69 for SDXL. Lower keeps more of the source.",
        show_default=OF_MODEL,
        rich_help_panel=CONTROL,
    ),
]
FormOption = Annotated[
    Form,
    typer.Option(
        "--form",
        help="Targets read the source only (replace), or also themselves (union).",
        rich_help_panel=CONTROL,
    ),
]
StrengthOption = Annotated[
    float,
    typer.Option(
        "--strength",
        help="Of the control, 0 (none) to 1 (full).",
        rich_help_panel=CONTROL,
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help=f"Who controls the targets: {', '.join(get_args(MethodName))}. S, L, --form and "
        "--strength are masactrl's.",
        rich_help_panel=CONTROL,
    ),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--method-option",
        metavar="NAME=VALUE",
        help="An option of another method than masactrl, such as features=0.6; repeat for more.",
        show_default="none",
        rich_help_panel=CONTROL,
    ),
]

# The model, and where it runs.

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="The embedded model (puppets), a folder in diffusers format, a .safetensors file or a "
        "Hub id (owner/name).",
        rich_help_panel=MODEL,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a Hub id.",
        show_default="its main branch",
        rich_help_panel=MODEL,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="PATH:SCALE",
        help="A LoRA in a .safetensors file and its weight, such as style.safetensors:0.8; 1 where "
        "none is given; repeat for more.",
        show_default="none",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:1, mps; auto takes the fastest.",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="Precision; auto is float16 on CUDA and float32 elsewhere.",
        rich_help_panel=MODEL,
    ),
]
OffloadOption = Annotated[
    Offload,
    typer.Option(
        "--offload",
        help="On a GPU with little memory: model keeps one part of the model there at a time, "
        "sequential one layer at a time (slow).",
        rich_help_panel=MODEL,
    ),
]
PickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read pickled weights (.ckpt, .bin) too, weights only. They can carry code: only from "
        "people you trust.",
        rich_help_panel=MODEL,
    ),
]

# What is written.

OutOption = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FOLDER",
        help="Where the pictures go; made if it does not exist.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace pictures that are there already.", rich_help_panel=OUTPUT
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=1,
        help="Processes, each with a share of the cores and a copy of the model; on the CPU, one "
        "for each core or two is faster.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as JSON on standard output.", rich_help_panel=OUTPUT
    ),
]
NoMetadataOption = Annotated[
    bool,
    typer.Option(
        "--no-metadata",
        help="Write pixels only: no recipe in or beside the pictures.",
        rich_help_panel=OUTPUT,
    ),
]
PlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        "--dry-run",
        help="Say what would be made, where and in how many steps; stop.",
        rich_help_panel=OUTPUT,
    ),
]
