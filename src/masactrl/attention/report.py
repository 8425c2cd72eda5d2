"""What a control really did: which steps and layers of which run, with which masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masactrl.errors import ControlNotApplied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Attached", "RunReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One run of the pipeline while a control was attached.

    `timesteps` are the planned steps' timesteps, `reached` the number of steps really begun,
    `touched` the (step, layer) pairs that were controlled. `masks` maps such a pair to the
    foreground masks (images, grid height, grid width), booleans, that this layer used, and `maps`
    to the soft maps in [0, 1] they were cut from (automatic masks only); recorded sources follow
    the images of the run.
    """

    timesteps: tuple[float, ...]
    reached: int
    touched: frozenset[tuple[int, int]]
    masks: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    maps: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the last planned step was reached."""
        return self.reached == len(self.timesteps)

    @property
    def steps(self) -> tuple[int, ...]:
        """The controlled steps."""
        return tuple(sorted({step for step, _ in self.touched}))

    @property
    def layers(self) -> tuple[int, ...]:
        """The controlled layers."""
        return tuple(sorted({layer for _, layer in self.touched}))


class Attached:
    """Handle of an attached control; `runs` grows with every pipeline call."""

    def __init__(self) -> None:
        self._runs: list[RunReport] = []
        self._current: RunReport | None = None

    @property
    def runs(self) -> tuple[RunReport, ...]:
        """All runs seen so far, the latest last."""
        current = () if self._current is None else (self._current,)
        return (*self._runs, *current)

    @property
    def report(self) -> RunReport:
        """The latest run; `ControlNotApplied` when the pipeline has not run yet."""
        if not self.runs:
            raise ControlNotApplied(
                "The pipeline has not run since the control was attached, so there is no report. "
                "Call the pipeline inside the with block first."
            )
        return self.runs[-1]

    @property
    def touched(self) -> frozenset[tuple[int, int]]:
        """The (step, layer) pairs controlled in the latest run."""
        return self.report.touched

    def _begin(self) -> None:
        if self._current is not None:
            self._runs.append(self._current)
        self._current = None

    def _update(self, report: RunReport) -> None:
        self._current = report
