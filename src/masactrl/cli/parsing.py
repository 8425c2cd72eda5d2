"""Values of options that are written in a few signs of their own: sizes, seeds, NAME=VALUE."""

from __future__ import annotations

import re
from pathlib import Path

import typer

MOST_SEEDS = 1000
"""More than anyone means by one command; a slip of the pen like 1-80000 is caught."""

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def parse_photo(source: str) -> Path | None:
    """Return the picture that a SOURCE names, there or not; None for a prompt."""
    path = Path(source)
    if path.suffix.lower() in _PICTURE_ENDINGS:
        return path
    try:
        return path if path.suffix and path.is_file() else None
    except OSError:  # a prompt may be longer than any path
        return None


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of a size written WIDTHxHEIGHT in pixels.

    Raises:
        typer.BadParameter: it is not written like that.
    """
    match = re.fullmatch(r"(\d+)[x\u00d7](\d+)", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no size; write width x height, like 512x768.")
    return int(match[1]), int(match[2])


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
