"""`masactrl info`: the recipe inside a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from masactrl.cli.console import output, said
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.output import Output
from masactrl.runs.recipe import Recipe, find_recipe


@takes(only(Output, "as_json"))
def info(
    given: Given,
    picture: Annotated[
        Path,
        typer.Argument(
            metavar="PICTURE", help="A PNG made by masactrl, or the .json file beside a sheet."
        ),
    ],
    cli: Annotated[
        bool, typer.Option("--cli", help="Print the command that makes the picture again.")
    ] = False,
) -> None:
    """Show how a picture was made, as it says itself.

    Nothing in it is run, and no path is looked for.

    Example: masactrl info out/sheet.png --cli
    """
    values, as_json = find_recipe(picture), given.build(Output).as_json
    if cli:
        _command(Recipe.parse(values), as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(values, indent=2))
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in _flat(values):
            table.add_row(Text(_plain(name), style="bold"), Text(_plain(value)))
        output().print(table)


def _command(recipe: Recipe, *, as_json: bool) -> None:
    from masactrl.rerun.kinds import command_line

    line = command_line(recipe)
    typer.echo(json.dumps({"command": line}, indent=2) if as_json else line)
    errors = Console(stderr=True)
    for name in local_names(recipe):
        said(errors, "Note", f"The recipe names {_plain(name)} but not where it is; give its path.")


def local_names(recipe: Recipe) -> tuple[str, ...]:
    """Return what the recipe names that only its owner can point at: models, LoRAs, inputs."""
    stated = recipe.model
    named = [stated.name] if stated.kind in ("folder", "file", "object") else []
    named += [one.name for one in stated.loras]
    return (*named, *(one.name for one in recipe.inputs))


def _plain(text: str) -> str:
    """Return the text without control characters: a recipe may come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _flat(recipe: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as lines, each with its dotted name."""
    lines: list[tuple[str, str]] = []
    for name, value in recipe.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for one in value:
                nested = isinstance(one, dict)
                lines += (
                    _flat(one, f"{prefix}{name}.") if nested else [(f"{prefix}{name}", str(one))]
                )
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines
