"""RF-Solver (Wang et al., arXiv 2411.04746): the flow inverted and walked by a rule of order 2.

The velocity is expanded to first order in time, its derivative taken from the middle of the step;
see `masactrl.diffusion.flow`. Two evaluations a step, on the way up and on the way down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from masactrl.diffusion import FlowRule
from masactrl.inversion.euler import Euler

__all__ = ["RFSolver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RFSolver(Euler):
    """Inversion by the midpoint rule."""

    name: ClassVar[str] = "rf-solver"
    rule: ClassVar[FlowRule] = "midpoint"

    def passes(self, steps: int, branches: int) -> int:
        """Two rows per step and branch."""
        return 2 * steps * branches
