"""Options that several verbs have, written once so that they mean the same everywhere."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from masactrl.request import LARGEST_SIDE, MethodName

if TYPE_CHECKING:
    from collections.abc import Sequence

OF_MODEL = "the model's"
"""Shown as the default of what the model's preset decides."""


class Form(StrEnum):
    """Choices of --form; the words are those of `masactrl.request.Form`."""

    REPLACE = "replace"
    UNION = "union"


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


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of a size written WIDTHxHEIGHT in pixels.

    Raises:
        typer.BadParameter: it is not written like that.
    """
    match = re.fullmatch(r"(\d+)[x\u00d7](\d+)", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write width x height, like 512x768.")
    return int(match[1]), int(match[2])


MOST_SEEDS = 1000
"""More than anyone means by one command; a slip of the pen like 1-80000 is caught."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds written as numbers and spans between commas: 1,2,5-8.

    Raises:
        typer.BadParameter: it is not written like that, a seed is there twice, or there are more
            than `MOST_SEEDS`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise typer.BadParameter(f"{text!r} are no seeds; write numbers and spans: 1,2,5-8.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise typer.BadParameter(f"The span {part.strip()} ends before it begins.")
        if last - first + 1 + len(seeds) > MOST_SEEDS:
            raise typer.BadParameter(f"{text!r} are more than {MOST_SEEDS} seeds.")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise typer.BadParameter(f"A seed is there twice in {text!r}; name each once.")
    return tuple(seeds)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options written NAME=VALUE; values are JSON, or words where they are none.

    Raises:
        typer.BadParameter: there is no equals sign, or one name twice.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise typer.BadParameter(f"{word!r} is no option; write NAME=VALUE, like features=0.6.")
        if name in options:
            raise typer.BadParameter(f"{name} is given twice; give it once.")
        try:
            options[name] = _frozen(json.loads(value))
        except ValueError:
            options[name] = value
    return options


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


MethodOption = Annotated[
    str,
    typer.Option("--method", help=f"Who controls the targets: {', '.join(get_args(MethodName))}."),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--method-option",
        metavar="NAME=VALUE",
        help="An option of another method than masactrl, such as features=0.6; repeat for more.",
    ),
]
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
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a Hub id.",
        show_default="its main branch",
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
    ),
]
OffloadOption = Annotated[
    Offload,
    typer.Option(
        "--offload",
        help="On a GPU with little memory: model keeps one part of the model there at a time, "
        "sequential one layer at a time (slow).",
    ),
]
PickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read pickled weights (.ckpt, .bin) too, weights only. They can carry code: only from "
        "people you trust.",
    ),
]
NoMetadataOption = Annotated[
    bool,
    typer.Option("--no-metadata", help="Write pixels only: no recipe in or beside the pictures."),
]
PlanOption = Annotated[
    bool,
    typer.Option(
        "--plan", "--dry-run", help="Say what would be made, where and in how many steps; stop."
    ),
]
