"""`--like FILE`: start from what a picture of another tool says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from masactrl.cli.console import said
from masactrl.cli.job import defaults
from masactrl.cli.output import OUTPUT
from masactrl.pictures.parameters import Parameters, read_parameters


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Put what the picture says where the command looks for what was not given."""
    if path is None or context.resilient_parsing:
        return path
    found = read_parameters(path)
    known = {name.lstrip("-") for one in context.command.params for name in (*one.opts, one.name)}
    values = {name: value for name, value in _values(found).items() if name in known}
    # Below what a file of --config says, whichever of the two was read first.
    context.default_map = {**defaults(context, values), **(context.default_map or {})}
    for sentence in _notes(found):
        said(Console(stderr=True), "Note", sentence)
    return path


LikeOption = Annotated[
    Path | None,
    typer.Option(
        "--like",
        metavar="PICTURE",
        callback=_read,
        is_eager=True,
        help="Begin with what a picture of AUTOMATIC1111, Forge or ComfyUI says of itself: prompt "
        "(of the source), negative prompt, steps, CFG scale, seed, size, CLIP skip. What is given "
        "here wins.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]


def _values(found: Parameters) -> dict[str, Any]:
    """Option -> value, of what the picture says; `source` and `from` are the same in two verbs."""
    size = None if found.size is None else f"{found.size[0]}x{found.size[1]}"
    told = {
        "source": found.prompt or None,
        "from": found.prompt or None,
        "negative": found.negative_prompt or None if found.guidance_scale != 1 else None,
        "steps": found.steps,
        "cfg": found.guidance_scale,
        "seed": found.seed,
        "size": size,
        "clip-skip": found.clip_skip,
    }
    return {name: value for name, value in told.items() if value is not None}


def _notes(found: Parameters) -> list[str]:
    """Sentences about what the picture says and nothing here follows."""
    notes = []
    if found.model is not None or found.model_hash is not None:
        named = " ".join(filter(None, (found.model, found.model_hash and f"({found.model_hash})")))
        notes.append(f"The picture was made with the model {named}; name one with --model.")
    if found.sampler is not None:
        notes.append(
            f"Its sampler {found.sampler} is not used, nor its way to draw noise: the same seed "
            "draws another picture here."
        )
    if found.extra_networks:
        notes.append(
            f"It used {', '.join(found.extra_networks)}; add them with --lora FILE:WEIGHT."
        )
    return notes
