"""Inversions: from a picture to a trajectory through all noise levels, one method a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from masactrl.inversion.ddim import DDIM
from masactrl.inversion.direct import Direct
from masactrl.inversion.edit_friendly import EditFriendly
from masactrl.inversion.fixed_point import FixedPoint
from masactrl.inversion.negative_prompt import NegativePrompt
from masactrl.inversion.null_text import NullText
from masactrl.inversion.task import Inversion, InversionTask
from masactrl.inversion.virtual import Virtual

__all__ = [
    "DDIM",
    "INVERSIONS",
    "Direct",
    "EditFriendly",
    "FixedPoint",
    "Inversion",
    "InversionTask",
    "NegativePrompt",
    "NullText",
    "Virtual",
]

INVERSIONS: Mapping[str, type[Inversion]] = MappingProxyType(
    {
        method.name: method
        for method in (Direct, DDIM, FixedPoint, NegativePrompt, NullText, EditFriendly, Virtual)
    }
)
"""Every method by its name; the default first."""
