"""One declaration a setting: its type stands at the field of a request, all else in a `Setting`.

    steps: Annotated[int | None, Setting(help="Denoising steps.", low=1, high=1000)] = None

From it come the check at the door, the option of the command line, the studio's control, the words
that make a picture again and the table of the reference. None of them knows a setting by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType, ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from masactrl.errors import ConfigError

__all__ = ["OF_MODEL", "Declared", "Setting", "check", "settings_of", "types_of"]

OF_MODEL = "the model's"
"""Shown as the default of what the model's preset decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What there is to say about a setting beside its name, type and default.

    Attributes:
        help: one sentence or two, as `--help`, the studio and the reference say it.
        flag: word of the command line without dashes; None is the field's name. Empty where the
            command line has no word for it.
        argument: whether it is an argument of the command line and no option.
        low, high: least and most that is accepted; None is no bound.
        above: a bound that is itself refused, in place of ``low``.
        multiple: accepted are multiples of it.
        choices: the words that are accepted, where the type is any word.
        accepted: the bounds in words, for errors; empty has them from the numbers.
        usual: the default in words, where None stands for it.
        metavar: what stands for the value in `--help`; empty is its type.
        panel: heading of `--help`; empty is the command's own.
        read: from the words of the command line to the value; None takes the value as it is.
        write: from the value to the words, one for each time the option is given.
        switch: for truth values: the words for yes and no, as `compare/no-compare`.
        letter: a short word of the command line, such as o.
        label: what stands above it on a page; empty is its name in words.
        slide: lowest, highest and step of a slider, where the bounds alone are no good ones.
        always: whether a command that makes a picture again names it also where it is the usual.
    """

    help: str
    flag: str | None = None
    argument: bool = False
    low: float | None = None
    high: float | None = None
    above: float | None = None
    multiple: int = 1
    choices: tuple[str, ...] = ()
    accepted: str = ""
    usual: str = ""
    metavar: str = ""
    panel: str = ""
    read: Callable[[Any], Any] | None = field(default=None, compare=False)
    write: Callable[[Any], tuple[str, ...]] | None = field(default=None, compare=False)
    switch: str = ""
    letter: str = ""
    label: str = ""
    slide: tuple[float, float, float] | None = None
    always: bool = False

    def span(self) -> str:
        """What is accepted, in words: "0 to 1000", "0 and more", "above 0 to 1"."""
        if self.accepted:
            return self.accepted
        first = f"above {self.above:g}" if self.low is None else f"{self.low}"
        text = f"{first} and more" if self.high is None else f"{first} to {self.high}"
        return text + (f" in multiples of {self.multiple}" if self.multiple > 1 else "")

    @property
    def bounded(self) -> bool:
        """Whether there is a bound."""
        return not (self.low is None and self.high is None and self.above is None)

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.multiple == 1 or value % self.multiple == 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A field with its declaration.

    Attributes:
        name: of the field.
        kind: its type, without None.
        optional: whether None is accepted.
        setting: the rest.
        default: the field's; `dataclasses.MISSING` where there is none.
    """

    name: str
    kind: Any
    optional: bool
    setting: Setting
    default: Any

    @property
    def flag(self) -> str:
        """Word of the command line, without dashes."""
        return self.name.replace("_", "-") if self.setting.flag is None else self.setting.flag

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be chosen; nothing where that is open."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else self.setting.choices


def types_of(owner: Any) -> Mapping[str, Any]:
    """Field of a dataclass -> its type with what is annotated, where its names are there at run."""
    return _types_of(owner)


def settings_of(owner: Any) -> Mapping[str, Declared]:
    """Field of a dataclass -> its declaration, of the fields that have one, in their order."""
    return _settings_of(owner)


@cache
def _types_of(owner: Hashable) -> Mapping[str, Any]:
    found = {}
    for name, (said, home) in _annotations(owner).items():
        try:
            found[name] = eval(said, vars(home)) if isinstance(said, str) else said
        except NameError:  # imported for type checkers alone
            continue
    return MappingProxyType(found)


@cache
def _settings_of(owner: Hashable) -> Mapping[str, Declared]:
    found = {}
    defaults = {one.name: one.default for one in fields(owner)}  # type: ignore[arg-type]
    for name, annotated in types_of(owner).items():
        said = [one for one in getattr(annotated, "__metadata__", ()) if isinstance(one, Setting)]
        if said:
            kind, optional = without_none(annotated)
            found[name] = Declared(
                name=name, kind=kind, optional=optional, setting=said[0], default=defaults[name]
            )
    return MappingProxyType(found)


def _annotations(owner: Any) -> dict[str, tuple[Any, ModuleType]]:
    """Field -> what its annotation says, and the module in which that was written."""
    found = {}
    for one in fields(owner):
        homes = [b for b in owner.__mro__ if one.name in vars(b).get("__annotations__", {})]
        found[one.name] = (one.type, sys.modules[(homes or [owner])[0].__module__])
    return found


def without_none(kind: Any) -> tuple[Any, bool]:
    """A type without what is annotated and without None, and whether it had None."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        rest = tuple(one for one in get_args(kind) if one is not NoneType)
        if len(rest) == 1:
            return without_none(rest[0])[0], True
        return Union[rest], NoneType in get_args(kind)  # noqa: UP007
    return kind, False


def check(values: Any, error: type[ConfigError] = ConfigError) -> None:
    """Refuse values of a request that are out of their declared bounds or choices.

    Raises:
        ConfigError: or ``error``; says the value and what is accepted.
    """
    for name, declared in settings_of(type(values)).items():
        value, setting = getattr(values, name), declared.setting
        if value is None:
            continue
        if declared.choices and value not in declared.choices:
            raise error(f"{name}={value!r} was given; accepted are {', '.join(declared.choices)}.")
        if setting.bounded and not setting.holds(value):
            raise error(f"{name}={value} was given; accepted is {setting.span()}.")
