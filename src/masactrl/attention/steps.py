"""Which step a denoiser call belongs to, read from the timestep that reaches the denoiser.

Calls are no measure: Heun and PNDM evaluate a timestep twice, KDPM2 evaluates in-between
timesteps, some guidances call the denoiser twice per step, and a count survives an interrupted
run. A run plans N timesteps, and a call is in step k when the k-th of them is the last one reached
in the scheduler's table. In-between timesteps of ancestral schedulers need not lie in between, so
it is the place in the table that counts and not the size of the number.
A new run is recognised by the scheduler's timestep table, which every `set_timesteps` builds anew,
and, for loops that set it only once, by a timestep that the rest of the table does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from masactrl.errors import ScheduleError

__all__ = ["StepInfo", "StepTracker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
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


class StepTracker:
    """Turns timestep arguments into steps; one per attachment, no state outside.

    `scale` is the number that the pipeline divides timesteps by before the denoiser gets them (1000
    for FLUX); steps have them as the scheduler lists them.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._table: Tensor | None = None
        self._listed: tuple[float, ...] = ()
        self._starts: tuple[int, ...] = ()  # positions in the table at which this run's steps begin
        self._plan: tuple[float, ...] = ()  # their timesteps
        self._position = 0  # of the last call, in the table
        self._previous: float | None = None

    def step_of(self, timestep: Tensor | float, scheduler: object) -> StepInfo:
        """The step of a call with this timestep argument; `scheduler` is the pipeline's.

        Raises `ScheduleError` when a run begins at a timestep that the scheduler does not list.
        """
        now = _number(timestep)
        if self._scale != 1.0:
            now = _unscaled(timestep, scheduler, self._scale)
        table = getattr(scheduler, "timesteps", None)
        # The table object is kept alive here, so an equal identity means the same table.
        new_run = self._previous is None or table is not self._table
        if not new_run and now in self._listed:
            position = self._found(now, scheduler, self._position)
            new_run = position is None
            self._position = self._position if position is None else position
        elif not new_run:
            new_run = self._before(self._previous, now)
        if new_run:
            self._begin(now, table, scheduler)
        self._previous = now
        if now in self._listed:
            reached = sum(start <= self._position for start in self._starts)
        else:  # an evaluation of somebody else's, between two steps
            reached = sum(not self._before(level, now) for level in self._plan)
        return StepInfo(step=reached - 1, timestep=now, timesteps=self._plan, new_run=new_run)

    def _before(self, one: float | None, other: float) -> bool:
        """Whether the timestep `other` is visited before `one`."""
        ascending = self._listed[0] < self._listed[-1]
        return one is not None and (other < one if ascending else other > one)

    def _begin(self, now: float, table: Tensor | None, scheduler: object) -> None:
        listed = [] if table is None else [float(value) for value in table.detach().cpu()]
        if now not in listed:
            raise ScheduleError(
                f"The denoiser was called at timestep {now:g}, which is not in the timestep table "
                "of pipeline.scheduler, so its step is unknown. Call set_timesteps on the "
                "scheduler that the pipeline holds and take the timesteps from it."
            )
        self._table, self._listed = table, tuple(listed)
        self._starts = _starts(listed, scheduler)
        self._position = self._found(now, scheduler, 0) or 0
        # Image-to-image enters the table further down; its first step is still step 0.
        later = (start for start in self._starts if start > self._position)
        self._starts = (self._position, *later)
        self._plan = tuple(listed[start] for start in self._starts)

    def _found(self, now: float, scheduler: object, start: int) -> int | None:
        """The position of a listed timestep at `start` or later in the table, or None.

        Rounded tables (Karras' and exponential noise levels) list a timestep several times in a
        row; which of them is meant only the scheduler knows.
        """
        told = getattr(scheduler, "step_index", None)
        if isinstance(told, int) and 0 <= told < len(self._listed) and self._listed[told] == now:
            told = self._settled(told)
            return told if told >= start else None
        found = (p for p, level in enumerate(self._listed) if level == now)
        return next((p for p in map(self._settled, found) if p >= start), None)

    def _settled(self, position: int) -> int:
        """The step that begins at this timestep, for an evaluation that leads up to it (Heun)."""
        following = next((start for start in self._starts if start >= position), position)
        return following if self._listed[following] == self._listed[position] else position


def _number(timestep: Tensor | float | int) -> float:
    if isinstance(timestep, Tensor):
        return float(timestep.flatten()[0].item())
    return float(timestep)


def _unscaled(timestep: Tensor | float, scheduler: object, scale: float) -> float:
    """The listed timestep of which this one is the part that the denoiser got.

    The pipeline rounds to the latents' type and divides, which in half precision makes neighbours
    equal; which of them is meant only the scheduler knows.
    """
    table = getattr(scheduler, "timesteps", None)
    if isinstance(table, Tensor) and isinstance(timestep, Tensor):
        parts = table.detach().to(device=timestep.device, dtype=timestep.dtype) / scale
        places = (parts == timestep.flatten()[0]).nonzero().flatten().tolist()
        if places:
            told = getattr(scheduler, "step_index", None)
            told = getattr(scheduler, "begin_index", None) if told is None else told
            return float(table[told if told in places else places[0]])
    return _number(timestep) * scale


def _starts(listed: list[float], scheduler: object) -> tuple[int, ...]:
    """The positions in the table at which steps begin, in order.

    Second-order schedulers list two entries per step but the last, the second being an in-between
    evaluation (KDPM2, DPM++ SDE) or the repeated next timestep (Heun). PNDM may begin with steps of
    four evaluations; without them it lists one timestep twice.
    """
    count = getattr(scheduler, "num_inference_steps", None)
    if getattr(scheduler, "order", 1) == 2 and count and len(listed) == 2 * count - 1:
        return tuple(range(0, len(listed), 2))
    if len(listed) == count:
        return tuple(range(len(listed)))
    prk = getattr(scheduler, "prk_timesteps", None)
    opening = 0 if prk is None else len(prk)
    first = dict.fromkeys(listed[opening:])
    return (
        *range(0, opening, 4),
        *(listed.index(level, opening) for level in first),
    )
