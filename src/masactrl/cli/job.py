"""`--config job.toml`: options from a file. What is on the command line wins over the file.

    source = "a cat standing in the meadow"
    to = ["a cat running in the meadow", "a cat lying in the meadow"]
    seeds = "1-4"
    start-step = 6

Keys are the names of the command's options without dashes; paths are relative to where the command
runs, as on the command line.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from masactrl.cli.output import OUTPUT
from masactrl.errors import ConfigError
from masactrl.pictures.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer.core import TyperOption


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Put the file's values where the command looks for what was not given."""
    if path is not None and not context.resilient_parsing:
        context.default_map = {**(context.default_map or {}), **defaults(context, _toml(path))}
    return path


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        callback=_read,
        is_eager=True,
        help="A TOML file with options of this command, such as start-step = 6; an option on the "
        "command line wins over the file.",
        show_default="none",
        rich_help_panel=OUTPUT,
    ),
]


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # also what is no UTF-8
        raise ConfigError(f"{path} is no TOML file: {error}.") from error


def defaults(context: typer.Context, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's values under the names of the command's parameters.

    Raises:
        ConfigError: a key is no option of the command, or its value of another kind.
    """
    parameters: dict[str, Any] = {}
    for one in context.command.params:
        if one.name not in ("config", "help"):
            names = [name.lstrip("-").replace("_", "-") for name in (*one.opts, one.name or "")]
            parameters |= dict.fromkeys(names, one)
    values = {}
    for key, value in job.items():
        parameter = parameters.get(key.replace("_", "-"))
        if parameter is None:
            near = get_close_matches(key.replace("_", "-"), parameters, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            accepted = sorted({max(one.opts, key=len).lstrip("-") for one in parameters.values()})
            raise ConfigError(
                f"The file's key {key!r} is no option of {context.info_name}; {meant}accepted are "
                f"{', '.join(accepted)}."
            )
        values[parameter.name] = _value(key, value, parameter)
    return values


def _value(key: str, value: Any, parameter: TyperOption) -> Any:
    """Return the value as the command line would give it: words, so that they are checked alike."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ConfigError(f"The file's key {key!r} is true or false, not {value!r}.")
        return value
    many = getattr(parameter, "multiple", False) or parameter.nargs == -1
    given = value if many and isinstance(value, list) else [value]
    for one in given:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            kind = "a text or number, or a list of them" if many else "one text or number"
            raise ConfigError(f"The file's key {key!r} is {kind}, not {value!r}.")
    words = [str(one) for one in given]
    return words if many else words[0]
