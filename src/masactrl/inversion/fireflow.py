"""FireFlow (Deng et al., arXiv 2412.07517): order 2 for one evaluation a step.

The middle of a step is reached with the velocity of the middle before; see
`masactrl.diffusion.flow`. One evaluation more begins the run, in either direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from masactrl.diffusion import FlowRule
from masactrl.inversion.euler import Euler

__all__ = ["FireFlow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FireFlow(Euler):
    """Inversion by the midpoint rule with the velocity of the step before."""

    name: ClassVar[str] = "fireflow"
    rule: ClassVar[FlowRule] = "fireflow"

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch, and one to begin with."""
        return (steps + 1) * branches
