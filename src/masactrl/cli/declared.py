"""The options of a command, made from the settings that requests declare.

    @takes(GenerateRequest, ModelSpec, Output)
    def generate(given: Given, seeds: ...) -> None:
        request = given.build(GenerateRequest)

The function's own parameters stand behind them. Two requests that have a flag in common have one
option, and both get its value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar, get_origin, get_type_hints

import typer

from masactrl.settings.declare import Declared, settings_of

__all__ = ["Given", "Part", "only", "takes", "without"]

Request = TypeVar("Request")
Command = Callable[..., None]


class Given:
    """What was given on the command line, by flag; `build` makes a request of its part.

    Args:
        values: parameter of the command -> value; None is what was not given.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, flag: str) -> Any:
        return self._values[parameter_of(flag)]

    def changed(self, declared: Declared) -> bool:
        """Whether an option was given another value than it has by itself."""
        value = self._values.get(parameter_of(declared.flag))
        return value is not None and value != declared.default

    def values(self, owner: type) -> dict[str, Any]:
        """Field of ``owner`` -> value, of those that were given, or have a default here."""
        found = {}
        for name, declared in settings_of(owner).items():
            value = self._values.get(parameter_of(declared.flag)) if declared.flag else None
            if value is None:
                continue
            read = declared.setting.read
            value = tuple(value) if isinstance(value, list) and read is None else value
            found[name] = value if read is None else read(value)
        return found

    def build(self, owner: type[Request], **own: Any) -> Request:
        """Make a request; ``own`` goes before what was given.

        Raises:
            ConfigError: a value is out of its range.
        """
        return owner(**{**self.values(owner), **own})


@dataclass(frozen=True, slots=True)
class Part:
    """Some settings of a request."""

    owner: type
    names: tuple[str, ...]

    def settings(self) -> Mapping[str, Declared]:
        """Their declarations.

        Raises:
            KeyError: the request has no such setting.
        """
        declared = settings_of(self.owner)
        return {name: declared[name] for name in self.names}


def only(owner: type, *names: str) -> Part:
    """A part of a request, for commands that leave the rest alone."""
    return Part(owner, names)


def without(owner: type, *names: str) -> Part:
    """A request without some of its settings."""
    return Part(owner, tuple(name for name in settings_of(owner) if name not in names))


def takes(*parts: type | Part) -> Callable[[Command], Command]:
    """Give a command the options of these requests; see the head of this file."""

    def decorate(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        own = {
            name: parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "given"
        }
        declared: dict[str, inspect.Parameter] = {}
        for part in parts:
            chosen = part.settings() if isinstance(part, Part) else settings_of(part)
            for one in chosen.values():
                if one.flag and parameter_of(one.flag) not in {**declared, **own}:
                    declared[parameter_of(one.flag)] = _parameter(one)
        declared |= own
        required = [p for p in declared.values() if p.default is inspect.Parameter.empty]
        optional = [p for p in declared.values() if p.default is not inspect.Parameter.empty]

        @wraps(function)
        def command(**values: Any) -> None:
            mine = {name: value for name, value in values.items() if name in own}
            function(given=Given(values), **mine)

        made: Any = command
        made.__signature__ = inspect.Signature(
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*required, *optional)]
        )
        made.__annotations__ = {name: p.annotation for name, p in declared.items()}
        del made.__wrapped__  # typer would read the signature of the function inside
        return command

    return decorate


def parameter_of(flag: str) -> str:
    """The parameter of a command that an option's word belongs to."""
    return {"from": "shown", "json": "as_json"}.get(flag, flag.replace("-", "_"))


def _parameter(declared: Declared) -> inspect.Parameter:
    setting = declared.setting
    several = get_origin(declared.kind) is tuple or setting.read is not None
    kind: Any = list[str] if several else declared.kind
    if setting.choices and not setting.metavar:
        kind = Literal[setting.choices]
    needed = declared.default is MISSING
    default: Any = inspect.Parameter.empty
    shown: Any = True
    if not needed:
        default = None if setting.usual else declared.default
        shown = setting.usual or True
        kind = kind | None if default is None else kind
    told: dict[str, Any] = {"help": setting.help, "show_default": shown}
    if setting.metavar:
        told["metavar"] = setting.metavar
    if setting.argument:
        information: Any = typer.Argument(**told)
    else:
        words = ["/".join(f"--{word}" for word in (setting.switch or declared.flag).split("/"))]
        words = [*(f"-{letter}" for letter in setting.letter), *words]
        information = typer.Option(*words, rich_help_panel=setting.panel or None, **told)
    return inspect.Parameter(
        parameter_of(declared.flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, information],
    )
