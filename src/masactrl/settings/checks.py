"""Numbers at the door: what a frozen dataclass keeps is Python's own, whoever gave it.

Seeds come from numpy arrays, steps from JSON as 20.0, strengths from tensors. Whole values of any
kind become int, other numbers of numpy and torch float; what is no number is refused in a sentence.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any, get_args, get_origin

from masactrl.errors import ConfigError
from masactrl.settings.declare import types_of, without_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["number", "plain", "settle", "switch", "whole"]


def settle(values: Any, error: type[ConfigError] = ConfigError, *, hint: str = "") -> None:
    """Make the numbers of a frozen dataclass Python's own; call it first in ``__post_init__``.

    Fields that are annotated ``int``, ``float``, ``bool``, or a tuple of these, are looked at, also
    with ``| None``; all others are left alone.

    Args:
        values: the instance.
        error: what is raised.
        hint: a sentence that is added to what is said of wrong values.

    Raises:
        ConfigError: or ``error``; a value is of another kind.
    """
    for name, annotated in types_of(type(values)).items():
        kind, optional = without_none(annotated)
        value = getattr(values, name)
        several = get_origin(kind) is tuple
        single = get_args(kind)[0] if several else kind
        if (value is None and optional) or single not in _KINDS:
            continue
        if several and (isinstance(value, str) or not hasattr(value, "__iter__")):
            raise error(f"{name}={value!r} was given; several numbers are needed.")
        make, accepted = _KINDS[single]
        try:
            settled = tuple(map(make, value)) if several else make(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            said = f"{name}={value!r} was given; accepted are {accepted}. {hint}"
            raise error(said.strip()) from None
        object.__setattr__(values, name, settled)


def whole(value: Any) -> int:
    """Return a whole number as int: 7, 7.0, numpy.int64(7), a tensor without dimensions.

    Raises:
        TypeError: it is none; True and False are none.
    """
    made = _plain(value)
    if isinstance(made, float) and made.is_integer():
        return int(made)
    if isinstance(made, int):
        return made
    raise TypeError(f"{value!r} is no whole number.")


def number(value: Any) -> float:
    """Return a finite number as float, or as the int that it was.

    Raises:
        TypeError: it is none, NaN or infinite.
    """
    made = _plain(value)
    if isinstance(made, int) or (isinstance(made, float) and math.isfinite(made)):
        return made
    raise TypeError(f"{value!r} is no finite number.")


def switch(value: Any) -> bool:
    """Return True or False, also those of numpy.

    Raises:
        TypeError: it is neither.
    """
    made = plain(value)
    if isinstance(made, bool):
        return made
    raise TypeError(f"{value!r} is neither True nor False.")


def plain(value: Any) -> Any:
    """Return an option's value with Python's own numbers, also inside of tuples and lists."""
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value.item() if getattr(value, "shape", None) == () else value


_KINDS: Mapping[type, tuple[Callable[[Any], Any], str]] = {
    int: (whole, "whole numbers"),
    float: (number, "finite numbers"),
    bool: (switch, "True and False"),
}


def _plain(value: Any) -> int | float | None:
    """A number as int or float; None for what is no number, or a truth value."""
    made = plain(value)
    if isinstance(made, bool):
        return None
    if isinstance(made, numbers.Integral):
        return int(made)
    return float(made) if isinstance(made, numbers.Real) else None
