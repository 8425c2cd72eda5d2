"""`masactrl layout`: a picture that says where things go, made from a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from masactrl.cli.console import output, quiet_libraries
from masactrl.errors import ConfigError, OutputError


def layout(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="What is made: edges, depth or pose (a person's).")
    ],
    picture: Annotated[
        Path, typer.Argument(metavar="PICTURE", help="From which, or a folder of them.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PATH", help="The PNG, or a folder of them.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A folder or Hub id of a depth model or a ViTPose of transformers.",
            show_default="a small one of the Hub, which is said",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace pictures that are there already.")
    ] = False,
) -> None:
    """Make a layout from a picture, for --layout; from a folder of frames, for animate --poses.

    Edges need the extra layout; depth and pose a model, which is downloaded from the Hub once.

    Example: masactrl layout depth room.png -o depth.png
    """
    pairs = _pairs(picture, out, overwrite=overwrite)
    with quiet_libraries():
        from masactrl.layouts.making import downloads, make_layout
        from masactrl.pictures.images import save_png
        from masactrl.pictures.input import read_picture

        note = downloads(kind, model)
        if note is not None:
            errors = Console(stderr=True)
            errors.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)
        for source, made in pairs:
            save_png(made, make_layout(kind, read_picture(source), model))
            output().print(str(made), highlight=False, soft_wrap=True, markup=False)


def _pairs(picture: Path, out: Path, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """Each picture and where its layout goes; refuses what cannot be, before minutes are spent."""
    if picture.is_dir():
        files = sorted(one for one in picture.iterdir() if one.is_file())
        if not files:
            raise ConfigError(f"{picture} holds no pictures.")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out} cannot be made: {error.strerror or error}.") from error
        pairs = [(one, out / f"{one.stem}.png") for one in files]
    else:
        pairs = [(picture, out)]
    for _, made in pairs:
        if made.exists() and not overwrite:
            raise OutputError(f"{made} is there already; choose another name or --overwrite.")
    return pairs
