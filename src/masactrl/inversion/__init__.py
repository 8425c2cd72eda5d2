"""Inversions: from a picture to a trajectory through all noise levels, one method a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from masactrl.diffusion import NoiseKind
from masactrl.inversion.ddim import DDIM
from masactrl.inversion.direct import Direct
from masactrl.inversion.edit_friendly import EditFriendly
from masactrl.inversion.euler import Euler
from masactrl.inversion.fireflow import FireFlow
from masactrl.inversion.fixed_point import FixedPoint
from masactrl.inversion.negative_prompt import NegativePrompt
from masactrl.inversion.null_text import NullText
from masactrl.inversion.one_pass import OnePass
from masactrl.inversion.rf_solver import RFSolver
from masactrl.inversion.task import Inversion, InversionTask
from masactrl.inversion.uni_inv import UniInv
from masactrl.inversion.virtual import Virtual

__all__ = [
    "DDIM",
    "INVERSIONS",
    "Direct",
    "EditFriendly",
    "Euler",
    "FireFlow",
    "FixedPoint",
    "Inversion",
    "InversionTask",
    "NegativePrompt",
    "NullText",
    "OnePass",
    "RFSolver",
    "UniInv",
    "Virtual",
    "inversions_of",
]

INVERSIONS: Mapping[str, type[Inversion]] = MappingProxyType(
    {
        method.name: method
        for method in (
            *(Direct, OnePass, DDIM, FixedPoint, NegativePrompt, NullText, EditFriendly, Virtual),
            *(Euler, RFSolver, FireFlow, UniInv),
        )
    }
)
"""Every method by its name; the default first."""


def inversions_of(kind: NoiseKind) -> tuple[str, ...]:
    """Return the names of those that invert models whose noise levels are of that kind."""
    return tuple(name for name, method in INVERSIONS.items() if kind in method().kinds)
