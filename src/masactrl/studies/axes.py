"""The axes of a sweep, and the few signs they are written in.

    start-step=2-8(+2)        from 2 to 8 in steps of 2: 2, 4, 6, 8
    start-layer=8,10,12       these
    start-step=0-2,10         both: 0, 1, 2, 10

The order in which they are written is that of the figure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from masactrl.errors import ConfigError
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AXES", "MOST_CELLS", "Axes", "parse_axes", "parse_values"]

AXES = ("start-step", "start-layer")
"""What can be swept: S and L."""

MOST_CELLS = 400
"""More than a figure can show; a slip of the pen like 1-8000 is caught."""

_EXAMPLE = "write values like 8,10,12 or 2-8(+2)"
_PART = re.compile(r"(\d+)(?:-(\d+)(?:\(\+(\d+)\))?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What is tried; an axis that is empty is left to the request or the model.

    Attributes:
        start_steps: values of S, each once, 0 and more.
        start_layers: values of L, each once, 0 and more.

    Raises:
        ConfigError: a value is negative or there twice, or there are too many cells.
    """

    start_steps: tuple[int, ...] = ()
    start_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        for name, values in (("start-step", self.start_steps), ("start-layer", self.start_layers)):
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ConfigError(f"{name} has the value {twice[0]} twice; give each once.")
            if any(value < 0 for value in values):
                raise ConfigError(f"{name} has the value {min(values)}; accepted is 0 and more.")
        if len(self.cells()) > MOST_CELLS:
            raise ConfigError(
                f"The axes make {len(self.cells())} cells; accepted are up to {MOST_CELLS}. Take "
                "larger steps, like 0-40(+10)."
            )

    def filled(self, start_step: int, start_layer: int) -> Axes:
        """Return the axes with these values where an axis is empty."""
        return Axes(
            start_steps=self.start_steps or (start_step,),
            start_layers=self.start_layers or (start_layer,),
        )

    def cells(self) -> tuple[tuple[int, int], ...]:
        """Return every (S, L), row by row."""
        return tuple((step, layer) for step in self.start_steps for layer in self.start_layers)


def parse_axes(words: Sequence[str]) -> Axes:
    """Return the axes that words like `start-step=2-8(+2)` name.

    Raises:
        ConfigError: there is none, or a word is not written like that, names no axis, or one that
            is there already.
    """
    if not words:
        raise ConfigError(
            "A sweep needs an axis, for example start-step=2-8(+2) or start-layer=8,10,12."
        )
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, sign, values = word.partition("=")
        name = name.strip().replace("_", "-")
        if not sign or name not in AXES:
            near = get_close_matches(name, AXES, n=1)
            meant = f"did you mean {near[0]}? " if sign and near else ""
            raise ConfigError(
                f"{word!r} is no axis; {meant}accepted are {' and '.join(AXES)}, for example "
                "start-step=2-8(+2) start-layer=8,10,12."
            )
        if name in found:
            raise ConfigError(f"{name} is given twice; {_EXAMPLE} in one.")
        found[name] = parse_values(name, values)
    return Axes(start_steps=found.get("start-step", ()), start_layers=found.get("start-layer", ()))


def parse_values(name: str, text: str) -> tuple[int, ...]:
    """Return the values of one axis, in the order in which they are written.

    Raises:
        ConfigError: they are not written as the head of this file shows, or are too many.
    """
    values: list[int] = []
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(f"{name}={text} has a part {part!r} that is no value; {_EXAMPLE}.")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        step = 1 if match[3] is None else int(match[3])
        if last < first:
            raise ConfigError(f"{name}={text} ends at {last} before it begins at {first}.")
        if step == 0:
            raise ConfigError(f"{name}={text} has steps of 0; {_EXAMPLE}.")
        if (last - first) // step + len(values) >= MOST_CELLS:
            raise ConfigError(f"{name}={text} are more than {MOST_CELLS} values; {_EXAMPLE}.")
        values += range(first, last + 1, step)
    return tuple(values)
