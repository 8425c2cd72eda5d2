"""`masactrl info`: the recipe inside a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from masactrl.cli.console import output
from masactrl.cli.options import JsonOption
from masactrl.errors import MasaCtrlError
from masactrl.images import read_recipe


def info(
    picture: Annotated[Path, typer.Argument(help="A PNG made by masactrl.")],
    as_json: JsonOption = False,
) -> None:
    """Show how a picture was made, as it says itself."""
    recipe = read_recipe(picture)
    if recipe is None:
        raise MasaCtrlError(f"{picture} carries no recipe of masactrl.")
    if as_json:
        typer.echo(json.dumps(recipe, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _flat(recipe):
        table.add_row(Text(_plain(name), style="bold"), Text(_plain(value)))
    output().print(table)


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
            lines += [(f"{prefix}{name}", str(one)) for one in value]
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines
