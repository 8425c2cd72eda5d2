"""Windows counted as the published rivals count them: the first int(f N) of N steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from masactrl.attention.schedule import Schedule
from masactrl.errors import ScheduleError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FirstSteps", "first_steps"]


def first_steps(part: float, steps: int, *, more: int = 0) -> frozenset[int]:
    """The first int(part * (steps + more)) of `steps` steps; none for a part of 0.

    The product is that of the published code, last binary digit included. Raises `ScheduleError`
    when a part above 0 covers no step.
    """
    covered = min(int(part * (steps + more)), steps)
    if part > 0 and covered == 0:
        raise ScheduleError(
            f"A part of {part} of {steps} steps covers no step at all, so nothing would be "
            "controlled. Use more steps or a larger part; 0 switches the control off on purpose."
        )
    return frozenset(range(covered))


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps(Schedule):
    """Layers as in `Schedule`; steps are the first int(part N) of N."""

    part: float = 1.0

    def resolve_steps(self, timesteps: Sequence[float]) -> frozenset[int]:
        """The controlled steps of a run whose steps have these timesteps, noisiest first."""
        return first_steps(self.part, len(timesteps))
