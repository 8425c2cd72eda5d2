"""Options that several verbs have, written once so that they mean the same everywhere."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from masactrl.request import LARGEST_SIDE

OF_MODEL = "the model's"
"""Shown as the default of what the model's preset decides."""


class Form(StrEnum):
    """Choices of --form; the words are those of `masactrl.request.Form`."""

    REPLACE = "replace"
    UNION = "union"


class Dtype(StrEnum):
    """Choices of --dtype; the words are those of `masactrl.models.choose_dtype`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of a size written WIDTHxHEIGHT in pixels.

    Raises:
        typer.BadParameter: it is not written like that.
    """
    match = re.fullmatch(r"(\d+)[x\u00d7](\d+)", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write width x height, like 512x768.")
    return int(match[1]), int(match[2])


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="The embedded model (puppets), a folder in diffusers format, a .safetensors file or a "
        "Hub id (owner/name).",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps; auto takes the fastest.")
]
DtypeOption = Annotated[
    Dtype,
    typer.Option("--dtype", help="Precision; auto is float16 on CUDA and float32 elsewhere."),
]
OutOption = Annotated[
    Path,
    typer.Option("-o", "--out", help="Folder for the pictures; made if it does not exist."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace pictures that are there already.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output.")
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
