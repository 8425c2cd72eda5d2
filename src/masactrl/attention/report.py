"""What a control really did: which steps and layers of which run, with which masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from masactrl.errors import ControlNotApplied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from masactrl.attention.steps import StepInfo

__all__ = ["Attached", "Run", "RunReport", "idle_reason", "not_called"]


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


@dataclass(slots=True, kw_only=True)
class Run:
    """The run in progress: its step, the `steps` to be controlled, and what was done, as above."""

    info: StepInfo
    steps: frozenset[int]
    touched: set[tuple[int, int]] = field(default_factory=set)
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    maps: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def report(self) -> RunReport:
        """What there is to say of it so far."""
        return RunReport(
            timesteps=self.info.timesteps,
            reached=self.info.step + 1,
            touched=frozenset(self.touched),
            masks=dict(self.masks),
            maps=dict(self.maps),
        )


def idle_reason(run: Run | None) -> str | None:
    """Why a control that was meant to act in the latest run has not, or None when it has."""
    if run is None:
        return (
            "The control was attached, but the pipeline's denoiser was never called. Call "
            "this very pipeline inside the with block."
        )
    if run.touched:
        return None
    return (
        f"The run ended at step {run.info.step} of {len(run.info.timesteps)} before the "
        f"first controlled step ({min(run.steps, default=0)}), so nothing was controlled. "
        "Let it run further, or start the control earlier."
    )


def not_called(what: str, step: int) -> ControlNotApplied:
    """The error of a hook that a denoiser call went by."""
    return ControlNotApplied(
        f"{what} was not called at step {step}: the layer was skipped, or another hook displaced "
        "it. Attach after every other change to the pipeline and leave the with block before "
        "undoing them."
    )


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
