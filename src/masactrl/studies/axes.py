"""The axes of a sweep, and the few signs they are written in.

    start-step=2-8(+2)        from 2 to 8 in steps of 2: 2, 4, 6, 8
    start-layer=8,10,12       these
    start-step=0-2,10         both: 0, 1, 2, 10
    cfg=4,7.5  form=replace,union  clip-skip=0-2  seed=1-4

S and L make a grid, in the order in which they are written. Any other setting that is a number, a
choice or yes and no makes a grid for each of its values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.request import GenerateRequest
from masactrl.settings.checks import settle
from masactrl.settings.declare import settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masactrl.settings.declare import Declared

__all__ = ["AXES", "MOST_CELLS", "Axes", "other_axes", "parse_axes", "parse_values"]

AXES = ("start-step", "start-layer")
"""What makes the grid: S and L."""

_NOT_SWEPT = ("method", "mode", "keep", "compare", "target-steps")
"""Who controls, which a comparison shows, and how a run is made rather than what it shows."""

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
        others: flag of another setting -> its values, each once; a grid for each.

    Raises:
        ConfigError: a value is negative or there twice, or there are too many cells.
    """

    start_steps: tuple[int, ...] = ()
    start_layers: tuple[int, ...] = ()
    others: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        grid = (("start-step", self.start_steps), ("start-layer", self.start_layers))
        for name, values in (*grid, *self.others):
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ConfigError(f"{name} has the value {twice[0]} twice; give each once.")
        for name, values in grid:
            if any(value < 0 for value in values):
                raise ConfigError(f"{name} has the value {min(values)}; accepted is 0 and more.")
        cells = max(1, len(self.start_steps)) * max(1, len(self.start_layers)) * len(self.runs())
        if cells > MOST_CELLS:
            raise ConfigError(
                f"The axes make {cells} cells; accepted are up to {MOST_CELLS}. Take "
                "larger steps, like 0-40(+10)."
            )

    def filled(self, start_step: int, start_layer: int) -> Axes:
        """Return the axes with these values where an axis is empty.

        Raises:
            ConfigError: there are other axes, each value of which is a grid of its own.
        """
        if self.others:
            raise ConfigError(
                f"{self.others[0][0]} makes a grid for each of its values; make them one by one, "
                "see masactrl.studies.sweep_grids."
            )
        return Axes(
            start_steps=self.start_steps or (start_step,),
            start_layers=self.start_layers or (start_layer,),
        )

    def cells(self) -> tuple[tuple[int, int], ...]:
        """Return every (S, L), row by row."""
        return tuple((step, layer) for step in self.start_steps for layer in self.start_layers)

    def runs(self) -> tuple[Mapping[str, Any], ...]:
        """Return flag -> value of the other settings for every grid; of none, one without any."""
        names = [name for name, _ in self.others]
        chosen = product(*(values for _, values in self.others))
        return tuple(dict(zip(names, values, strict=True)) for values in chosen)

    @property
    def grid(self) -> Axes:
        """The axes of S and L alone."""
        return Axes(start_steps=self.start_steps, start_layers=self.start_layers)


def other_axes(*requests: type) -> Mapping[str, Declared]:
    """Return flag -> declaration of what else can be swept: numbers, choices, yes and no.

    Args:
        requests: whose settings; none takes those of all runs.
    """
    found: dict[str, Declared] = {}
    for request in requests or (GenerateRequest, InversionRequest, EditRequest):
        for one in settings_of(request).values():
            simple = one.kind in (int, float, bool) or one.choices
            if one.flag and simple and one.flag not in (*AXES, *_NOT_SWEPT):
                found.setdefault(one.flag, one)
    return found


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
    others = other_axes()
    found: dict[str, tuple[Any, ...]] = {}
    for word in words:
        name, sign, values = word.partition("=")
        name = name.strip().replace("_", "-")
        if not sign or name not in (*AXES, *others):
            near = get_close_matches(name, (*AXES, *others), n=1)
            meant = f"did you mean {near[0]}? " if sign and near else ""
            raise ConfigError(
                f"{word!r} is no axis; {meant}accepted are {' and '.join(AXES)}, for example "
                "start-step=2-8(+2) start-layer=8,10,12, and any other setting that is a number or "
                f"a choice: {', '.join(sorted(others))}."
            )
        if name in found:
            raise ConfigError(f"{name} is given twice; {_EXAMPLE} in one.")
        found[name] = _values(name, values, others.get(name))
    steps, layers = (found.pop(name, ()) for name in AXES)
    return Axes(start_steps=steps, start_layers=layers, others=tuple(found.items()))


def _values(name: str, text: str, declared: Declared | None) -> tuple[Any, ...]:
    if declared is None or declared.kind is int:
        return parse_values(name, text)
    words = [word.strip() for word in text.split(",")]
    if declared.choices:
        for word in words:
            if word not in declared.choices:
                raise ConfigError(f"{name}={word} is none of {', '.join(declared.choices)}.")
        return tuple(words)
    known = {"yes": True, "no": False}
    try:
        return tuple(known[word] if declared.kind is bool else float(word) for word in words)
    except (KeyError, ValueError):
        accepted = "yes,no" if declared.kind is bool else "numbers like 4,7.5"
        raise ConfigError(f"{name}={text} has values that are none; write {accepted}.") from None


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
