"""A method object in words: the name, options and window by which a request asks for the same."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from masactrl.errors import MasaCtrlError
from masactrl.methods.masactrl import MasaCtrl
from masactrl.methods.registry import METHODS, method_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.attention import AttentionLayer, Window
    from masactrl.methods import Method

__all__ = ["from_start", "options_of"]


def options_of(method: Method) -> dict[str, Any] | None:
    """Return what makes a method the one it is, as values that JSON knows; None if there are none.

    They are none where the method that is made from name and options is another one, and for
    MasaCtrl, whose settings are fields of requests.
    """
    if isinstance(method, MasaCtrl) or METHODS.get(method.name) is not type(method):
        return None
    usual: Any = method_named(method.name)
    found: dict[str, Any] = {}
    try:
        for one in fields(usual):
            value = getattr(method, one.name)
            if value != getattr(usual, one.name):
                found[one.name] = json.loads(json.dumps(value))
        return found if method_named(method.name, **found) == method else None
    except (TypeError, ValueError, RuntimeError, MasaCtrlError):
        return None


def from_start(
    window: Window, steps: int, layers: Sequence[AttentionLayer]
) -> tuple[int, int] | None:
    """Return S and L of a window that is everything from them on; None where it is another one."""
    s, layer = min(window.steps, default=-1), min(window.layers, default=-1)
    whole = window.steps == set(range(s, steps)) and window.layers == set(range(layer, len(layers)))
    return (s, layer) if whole else None
