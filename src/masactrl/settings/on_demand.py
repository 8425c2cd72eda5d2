"""Public names of a room, fetched from their modules when they are first used.

A room that imports all of its modules makes everybody pay for all of them: the equations need torch
and nothing else, so a host that has its own networks imports them without diffusers.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["on_demand"]


def on_demand(
    room: str,
    homes: Mapping[str, str],
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a room; ``homes`` says in which module each name is.

    Names of before, the keys of ``renamed``, answer for one release with a warning.
    """

    def fetch(name: str) -> object:
        if name in renamed:
            new = renamed[name]
            warnings.warn(f"{room}.{name} is now {room}.{new}.", DeprecationWarning, stacklevel=2)
            name = new
        try:
            home = homes[name]
        except KeyError:
            raise AttributeError(f"module {room!r} has no attribute {name!r}") from None
        return getattr(import_module(home), name)

    return fetch
