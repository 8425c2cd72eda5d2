"""Which step a denoiser call belongs to, read from the timestep that reaches the denoiser.

Counting calls is no clock: Heun and PNDM evaluate a timestep twice, KDPM2 evaluates in-between
timesteps, some guidances call the denoiser twice per step, and a count survives an interrupted
run. A run plans N timesteps, and a call is in step k when the k-th of them is the last one reached.
A new run is recognised by the scheduler's timestep table, which every `set_timesteps` builds anew,
and, for loops that set it only once, by the timestep jumping back against the table's direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from masactrl.errors import ScheduleError

__all__ = ["Clock", "Tick"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The position of one denoiser call: step 0..N-1, its timestep, and whether a run begins.

    `timesteps` are those of the N steps of the run, in the order in which they are visited.
    """

    step: int
    timestep: float
    timesteps: tuple[float, ...]
    new_run: bool

    @property
    def last(self) -> bool:
        """Whether this is the last step that the run plans."""
        return self.step >= len(self.timesteps) - 1


class Clock:
    """Turns timestep arguments into steps; one per attachment, no state outside."""

    def __init__(self) -> None:
        self._table: Tensor | None = None
        self._previous: float | None = None
        self._plan: tuple[float, ...] = ()
        self._sign = 1.0  # -1 where timesteps ascend

    def tick(self, timestep: Tensor | float, scheduler: object) -> Tick:
        """The step of a call with this timestep argument; `scheduler` is the pipeline's.

        Raises `ScheduleError` when a run begins at a timestep that the scheduler does not list.
        """
        now = _number(timestep)
        table = getattr(scheduler, "timesteps", None)
        new_run = self._begins(now, table)
        if new_run:
            self._begin(now, table, scheduler)
        self._previous = now
        reached = sum(self._sign * level >= self._sign * now for level in self._plan)
        return Tick(step=reached - 1, timestep=now, timesteps=self._plan, new_run=new_run)

    def _begins(self, now: float, table: Tensor | None) -> bool:
        # The table object is kept alive here, so an equal identity means the same table.
        if self._previous is None or table is not self._table:
            return True
        return self._sign * now > self._sign * self._previous

    def _begin(self, now: float, table: Tensor | None, scheduler: object) -> None:
        listed = [] if table is None else [float(value) for value in table.detach().cpu()]
        if now not in listed:
            raise ScheduleError(
                f"The denoiser was called at timestep {now:g}, which is not in the timestep table "
                "of pipeline.scheduler, so its step is unknown. Call set_timesteps on the "
                "scheduler that the pipeline holds and take the timesteps from it."
            )
        self._table = table
        self._sign = -1.0 if listed[0] < listed[-1] else 1.0
        levels = _levels(listed, scheduler)
        # Image-to-image enters the table further down; its first step is still step 0.
        below = [level for level in levels if self._sign * level < self._sign * now]
        self._plan = (now, *below)


def _number(timestep: Tensor | float | int) -> float:
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0].item())
    return float(timestep)


def _levels(listed: list[float], scheduler: object) -> list[float]:
    """The timesteps at which steps begin, each once, in order.

    Second-order schedulers list two entries per step but the last, the second being an in-between
    evaluation (KDPM2, DPM++ SDE) or the repeated next timestep (Heun).
    """
    count = getattr(scheduler, "num_inference_steps", None)
    paired = getattr(scheduler, "order", 1) == 2 and count and len(listed) == 2 * count - 1
    return list(dict.fromkeys(listed[::2] if paired else listed))
