r"""ConsistEdit's control of structure (Yin et al., SIGGRAPH Asia 2025), on SD3 and FLUX.

    A([Q_text, Q_image^s], [K_text, K_image^s], V)      for the first int(alpha N) of N steps

A target attends with the queries and keys that the picture's tokens of its source have, to values
of its own: where things are is the source's, what they look like the target's. alpha is the
consistency strength. In SD3 in every block, in FLUX in the single blocks, as in the authors' code.
Their second half, values kept outside a mask that words find, is not here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.errors import ConfigError
from masactrl.methods.exchange import exchanged, joint_layers
from masactrl.methods.method import check_pairs
from masactrl.methods.steps import first_steps
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["ConsistEdit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistEdit:
    """ConsistEdit at one `strength` alpha in (0, 1]; raises `ConfigError` outside that range."""

    strength: float = 0.5
    name: ClassVar[str] = "consistedit"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; accepted is above 0 to 1.")

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Attached]:
        """Exchange queries and keys inside the `with` block."""
        del prompts  # the method looks at pictures, not at words
        check_pairs(self.name, rows)
        layers = joint_layers(pipeline, self.name)
        single = tuple(layer for layer in layers if layer.place == "single")
        return exchanged(
            pipeline,
            rows,
            ("to_q", "to_k"),
            layers=single or layers,
            steps=lambda timesteps: first_steps(self.strength, len(timesteps)),
        )
