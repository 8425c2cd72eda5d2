"""Fixed seed: the same noise, another prompt, no control. What every method has to beat.

z_T = z_T^s,     z_{t-1} = Sample(z_t, eps(z_t, P))

z_T, z_T^s    start noise of target and source, the same
P             the target prompt
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.attention.attachment import attach
from masactrl.attention.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["FixedSeed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSeed:
    """No control at all; with it a pipeline computes, to the bit, what it always does."""

    name: ClassVar[str] = "fixed-seed"
    start: ClassVar[None] = None

    @contextmanager
    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> Iterator[Attached]:
        """Watch the runs and leave them alone."""
        del prompts  # no control, so no words to look at
        with attach(pipeline, None, rows=rows, schedule=Schedule.never()) as attached:
            yield attached
