r"""Euler inversion of a flow: the way down, read backwards, with the velocity at the near end.

    z_i = z_{i+1} + (s_i - s_{i+1}) v(z_{i+1}, s_{i+1})

Going down, Euler's rule asks at the other end, so that both ways differ by an error of order 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.diffusion import NoiseKind, Trajectory, flow_step
from masactrl.inversion.task import Inversion, climb

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.inversion.task import InversionTask

__all__ = ["Euler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Euler(Inversion):
    """Euler inversion of SD3 and FLUX; the source is then walked freely by the same rule."""

    name: ClassVar[str] = "euler"
    kinds: ClassVar[tuple[NoiseKind, ...]] = ("flow",)

    def __call__(self, task: InversionTask) -> Trajectory:
        """Return the trajectory of `task`'s picture."""
        velocity, schedule, rule = task.source(), task.schedule, self.rule
        carried: Tensor | None = None

        def up(z_next: Tensor, level: int) -> Tensor:
            nonlocal carried
            z, carried = flow_step(velocity, z_next, level + 1, level, schedule, rule, carried)
            return z

        return self.trajectory(task, climb(task, up))
