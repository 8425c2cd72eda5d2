r"""RF-Edit's sharing of values (RF-Solver, Wang et al., arXiv 2411.04746), on FLUX and SD3.

    A(Q, K, V^s)      in the last single blocks, for the first int(part N) of N steps

A target keeps its queries and keys and reads the values of its source: what stands where its own
attention looks is taken from the source. The authors share all values of FLUX's single blocks from
the middle on, text tokens included, in the first steps of an edit; of SD3, which has no single
blocks, it is here the picture's values of the later half of the blocks. They record the values at
inversion; here the source runs beside the target.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.errors import ConfigError
from masactrl.methods.exchange import exchanged, joint_layers, later_half
from masactrl.methods.method import check_pairs
from masactrl.methods.steps import first_steps
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["RFEdit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RFEdit:
    """RF-Edit.

    Attributes:
        part: of the run in which values are shared, above 0 to 1; the authors take 1 to 5 of 25
            steps.
        layers: numbers of the layers; None is the later half, see the head of this file.

    Raises:
        ConfigError: a value is out of its range.
    """

    part: float = 0.2
    layers: tuple[int, ...] | None = None
    name: ClassVar[str] = "rf-edit"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.part <= 1.0:
            raise ConfigError(f"part={self.part} was given; accepted is above 0 to 1.")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Attached]:
        """Share values inside the `with` block."""
        del prompts  # the method looks at pictures, not at words
        check_pairs(self.name, rows)
        return exchanged(
            pipeline,
            rows,
            ("to_v",),
            layers=later_half(joint_layers(pipeline, self.name), self.layers),
            # At least the first: the authors share in one step of a short run.
            steps=lambda timesteps: first_steps(max(self.part, 1 / len(timesteps)), len(timesteps)),
            text=True,
        )
