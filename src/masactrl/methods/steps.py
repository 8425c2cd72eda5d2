"""Windows counted as the published rivals count them: steps int(b N) to below int(e N) of N."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masactrl.attention.schedule import Schedule
from masactrl.errors import ConfigError, ScheduleError
from masactrl.settings.checks import number

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FirstSteps", "check_window", "first_steps", "window", "window_steps"]


def window(part: float | tuple[float, float]) -> tuple[float, float]:
    """(begin, end) of a window that is given by its end alone, or by both."""
    return part if isinstance(part, tuple) else (0.0, part)


def check_window(name: str, part: Any) -> float | tuple[float, float]:
    """A window as it is kept: its end, or (begin, end), in [0, 1].

    Raises:
        ConfigError: it is neither.
    """
    given = tuple(part) if isinstance(part, list | tuple) else (0.0, part)
    try:
        begin, end = (number(one) for one in given)
    except (TypeError, ValueError):
        begin, end = -1.0, -1.0
    if not 0.0 <= begin <= end <= 1.0:
        raise ConfigError(
            f"{name}={part!r} was given; accepted is 0 (off) to 1, a part of the run, or "
            "(begin, end) with 0 <= begin <= end <= 1."
        )
    return (begin, end) if isinstance(part, list | tuple) else end


def window_steps(part: tuple[float, float], steps: int, *, more: int = 0) -> frozenset[int]:
    """Steps int(begin * (steps + more)) to below int(end * (steps + more)); none for an empty one.

    Raises `ScheduleError` when a window that is not empty covers no step.
    """
    begin, end = (min(int(one * (steps + more)), steps) for one in part)
    if part[0] < part[1] and begin == end:
        raise ScheduleError(
            f"A part of {part[1] - part[0]:g} of {steps} steps covers no step at all, so nothing "
            "would be controlled. Use more steps or a larger part; 0 switches the control off on "
            "purpose."
        )
    return frozenset(range(begin, end))


def first_steps(part: float, steps: int) -> frozenset[int]:
    """The first int(part * steps) of `steps` steps; none for a part of 0.

    The product is that of the published code, last binary digit included.
    """
    return window_steps((0.0, part), steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps(Schedule):
    """Layers as in `Schedule`; steps are int(begin N) to below int(part N) of N."""

    part: float = 1.0
    begin: float = 0.0

    def resolve_steps(self, timesteps: Sequence[float]) -> frozenset[int]:
        """The controlled steps of a run whose steps have these timesteps, noisiest first."""
        return window_steps((self.begin, self.part), len(timesteps))
