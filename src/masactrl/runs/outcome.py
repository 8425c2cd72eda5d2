"""What one run of an edit leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a run leaves.

    Attributes:
        source: final latents of the source (1, c, h, w).
        controlled: of the targets (targets, c, h, w).
        uncontrolled: of the targets without control, or None.
        masks: pictures of the source's and every target's mask, or None.
        passes: rows that went through the U-Net.
        seconds: that it took.
    """

    source: Tensor
    controlled: Tensor
    uncontrolled: Tensor | None
    masks: tuple[Image.Image, ...] | None
    passes: int
    seconds: float

    def latents(self) -> dict[str, Tensor]:
        """Return the final latents (c, h, w) by the name of their picture, float32 on the CPU."""
        rows = {"reconstruction": self.source[0]}
        for kind, made in (("controlled", self.controlled), ("uncontrolled", self.uncontrolled)):
            each = () if made is None else made
            rows |= {f"target{number}-{kind}": one for number, one in enumerate(each, start=1)}
        return {name: one.float().cpu() for name, one in rows.items()}
