r"""Uni-Inv (UniEdit-Flow, Jiao et al., arXiv 2504.13109): the step down is inverted, not repeated.

    z~  = z_{i+1} + (s_i - s_{i+1}) v_{i+1}        predictor, with the velocity of the step before
    v_i = v(z~, s_i)                               at the noisy end, where Euler's step down asks
    z_i = z_{i+1} + (s_i - s_{i+1}) v_i            corrector

One evaluation a step, and one to begin with. Where the prediction is right, so is the inverse of
Euler's step: the source comes back with an error of order 2 though it is walked by Euler's rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.diffusion import NoiseKind, Trajectory
from masactrl.inversion.task import Inversion, climb

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["UniInv", "corrected_up"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniInv(Inversion):
    """Inversion of Euler's steps by predictor and corrector; the source is then walked freely."""

    name: ClassVar[str] = "uni-inv"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("flow",)

    def passes(self, steps: int, branches: int) -> int:
        """One row per step and branch, and one to begin with."""
        return (steps + 1) * branches

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        return self.trajectory(task, climb(task, corrected_up(task)))


def corrected_up(task: InversionTask, *, known: bool = True) -> Callable[[Tensor, int], Tensor]:
    """Return the step up of the head of this file, for `climb`; it keeps the last velocity.

    Args:
        task: whose picture.
        known: whether the first prediction is made with a velocity, which takes one evaluation;
            else with none, as the authors' code has it for a choice.
    """
    velocity, sigma = task.source(), task.schedule.sigma
    v: Tensor | None = None

    def up(z_next: Tensor, level: int) -> Tensor:
        nonlocal v
        gap = sigma[level] - sigma[level + 1]
        if v is None and known:
            v = velocity(z_next, level + 1)
        v = velocity(z_next if v is None else z_next + gap * v, level)
        return z_next + gap * v

    return up
